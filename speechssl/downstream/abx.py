"""Phone ABX (Schatz et al. 2013): how often a phone is closer to another phone than to its own kind.

A and X are the same phone, B is another: an error is a triple with d(X, A) > d(X, B), half an error one with equal
distances. 0.5 is chance, lower is better. Rules and figures are those of fastabx (`zerospeech_abx`; arXiv:2505.02692),
what it does as Zerospeech 2021 did. Some of these rules may surprise:

- The mean is over pairs of phones, not over triples: rare phones weigh as frequent ones. For context `triphone`, cells
  of one pair and speaker of A and B are averaged first, whatever their context and speaker of X, then speakers, then
  pairs. For `across, any` all cells of a pair are averaged at once, so that a speaker whose phones more others share
  weighs more.
- Silent frames, all zeros, are replaced by equal numbers in all dimensions. fastabx's docstring promises the largest
  distance from others; in fact it is that from the vector of ones, 0 for a constant frame.
- The frames of an item are those whose hop, not window, has its centre in it (`phone_items.frames_of`).
- The mean along a path of dynamic time warping depends on which of equally cheap paths is taken (`dtw`).

Distances are computed in float64: in float32, as fastabx does with float32 features, the angle of equal frames is
noise of up to 0.0005 rather than 0, which decides between items that are nearly equal.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.scoring.intervals import Interval
from speechssl.downstream.abx_cells import AbxConfig, AbxTask, Block
from speechssl.downstream.bootstrap import interval
from speechssl.downstream.dtw import mean_path_costs
from speechssl.downstream.phone_items import PhoneItem, frames_of
from speechssl.errors import LabelError

__all__ = ["AbxScore", "ItemFrames", "score_abx"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
_BORDER = 1e-12  # a last dimension that tells silent frames from others, as in Zerospeech's code
_AT_ONCE = 2**22  # most costs of frame pairs in memory at a time


@dataclass(frozen=True, kw_only=True)
class AbxScore:
    """Result of one condition."""

    error: float  # from 0 to 1; chance is 0.5
    interval: Interval | None  # for other speakers: whole speakers of A and B are drawn; None for one speaker
    cells: int
    triples: int
    pairs: Mapping[tuple[str, str], float]  # error by (phone of A and X, phone of B)


class ItemFrames:
    """Features of the frames of items, filled piece by piece; memory: frames of the items x dim x 4 bytes."""

    def __init__(self, items: Sequence[PhoneItem], used: Iterable[int], *, dim: int, hop: int) -> None:
        """Make room for the items with these numbers; `hop` is in samples."""
        self._rows: dict[int, tuple[int, int]] = {}  # rows of each item below
        self._of: dict[str, list[tuple[int, int, int]]] = {}  # first frame, frame after the last and row, by utterance
        size = 0
        for number in sorted(used):
            first, end = frames_of(items[number], hop=hop)
            if end > first:
                self._rows[number] = size, size + end - first
                self._of.setdefault(items[number].utterance, []).append((first, end, size))
                size += end - first
        self._frames = np.zeros((size, dim), np.float32)
        self._is_filled = np.zeros(size, bool)

    @property
    def utterances(self) -> Iterable[str]:
        """Ids of the utterances whose features are needed."""
        return self._of.keys()

    def add(self, utterance: str, features: NDArray[np.float32], *, start: int = 0) -> None:
        """Copy the frames of items from a piece of an utterance.

        Args:
            utterance: its id.
            features: (frames, dim).
            start: index of the first frame of the piece.

        Raises:
            LabelError: a feature is not finite.
        """
        for first, end, row in self._of.get(utterance, ()):
            low, high = max(first, start), min(end, start + len(features))
            if low < high:
                self._frames[row + low - first : row + high - first] = features[low - start : high - start]
                self._is_filled[row + low - first : row + high - first] = True
        if not np.isfinite(features).all():
            raise LabelError(f"{utterance}: a feature is not finite; extract its features again")

    def has(self, number: int) -> bool:
        """Return whether an item has frames, and features of all of them have been added."""
        first, end = self._rows.get(number, (0, 0))
        return end > first and bool(self._is_filled[first:end].all())

    def of(self, numbers: Sequence[int]) -> tuple[Floats, Counts]:
        """Return the (frames, dim) features of items one after another, and the (items,) number of frames of each."""
        rows = [self._rows[number] for number in numbers]
        frames = np.concatenate([self._frames[first:end] for first, end in rows]).astype(np.float64)
        return frames, np.array([end - first for first, end in rows])


def score_abx(task: AbxTask, frames: ItemFrames, config: AbxConfig) -> AbxScore:
    """Compare all triples of a condition; items without features are left out.

    Raises:
        LabelError: no triple is left.
    """
    cells: list[tuple[str, str, str]] = []  # phone of A and X, phone of B, speaker of A and B
    errors: list[float] = []
    triples = 0
    for strips in _strips(task, frames, config):
        for strip, distances in zip(strips, _distances(strips), strict=True):
            doubled = np.concatenate([[0], np.cumsum(_doubled_errors(strip, distances))])
            own = strip.places[strip.phone]
            opponents = len(strip.numbers_of_x) * (len(own) - strip.is_within)
            for phone, place in strip.places.items():
                if phone != strip.phone:
                    size = opponents * len(place)
                    cells.append((strip.phone, phone, strip.speaker))
                    errors.append(float(doubled[place.stop] - doubled[place.start]) / 2 / size)
                    triples += size
    if not cells:
        raise LabelError(f"no triple of phones for ABX ({task.name}) has features; are they of another corpus?")
    return _collapsed(task, cells, np.array(errors), triples, config.seed)


@dataclass(frozen=True, kw_only=True)
class _Strip:
    """All X of one phone in a block, with A and B."""

    phone: str
    speaker: str
    is_within: bool
    numbers_of_x: tuple[int, ...]
    numbers_of_ab: tuple[int, ...]
    places: Mapping[str, range]  # places of each phone among A and B
    costs: Floats  # (frames of all X, frames of all A and B)
    frames_of_x: Counts  # (X,)
    frames_of_ab: Counts  # (A and B,)


def _strips(task: AbxTask, frames: ItemFrames, config: AbxConfig) -> Iterator[list[_Strip]]:
    """Yield lists of strips whose costs are in memory together."""
    strips: list[_Strip] = []
    for block in task.blocks:
        for strip in _strips_of(block, task.speakers == "within", frames, _COSTS[config.distance]):
            strips.append(strip)
            if sum(each.costs.size for each in strips) >= _AT_ONCE:
                yield strips
                strips = []
    if strips:
        yield strips


def _strips_of(
    block: Block, is_within: bool, frames: ItemFrames, costs: Callable[[Floats, Floats], Floats]
) -> Iterator[_Strip]:
    x, ab = (
        {phone: there for phone, numbers in groups.items() if (there := tuple(filter(frames.has, numbers)))}
        for groups in (block.x, block.ab)
    )
    if len(ab) < 2:
        return
    places: dict[str, range] = {}
    numbers_of_ab: list[int] = []
    for phone, numbers in ab.items():
        places[phone] = range(len(numbers_of_ab), len(numbers_of_ab) + len(numbers))
        numbers_of_ab += numbers
    features, frames_of_ab = frames.of(numbers_of_ab)
    for phone, numbers in x.items():
        if len(ab.get(phone, ())) <= is_within:
            continue
        own, frames_of_x = frames.of(numbers)
        yield _Strip(
            phone=phone,
            speaker=block.speaker,
            is_within=is_within,
            numbers_of_x=numbers,
            numbers_of_ab=tuple(numbers_of_ab),
            places=places,
            costs=costs(own, features),
            frames_of_x=frames_of_x,
            frames_of_ab=frames_of_ab,
        )


def _distances(strips: Sequence[_Strip]) -> Iterator[Floats]:
    """Yield the (X, A and B) distances of each strip; all pairs are aligned together."""
    offset = 0
    starts, strides, rows, columns = [], [], [], []
    for strip in strips:
        n, m, width = strip.frames_of_x, strip.frames_of_ab, strip.costs.shape[1]
        first_rows, first_columns = np.cumsum(n) - n, np.cumsum(m) - m
        starts.append((offset + first_rows[:, None] * width + first_columns).ravel())
        strides.append(np.full(len(n) * len(m), width))
        rows.append(np.repeat(n, len(m)))
        columns.append(np.tile(m, len(n)))
        offset += strip.costs.size
    found = mean_path_costs(
        np.concatenate([strip.costs.ravel() for strip in strips]),
        *map(np.concatenate, (starts, strides, rows, columns)),
    )
    for strip in strips:
        shape = len(strip.frames_of_x), len(strip.frames_of_ab)
        yield found[: shape[0] * shape[1]].reshape(shape)
        found = found[shape[0] * shape[1] :]


def _doubled_errors(strip: _Strip, distances: Floats) -> Counts:
    """Return, for each of A and B as B, twice its errors over all X and A; without meaning for items of A."""
    own = strip.places[strip.phone]
    doubled = np.zeros(distances.shape[1], np.int64)
    for x, row in enumerate(distances):
        to_a = row[own.start : own.stop]
        if strip.is_within:  # X is no A of its own
            to_a = np.delete(to_a, x)
        to_a = np.sort(to_a)
        doubled += 2 * len(to_a) - to_a.searchsorted(row, "left") - to_a.searchsorted(row, "right")
    return doubled


def _collapsed(
    task: AbxTask, cells: Sequence[tuple[str, str, str]], errors: Floats, triples: int, seed: int
) -> AbxScore:
    keys = list(cells)
    if task.context == "triphone":  # contexts, and speakers of X, of one pair and speaker
        sums: dict[tuple[str, str, str], float] = {}
        for key, error in zip(cells, errors.tolist(), strict=True):
            sums[key] = sums.get(key, 0.0) + error
        counts = Counter(cells)
        keys, errors = list(sums), np.array([sums[key] / counts[key] for key in sums])
    names = list(dict.fromkeys(key[:2] for key in keys))
    number = {name: index for index, name in enumerate(names)}
    pair = np.array([number[key[:2]] for key in keys])
    speakers = [key[2] for key in keys]

    def by_pair(indices: Counts) -> Floats:
        weights = np.bincount(pair[indices], minlength=len(names))
        with np.errstate(invalid="ignore"):
            return np.bincount(pair[indices], errors[indices], minlength=len(names)) / weights

    means = by_pair(np.arange(len(keys)))
    return AbxScore(
        error=float(means.mean()),
        interval=interval(lambda indices: float(np.nanmean(by_pair(indices))), speakers, seed=seed)
        if len(set(speakers)) > 1
        else None,
        cells=len(cells),
        triples=triples,
        pairs=dict(zip(names, means.tolist(), strict=True)),
    )


def _with_border(frames: Floats) -> Floats:
    """Scale frames to length 1, and append a dimension that tells silent ones from others."""
    lengths = np.linalg.norm(frames, axis=1, keepdims=True)
    is_silent = lengths[:, 0] == 0
    scaled = frames / np.where(lengths > 0, lengths, 1.0)
    scaled[is_silent] = 1 / np.sqrt(frames.shape[1])
    return np.c_[scaled, np.where(is_silent, -2 * _BORDER, _BORDER)]


def _angles(one: Floats, other: Floats) -> Floats:
    return np.arccos(np.clip(_with_border(one) @ _with_border(other).T, -1, 1)) / np.pi


def _euclidean(one: Floats, other: Floats) -> Floats:
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(squares.clip(min=0))


def _identical(one: Floats, other: Floats) -> Floats:
    return (one[:, :1] != other[:, :1].T).astype(np.float64)


_COSTS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "angular": _angles,
    "euclidean": _euclidean,
    "identical": _identical,
}
