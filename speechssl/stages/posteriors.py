"""Log-posteriors of a fine-tuned model for utterances of any length: the input of decoders and aligners."""

import dataclasses
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.config import configuration, was
from speechssl.data.batching import Batch
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError
from speechssl.model.precision import autocast, choose_precision, pack
from speechssl.model.windows import encode_windows
from speechssl.stages.asked_precision import AskedPrecision
from speechssl.tasks.ctc import CTCModel

__all__ = ["PosteriorConfig", "log_posteriors", "read_ahead"]

MAX_PADDING = 0.1  # share of a batch: on CPU padding costs as much as speech


@configuration
class PosteriorConfig:
    """How audio is read and encoded: batches, windows and precision."""

    batch_s: float = 120.0  # seconds of audio in a batch, padding counted
    window_s: float = 60.0  # longer audio is encoded in windows of this length
    overlap_s: float = 8.0  # least overlap of neighbouring windows; each frame comes from the nearer middle
    precision: AskedPrecision = was("bfloat16", "float32")  # of matrix products; auto: the fastest on this processor
    min_sample_rate: int | None = None  # Hz; lower rates are an error; None: as in training
    channels: Literal["mean", "first", "refuse"] | None = None  # of multichannel audio; None: as in training

    def reading(self, trained: AudioConfig) -> AudioConfig:
        """Return how audio is read, given how the model's training audio was."""
        lowest, channels = self.min_sample_rate, self.channels
        return dataclasses.replace(
            trained,
            min_sample_rate=trained.min_sample_rate if lowest is None else lowest,
            channels=channels or trained.channels,
            max_duration_s=math.inf,
        )

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s < self.window_s:
            raise ConfigError(f"expected 0 <= overlap_s < window_s, found {self.overlap_s} and {self.window_s}")


@torch.no_grad()
def log_posteriors(
    model: CTCModel,
    manifest: Manifest,
    audio: AudioConfig,
    config: PosteriorConfig,
    *,
    skipped: list[str] | None = None,
    settings: str | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield each utterance's id and its (frames, vocab) log-probabilities, on the CPU; the longest first.

    Args:
        model: CTC model in evaluation mode.
        manifest: the utterances.
        audio: how the model's audio is read; its longest duration does not matter here.
        config: batches, windows and precision; a model that `pack` prepared stays as it is.
        skipped: extended by the reason for each utterance left out; None raises instead.
        settings: prefix of the settings that errors name: `--` for options of a command.

    Raises:
        AudioError: audio cannot be used, and `skipped` is None.
        ConfigError: the device does not have the precision.
    """
    device = next(model.parameters()).device
    precision = choose_precision(config.precision, device)
    model = pack(model, precision)
    model.encoder.prepare(recompute=False, packed=True, compiled=False)  # padding costs the layers nothing
    encoder = model.encoder.config
    is_long = {row.id: row.num_samples_16k > config.window_s * SAMPLE_RATE for row in manifest.utterances}
    for long in (True, False):
        rows = tuple(row for row in manifest.utterances if is_long[row.id] == long)
        dataset = SpeechDataset(
            dataclasses.replace(manifest, utterances=rows),
            config.reading(audio),
            hop=encoder.hop,
            window=encoder.window,
            skip_bad=skipped is not None,
            settings=settings,
        )
        seconds = 0 if long else config.batch_s  # 0: one at a time
        batches = load_in_order(dataset, seconds=seconds, max_padding=MAX_PADDING)
        for batch in batches if device.type == "cpu" else read_ahead(batches):
            if skipped is not None:
                skipped.extend(batch.skipped)
            if batch.ids and long:
                with autocast(precision, device):
                    log_probs = _in_windows(model, batch.waveforms[0], config)
                yield batch.ids[0], log_probs
            elif batch.ids:
                with autocast(precision, device):
                    logits, counts = model.logits(batch.to(device))
                log_probs = logits.float().log_softmax(-1).cpu()
                for key, row, count in zip(batch.ids, log_probs, counts.tolist(), strict=True):
                    yield key, row[:count]


def read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches, reading the next one in a thread while the device works on this one."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _in_windows(model: CTCModel, waveform: Tensor, config: PosteriorConfig) -> Tensor:
    encoder = model.encoder.config
    per_second = SAMPLE_RATE / encoder.hop
    size, overlap = round(config.window_s * per_second), round(config.overlap_s * per_second)
    last = encoder.transformer.num_layers
    pieces = encode_windows(model.encoder, waveform, (last,), size=size, overlap=overlap)
    return torch.cat([model.head(piece[0]).float().log_softmax(-1).cpu() for piece in pieces])
