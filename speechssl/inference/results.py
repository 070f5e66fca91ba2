"""Results of a model for an utterance, frame by frame, with the time of each frame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.given import Audio, Channels, is_one, list_given
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioSettingError, ConfigError
from speechssl.stages.feature_source import FeatureSource
from speechssl.stages.reading_data import read_waveform

__all__ = ["Features", "FrameTimes", "Heard", "LogProbs", "Units", "as_given", "listed", "waveform_of"]


@dataclass(frozen=True, kw_only=True)
class FrameTimes:
    """Times of frames at intervals of `hop_s`, each with a window of `window_s`."""

    num_frames: int
    hop_s: float
    window_s: float

    @property
    def times_s(self) -> Tensor:
        """(frames,) float64, the middle of each frame, in seconds from the beginning of the utterance."""
        return torch.arange(self.num_frames, dtype=torch.float64) * self.hop_s + self.window_s / 2

    @classmethod
    def of(cls, num_frames: int, *, hop: int, window: int) -> "FrameTimes":
        """Return the times of frames, with hop and window in samples at 16 kHz."""
        return cls(num_frames=num_frames, hop_s=hop / SAMPLE_RATE, window_s=window / SAMPLE_RATE)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Layers of an utterance."""

    values: Tensor = field(repr=False)  # (frames, dim) of one layer, (layers, frames, dim) of several; float32, CPU
    layers: tuple[int, ...]  # counted from 1, in the order of `values`
    frames: FrameTimes

    @property
    def times_s(self) -> Tensor:
        """(frames,) float64, the middle of each frame in seconds."""
        return self.frames.times_s

    def mean(self) -> Tensor:
        """Return the mean over time: (dim,) or (layers, dim)."""
        return self.values.mean(-2)


@dataclass(frozen=True, kw_only=True)
class Units:
    """Hidden units of an utterance."""

    ids: Tensor = field(repr=False)  # (frames,) int64, from 0 to num_units - 1
    num_units: int
    frames: FrameTimes

    @property
    def times_s(self) -> Tensor:
        """(frames,) float64, the middle of each frame in seconds."""
        return self.frames.times_s

    def merged(self) -> list[int]:
        """Return the units with repeats merged, the input of unit language models and resynthesis."""
        return [unit for unit, _ in groupby(self.ids.tolist())]

    def segments(self) -> list[tuple[int, float, float]]:
        """Return each run of equal units with begin and end in seconds; a frame covers the hop at its middle."""
        runs, first = [], 0
        edge = (self.frames.window_s - self.frames.hop_s) / 2
        for unit, run in groupby(self.ids.tolist()):
            last = first + len(list(run))
            runs.append((unit, edge + first * self.frames.hop_s, edge + last * self.frames.hop_s))
            first = last
        return runs


@dataclass(frozen=True, kw_only=True)
class LogProbs:
    """Log-probabilities of a recogniser's tokens for an utterance."""

    values: Tensor = field(repr=False)  # (frames, vocab) float32, CPU; token 0 is the blank
    tokens: Sequence[str] = field(repr=False)  # (vocab,)
    frames: FrameTimes

    @property
    def times_s(self) -> Tensor:
        """(frames,) float64, the middle of each frame in seconds."""
        return self.frames.times_s


Heard = Audio | Iterable[Audio] | Manifest
Result = TypeVar("Result")


def listed(audio: Heard, sample_rate: int | None, channels: Channels | None) -> Manifest:
    """Return a manifest of the given audio.

    Raises:
        AudioError: as `list_given`.
        ConfigError: arrays without a sample rate, or a manifest with one, or with the number of a channel.
    """
    if isinstance(audio, Manifest):
        if sample_rate is not None:
            raise ConfigError(
                "sample_rate is for arrays and tensors; a manifest records its files' rates: leave it out"
            )
        if isinstance(channels, int):
            raise ConfigError("channels: a manifest numbers them in its column `channel`; leave the number out")
        return audio
    return list_given(audio, sample_rate=sample_rate, channels=channels)


def waveform_of(manifest: Manifest, row: Utterance, source: FeatureSource) -> Tensor:
    """Read an utterance; errors name settings as the methods of models do."""
    try:
        return read_waveform(manifest, row, audio=source.audio, window=source.window)
    except AudioSettingError as error:
        raise error.under("") from None


def as_given(audio: Heard, found: list[Result]) -> Result | list[Result]:
    """Return one result for one utterance, a list for several."""
    return found[0] if is_one(audio) else found
