"""Shifted manifests: utterances that are read under noise, in a room, narrow-band, at another level, clipped or faster.

A shift is the same in every pass: what is drawn depends on the seed and the id of the utterance alone, and, for babble
and files, on the sounds to draw from. All levels of a kind share their draws, so that they differ in the level only.
`data.waveform` applies the shift wherever an utterance is read; augmentation of training is `data.augment`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.audio.distortion import (
    at_speed,
    band_limited,
    clipped,
    decay_samples,
    decaying_room,
    exact_ratio,
    in_room,
    noise_scale,
    power,
)
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import configuration
from speechssl.data.batching import seeded_generator
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ConfigError

__all__ = ["UNITS", "ShiftConfig", "Shifted", "parse_shift", "shift_manifest"]

Kind = Literal["noise", "reverb", "band", "gain", "clip", "speed"]
Reader = Callable[[Manifest, Utterance, int, int | None], Tensor]  # reads from a sample on, all or so many samples

UNITS: Mapping[Kind, str] = {
    "noise": "dB SNR",
    "reverb": "s RT60",
    "band": "Hz",
    "gain": "dB",
    "clip": "% clipped",
    "speed": "x speed",
}
_RANGES: Mapping[Kind, tuple[float, float]] = {  # lowest and highest level
    "noise": (-50.0, 100.0),
    "reverb": (0.05, 10.0),
    "band": (100.0, 7900.0),
    "gain": (-90.0, 90.0),
    "clip": (0.0, 90.0),
    "speed": (0.5, 2.0),
}
_WITH_SOUNDS = ("noise", "reverb")  # kinds that take a source
_TALKERS = 6  # voices in babble
_TRIED = 200  # utterances looked at for voices of other speakers
_MANY = 10_000  # utterances; of more than these, some are drawn one by one instead of ordering all
_SYNTAX = "noise:SNR_dB[:white|babble|FILE], reverb:RT60_s, reverb:FILE, band:HZ, gain:dB, clip:PERCENT, speed:FACTOR"


@configuration
class ShiftConfig:
    """A kind of shift and its level."""

    kind: Kind
    level: float | None = None  # in the unit of the kind; None for measured rooms, whose reverberation is their own
    source: str | None = None  # noise: white, babble, or a list of audio or a file; reverb: one of impulse responses
    seed: int = 0  # seed of noise, voices and rooms

    def __post_init__(self) -> None:
        if self.source is not None and self.kind not in _WITH_SOUNDS:
            raise ConfigError(f"shift {self}: {self.kind} takes a level and nothing else; leave {self.source!r} out")
        if self.level is None:
            if self.kind != "reverb" or self.source is None:
                raise ConfigError(f"shift {self.kind}: expected a level in {UNITS[self.kind]}; one of {_SYNTAX}")
            return
        if self.kind == "reverb" and self.source is not None:
            raise ConfigError(
                f"shift {self}: measured responses have a reverberation time of their own; write reverb:{self.source}"
            )
        low, high = _RANGES[self.kind]
        if not low <= self.level <= high:
            raise ConfigError(
                f"shift {self}: expected a level from {low:g} to {high:g} {UNITS[self.kind]}, found {self.level:g}"
            )
        if self.kind == "speed" and abs(exact_ratio(self.level) - self.level) > 1e-9:
            raise ConfigError(f"shift {self}: expected a speed in hundredths, such as 0.9, found {self.level:g}")

    def __str__(self) -> str:
        """Return the shift as `parse_shift` reads it."""
        parts = [self.kind, *([] if self.level is None else [f"{self.level:.10g}"])]
        return ":".join([*parts, *([] if self.source is None else [self.source])])

    @property
    def curve(self) -> str:
        """Name of the curve that its levels belong to: the kind, and the source if it was named."""
        return self.kind if self.source is None or self.level is None else f"{self.kind}:{self.source}"


@dataclass(frozen=True, kw_only=True)
class Shifted(Manifest):
    """A manifest whose utterances are read under a shift; lengths are those after it."""

    original: Manifest
    recorded: Mapping[str, Utterance]  # original by id, where the shift changes lengths; empty otherwise
    shift: ShiftConfig
    sounds: Manifest | None = None  # noise, or impulse responses, from files

    def waveform(self, row: Utterance, read: Reader) -> Tensor:
        """Return one utterance under the shift: (time,) float32 at 16 kHz, not limited to full scale.

        Args:
            row: the utterance.
            read: reads utterances of other manifests at 16 kHz, not normalised.

        Raises:
            AudioError: the audio cannot be read, or is silent, so that no signal-to-noise ratio is defined.
        """
        clean = read(self.original, self.recorded.get(row.id, row), 0, None)
        samples, shift = clean.numpy(), self.shift
        level = 0.0 if shift.level is None else shift.level
        match shift.kind:
            case "noise":
                return torch.from_numpy(self._noisy(row, samples, level, read))
            case "reverb":
                return torch.from_numpy(in_room(samples, self._response(row, read)))
            case "band":
                return torch.from_numpy(band_limited(samples, level))
            case "gain":
                return clean * 10 ** (level / 20)
            case "clip":
                return torch.from_numpy(clipped(samples, level))
            case "speed":
                return at_speed(clean, exact_ratio(level))

    def described(self) -> dict[str, object]:
        """Return what identifies the shift, and how many utterances had their noise repeated: for records."""
        shift = self.shift
        return {"shift": str(shift), "shift_seed": shift.seed, "looped_noise": len(self.looped())}

    def notes(self) -> list[str]:
        """Say how many utterances are longer than the noise drawn for them."""
        looped = self.looped()
        named = ", ".join(looped[:3]) + (", ..." if len(looped) > 3 else "")
        return [f"{self.shift}: noise shorter than the speech repeats: {len(looped)} utterances: {named}"] * bool(
            looped
        )

    def looped(self) -> list[str]:
        """Return the ids of the utterances that are longer than a sound drawn for them, which is then repeated."""
        if self.shift.kind != "noise" or self.shift.source in (None, "white"):
            return []
        return [
            row.id
            for row in self.utterances
            if any(sound.num_samples_16k < row.num_samples_16k for _, sound, _ in self._drawn(row))
        ]

    def _noisy(self, row: Utterance, samples: NDArray[np.float32], snr_db: float, read: Reader) -> NDArray[np.float32]:
        if not power(samples) > 0:
            raise AudioError(f"{self.original.place(row)}: silent, so that it has no signal-to-noise ratio; remove it")
        if self.shift.source in (None, "white"):
            noise = torch.randn(len(samples), generator=self._generator(row, "white")).numpy()
        else:
            noise = np.zeros(len(samples), np.float32)
            for manifest, sound, offset in self._drawn(row):
                spare = sound.num_samples_16k - len(samples)
                if spare > 0:
                    voice = read(manifest, sound, int(offset * spare), len(samples)).numpy()
                else:
                    voice = read(manifest, sound, 0, None).numpy()
                    voice = np.roll(voice, -int(offset * len(voice)))
                voice = np.resize(voice, len(samples))
                noise += voice / np.sqrt(max(power(voice), np.float32(1e-20)))
        if not power(noise) > 0:
            raise AudioError(
                f"{row.id}: the noise drawn for it is silent; remove silent files from {self.shift.source}"
            )
        noise *= noise_scale(samples, noise, snr_db)
        noise += samples
        return noise

    def _response(self, row: Utterance, read: Reader) -> NDArray[np.float32]:
        if self.sounds is not None:
            ((manifest, sound, _),) = self._drawn(row)
            response = read(manifest, sound, 0, None).numpy()
            if not response.any():
                raise AudioError(f"{manifest.place(sound)}: a silent impulse response; remove it")
            return response
        assert self.shift.level is not None
        count = decay_samples(self.shift.level)
        signs = torch.randint(2, (count,), generator=self._generator(row, "room")).numpy() * 2 - 1
        return decaying_room(self.shift.level, signs)

    def _drawn(self, row: Utterance) -> list[tuple[Manifest, Utterance, float]]:
        """Draw the sounds for an utterance: one file, or the voices of babble; each with its start, as a share."""
        generator = self._generator(row, "sounds")
        manifest, wanted = (self.original, _TALKERS) if self.sounds is None else (self.sounds, 1)
        count = len(manifest.utterances)
        drawn = (
            torch.randint(count, (_TRIED,), generator=generator)
            if count > _MANY
            else torch.randperm(count, generator=generator)[:_TRIED]
        )
        sounds = [manifest.utterances[place] for place in dict.fromkeys(drawn.tolist())]
        if self.sounds is None:
            sounds = [each for each in sounds if each.id != row.id]
            sounds.sort(key=lambda each: row.speaker is not None and each.speaker == row.speaker)  # stable
        offsets = torch.rand(wanted, generator=generator).tolist()
        return [(manifest, sound, offset) for sound, offset in zip(sounds, offsets, strict=False)]

    def _generator(self, row: Utterance, what: str) -> torch.Generator:
        return seeded_generator(self.shift.seed, "shift", what, row.id)


def parse_shift(text: str, *, seed: int = 0) -> ShiftConfig:
    """Read KIND:LEVEL, or KIND:LEVEL:SOURCE.

    Raises:
        ConfigError: the kind is unknown, the level is missing, no number or out of range.

    Examples:
        >>> str(parse_shift("noise:10")), str(parse_shift("noise:-5:babble")), str(parse_shift("reverb:rooms.tsv"))
        ('noise:10', 'noise:-5:babble', 'reverb:rooms.tsv')
    """
    name, _, rest = text.partition(":")
    kind: Kind | None = next((each for each in get_args(Kind) if each == name), None)
    if kind is None or not rest:
        raise ConfigError(f"shift {text!r}: expected one of {_SYNTAX}")
    stated, _, source = rest.partition(":")
    try:
        level = float(stated)
    except ValueError:
        if kind == "reverb":
            return ShiftConfig(kind=kind, source=rest, seed=seed)
        raise ConfigError(f"shift {text!r}: expected a number in {UNITS[kind]}, found {stated!r}; {_SYNTAX}") from None
    return ShiftConfig(kind=kind, level=level, source=source or None, seed=seed)


def shift_manifest(
    manifest: Manifest, shift: ShiftConfig, *, read: Callable[[Path], Manifest] = read_manifest
) -> Shifted:
    """Return the manifest under a shift.

    Args:
        manifest: the utterances; babble is made of them, too.
        shift: kind and level.
        read: reads the list of noise or impulse responses.

    Raises:
        ConfigError: the manifest is shifted already, or there is no second utterance for babble.
        ManifestError: the list of sounds cannot be read.
    """
    if isinstance(manifest, Shifted):
        raise ConfigError(f"shift {shift}: the audio is read under {manifest.shift} already; leave one of them out")
    if shift.source == "babble" and len(manifest.utterances) < 2:
        raise ConfigError(f"shift {shift}: babble is made of the other utterances, and there is only one; name noise")
    is_named = shift.source is not None and shift.source not in ("white", "babble")
    sounds = read(Path(str(shift.source))) if is_named else None
    if sounds is not None and not len(sounds.utterances):
        raise ConfigError(f"shift {shift}: {shift.source} lists no audio; name a list that does")
    rows: Sequence[Utterance] = manifest.utterances
    recorded: dict[str, Utterance] = {}
    if shift.kind == "speed" and shift.level is not None:
        recorded = {row.id: row for row in rows}
        rows = tuple(_at_speed(row, shift.level) for row in rows)
    return Shifted(
        root=manifest.root, utterances=rows, original=manifest, recorded=recorded, shift=shift, sounds=sounds
    )


def _at_speed(row: Utterance, speed: float) -> Utterance:
    """Return an utterance with its length and place at another speed, counted at 16 kHz."""
    ratio = exact_ratio(speed)
    return dataclasses.replace(
        row,
        num_samples=-(-row.num_samples_16k * ratio.denominator // ratio.numerator),
        start=row.start * SAMPLE_RATE // row.sample_rate,
        file_samples=None,
        sample_rate=SAMPLE_RATE,
    )
