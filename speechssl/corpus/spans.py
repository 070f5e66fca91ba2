"""Decides where to cut a recording, from the speech probability of each frame.

Frames form stretches of speech, which dynamic programming joins to utterances within the wanted lengths. It minimises
the silence kept plus the speech lost, where a second of speech counts as two of silence. Speech itself is cut only if
it lasts longer than an utterance may, at its quietest place.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import configuration
from speechssl.corpus.activity import FRAME, Activity
from speechssl.errors import ConfigError

__all__ = ["SegmentConfig", "Span", "spans"]

_ON, _OFF = 0.5, 0.15  # probability at which speech begins, and below which it ends
_SPEECH_WEIGHT = 2.0  # seconds of silence that cost as much as a second of lost speech
_SMOOTH = 5  # frames over which levels are averaged to find the quietest place


@configuration
class SegmentConfig:
    """Lengths and pauses for cutting recordings."""

    min_s: float = 2.0  # shortest utterance; shorter speech between pauses is left out
    max_s: float = 15.0  # longest utterance; recordings no longer than this are not cut
    pause_s: float = 0.5  # longer pauses always separate utterances that are long enough; shorter ones only if needed
    min_pause_s: float = 0.2  # shorter pauses never separate utterances
    pad_s: float = 0.2  # silence kept before and after an utterance, at most half of the pause
    vad: Literal["silero", "energy", "auto"] = "auto"

    def __post_init__(self) -> None:
        if not 0.2 <= self.min_s <= self.max_s / 3:
            raise ConfigError(
                f"min_s: expected at least 0.2 s, found {self.min_s:g}; max_s: at least three times as much, so that "
                f"there is a choice where to cut, found {self.max_s:g}"
            )
        if not (self.min_pause_s > 0 and self.pause_s > 0 and 0 <= self.pad_s <= self.min_s / 4):
            raise ConfigError(
                f"pause_s, min_pause_s: expected more than 0 s, found {self.pause_s:g}, {self.min_pause_s:g}; "
                f"pad_s: expected 0 s to a quarter of min_s, found {self.pad_s:g}"
            )


@dataclass(frozen=True)
class Span:
    """Speech between two cuts, in samples at 16 kHz, with the silence kept around it."""

    start: int
    end: int
    speech: int  # samples of speech
    is_wanted: bool  # False: shorter than an utterance may be


def spans(activity: Activity, num_samples: int, config: SegmentConfig) -> tuple[list[Span], int]:
    """Divide a recording of `num_samples` at 16 kHz; return the spans, and the number of cuts within speech."""
    shortest, longest = math.ceil(config.min_s * SAMPLE_RATE) + 1, math.floor(config.max_s * SAMPLE_RATE) - 1
    pad = int(config.pad_s * SAMPLE_RATE)
    whole = _stretches(activity.speech, round(config.min_pause_s * SAMPLE_RATE / FRAME))
    pieces = [piece for one in whole for piece in _not_longer(*one, activity, longest - 2 * pad, shortest)]
    if not pieces:
        return [], 0
    starts, ends = (np.minimum(np.array(column) * FRAME, num_samples) for column in zip(*pieces, strict=True))
    pauses = starts[1:] - ends[:-1]
    before = np.minimum(pad, np.concatenate([starts[:1], pauses // 2]))
    after = np.minimum(pad, np.concatenate([pauses // 2, [num_samples - ends[-1]]]))
    edges = (starts.tolist(), ends.tolist(), before.tolist(), after.tolist())
    groups = _joined(*edges, (shortest, longest), config.pause_s * SAMPLE_RATE)
    made = [
        Span(int(starts[i] - before[i]), int(ends[j] + after[j]), int((ends - starts)[i : j + 1].sum()), is_wanted)
        for i, j, is_wanted in groups
    ]
    return made, sum(int(pauses[j] == 0) for _, j, _ in groups[:-1])


def _stretches(speech: NDArray[np.float32], min_pause: int) -> list[tuple[int, int]]:
    """Return the frames (first, end) of every stretch of speech, separated by pauses of at least `min_pause` frames."""
    above, likely = speech >= _ON, speech >= _OFF
    edges = np.flatnonzero(np.diff(np.concatenate([[False], likely, [False]]).astype(np.int8))).reshape(-1, 2)
    found: list[tuple[int, int]] = []
    for first, behind in edges.tolist():
        if not above[first:behind].any():
            continue
        begins = first + int(np.argmax(above[first:behind]))  # it begins at _ON, and ends below _OFF
        if found and begins - found[-1][1] < min_pause:
            found[-1] = (found[-1][0], behind)
        else:
            found.append((begins, behind))
    return found


def _not_longer(first: int, behind: int, activity: Activity, longest: int, shortest: int) -> Iterator[tuple[int, int]]:
    """Divide a stretch of frames at its quietest places into pieces of at most `longest` samples."""
    least, most = -(-shortest // FRAME), longest // FRAME
    while behind - first > most:
        low, high = first + least, min(first + most, behind - least)
        level = np.convolve(activity.level_db[low - _SMOOTH // 2 : high + _SMOOTH // 2 + 1], np.ones(_SMOOTH), "valid")
        at = low + int(np.argmin(level))
        yield first, at
        first = at
    yield first, behind


def _joined(
    starts: Sequence[int],
    ends: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    lengths: tuple[int, int],
    pause: float,
) -> list[tuple[int, int, bool]]:
    """Join pieces of speech to utterances at the least total cost.

    An utterance costs `pause` plus the pauses in it, so that longer pauses are cut and shorter ones kept. An utterance
    that is too short costs twice its speech.

    Args:
        starts: first sample of each piece.
        ends: sample after the last of each piece.
        before: samples of silence kept before each piece, if an utterance begins with it.
        after: samples of silence kept after each piece, if an utterance ends with it.
        lengths: least and most samples of an utterance.
        pause: cost of an utterance, in samples.

    Returns:
        First and last piece of each utterance, and whether it is long enough.
    """
    shortest, longest = lengths
    best, came_from = [0.0], [0]
    for last in range(len(starts)):
        choices = []
        kept_pauses, speech = 0.0, 0.0
        for first in range(last, -1, -1):
            length = ends[last] + after[last] - (starts[first] - before[first])
            if length > longest and first < last:
                break
            speech += ends[first] - starts[first]
            kept_pauses += starts[first + 1] - ends[first] if first < last else 0
            is_wanted = length >= shortest
            if is_wanted or first == last:
                choices.append((best[first] + (pause + kept_pauses if is_wanted else _SPEECH_WEIGHT * speech), first))
        cost, first = min(choices)
        best.append(cost)
        came_from.append(first)
    groups = []
    last = len(starts) - 1
    while last >= 0:
        first = came_from[last + 1]
        length = ends[last] + after[last] - (starts[first] - before[first])
        groups.append((first, last, length >= shortest))
        last = first - 1
    return groups[::-1]
