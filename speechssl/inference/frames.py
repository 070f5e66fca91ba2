"""What a model makes of an utterance, frame by frame, and when each frame is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from speechssl.data.audio import SAMPLE_RATE

__all__ = ["Features", "FrameTimes", "LogProbs", "Units"]


@dataclass(frozen=True, kw_only=True)
class FrameTimes:
    """Frames that come `hop_s` after one another, each of which looks at `window_s` of audio."""

    num_frames: int
    hop_s: float
    window_s: float

    @property
    def times_s(self) -> Tensor:
        """(frames,) float64, the middle of each frame, in seconds from the beginning of the utterance."""
        return torch.arange(self.num_frames, dtype=torch.float64) * self.hop_s + self.window_s / 2

    @classmethod
    def of(cls, num_frames: int, *, hop: int, window: int) -> "FrameTimes":
        """Return the times of frames of so many samples at 16 kHz."""
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
        """Return the units with repeats merged, as unit language models and resynthesis read them."""
        return [unit for unit, _ in groupby(self.ids.tolist())]

    def segments(self) -> list[tuple[int, float, float]]:
        """Return each run of one unit with its begin and end in seconds; a frame stands for the hop at its middle."""
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
