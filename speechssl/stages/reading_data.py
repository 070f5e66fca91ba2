"""The data section of every stage's configuration, and the functions that read it."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.config import added, configuration
from speechssl.corpus.named import read_each, read_named
from speechssl.data.dataset import read_utterance
from speechssl.data.loading import Loader
from speechssl.data.shifted import Shifted, parse_shift, shift_manifest
from speechssl.data.utterances import Joined, Manifest, Rows, Utterance
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.train.runlog import progress_bar

__all__ = [
    "DataConfig",
    "like_training",
    "read_data",
    "read_waveform",
    "read_waveforms",
    "tell_left_out",
    "under_shift",
]


@configuration
class DataConfig:
    """Which utterances to read, and what to do about audio that is not as expected."""

    manifests: tuple[Path, ...]  # or audio files, folders of them, tables: see `corpus.named`
    root: Path | None = None  # root folder of the audio; None: the folder of each manifest
    audio: AudioConfig = AudioConfig()
    bad_audio: Literal["stop", "skip"] = "stop"  # skip: count and report each bad file, and continue
    max_bad_share: float = 0.05  # training stops if more of the last one to two thousand utterances are bad
    loader: Loader = "auto"  # reader in training; auto: fairseq2 for wav where it is installed; same batches
    shift: str | None = added(None)  # read all audio under KIND:LEVEL, such as noise:10 (docs/how_to/shift.md)
    shift_seed: int = added(0)  # seed of the shift's noise, voices and rooms

    def __post_init__(self) -> None:
        if self.shift is not None:
            parse_shift(self.shift)
        if not 0 <= self.max_bad_share <= 1:
            raise ConfigError(f"max_bad_share of data must lie between 0 and 1, found {self.max_bad_share}")


def read_data(config: DataConfig, *, section: str = "data") -> Manifest:
    """Read the manifests, or whatever lists utterances in their place, and join them.

    Args:
        config: the data section.
        section: name of that section in the recipe, for errors.

    Raises:
        ManifestError: no manifest is named, one cannot be read, or two hold the same utterance id.
        ConfigError: the shift cannot be applied to them.
    """
    if not config.manifests:
        raise ManifestError(f"{section}.manifests is empty; name at least one manifest")
    manifests = read_each(config.manifests, root=config.root)
    if len(manifests) == 1:
        manifest = manifests[0]
    else:
        joined = Joined(manifests, [str(path) for path in config.manifests])
        is_long = any(isinstance(manifest.utterances, Rows) for manifest in manifests)
        manifest = Manifest(root=Path("/"), utterances=joined if is_long else tuple(joined))
    return manifest if config.shift is None else under_shift(manifest, config.shift, seed=config.shift_seed)


def under_shift(manifest: Manifest, shift: str, *, seed: int = 0) -> Shifted:
    """Return a manifest whose audio is read under a shift, wherever it is read; noise may be anything with a name.

    Args:
        manifest: the utterances.
        shift: KIND:LEVEL, or KIND:LEVEL:SOURCE.
        seed: seed of the draws.

    Raises:
        ConfigError: the shift is not known, or out of range.
        ManifestError: the source of noise or impulse responses cannot be read.
    """
    return shift_manifest(manifest, parse_shift(shift, seed=seed), read=read_named)


def like_training(config: DataConfig, trained: AudioConfig, *, where: str, section: str = "data") -> DataConfig:
    """Set whether waveforms are normalised to what the model was trained on.

    Args:
        config: the data section of the recipe.
        trained: how the model's training audio was read.
        where: origin of the model, for errors.
        section: name of the data section in the recipe, for errors.

    Raises:
        ConfigError: the recipe asks for the opposite.
    """
    is_normalized = bool(trained.normalize)
    if config.audio.normalize not in (None, is_normalized):
        raise ConfigError(
            f"{section}.audio.normalize={str(config.audio.normalize).lower()}, but {where} was trained with "
            f"{str(is_normalized).lower()}, and would not recognise its input; leave the key out"
        )
    return dataclasses.replace(config, audio=dataclasses.replace(config.audio, normalize=is_normalized))


def read_waveforms(
    config: DataConfig,
    manifest: Manifest,
    rows: Sequence[Utterance],
    *,
    audio: AudioConfig,
    window: int,
    title: str,
    left_out: dict[str, str] | None = None,
) -> Iterator[tuple[Utterance, Tensor]]:
    """Yield utterances with their (time,) waveforms, behind a progress bar.

    Args:
        config: says whether bad audio stops the run or is reported and skipped.
        manifest: manifest of the rows.
        rows: utterances to read, in this order.
        audio: how audio is read.
        window: samples in the window of one feature frame; shorter audio is bad.
        title: title of the progress bar.
        left_out: filled with the ids of skipped utterances and the reasons.

    Raises:
        AudioError: a file cannot be used, and `bad_audio` says to stop.
    """
    with progress_bar(title, len(rows)) as (bar, task):
        for row in bar.track(rows, task_id=task):
            try:
                waveform = read_waveform(manifest, row, audio=audio, window=window)
            except AudioError as error:
                error = error.under("data.audio.")
                if config.bad_audio == "stop":
                    raise error from None
                bar.console.print(f"skipped: {error}", highlight=False, soft_wrap=True)
                if left_out is not None:
                    left_out[row.id] = str(error)
                continue
            yield row, waveform


def read_waveform(manifest: Manifest, row: Utterance, *, audio: AudioConfig, window: int) -> Tensor:
    """Read one utterance whole: (time,) float32 at 16 kHz.

    Raises:
        AudioError: the audio cannot be used, or is shorter than the `window` samples of one feature frame.
    """
    waveform = read_utterance(manifest, row, audio)
    if len(waveform) < window:
        raise AudioError(
            f"{manifest.place(row)}: {len(waveform)} samples at {SAMPLE_RATE} Hz, expected at least "
            f"{window} (one feature frame); remove the utterance"
        )
    return waveform


def tell_left_out(utterances: Sequence[str], reason: str) -> None:
    """Print to standard error how many utterances are not used, and the first three of them."""
    if utterances:
        named = ", ".join(utterances[:3]) + (", ..." if len(utterances) > 3 else "")
        print(f"left out, {reason}: {len(utterances)} utterances: {named}", file=sys.stderr)
