"""The batches of one epoch as a few arrays, so that millions of crops take little memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Crop", "Epoch", "Integers", "first_of_batches"]

Integers = NDArray[np.int64]

_BLOCK = 1 << 20  # crops per block when batches are filled


@dataclass(frozen=True)
class Crop:
    """A part of an utterance, in samples at 16 kHz."""

    index: int  # index of the utterance in the manifest
    start: int
    num_samples: int


class Epoch(Sequence[list[Crop]]):
    """Batches in training order; a slice is an `Epoch` too, and shares the arrays."""

    def __init__(self, crops: tuple[Integers, Integers, Integers], first: Integers, order: Integers) -> None:
        """Store the arrays.

        Args:
            crops: index, start and number of samples, each (crops,) int64, batch after batch.
            first: (batches + 1,) int64, the first crop of each batch, then the number of crops.
            order: (batches,) int64, the batches in training order.
        """
        self._crops, self._first, self._order = crops, first, order

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._order)

    @overload
    def __getitem__(self, place: int) -> list[Crop]: ...

    @overload
    def __getitem__(self, place: slice) -> "Epoch": ...

    def __getitem__(self, place: int | slice) -> "list[Crop] | Epoch":
        """Return the crops of one batch, or a part of the epoch."""
        if isinstance(place, slice):
            return Epoch(self._crops, self._first, self._order[place])
        batch = self._order[place]
        held = slice(self._first[batch], self._first[batch + 1])
        return [Crop(*numbers) for numbers in zip(*(column[held].tolist() for column in self._crops), strict=True)]

    def __iter__(self) -> Iterator[list[Crop]]:
        """Iterate over the batches."""
        return (self[place] for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of batches."""
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(ours == theirs for ours, theirs in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def num_samples(self) -> int:
        """Samples of all crops at 16 kHz, excluding padding."""
        sums = np.concatenate([[0], np.cumsum(self._crops[2])])
        return int((sums[self._first[self._order + 1]] - sums[self._first[self._order]]).sum())

    @property
    def padding(self) -> float:
        """Share of the batches that is padding."""
        first = self._first[:-1]
        longest = np.maximum.reduceat(self._crops[2], first) if len(first) else first
        held = (longest * np.diff(self._first))[self._order]
        return 1 - self.num_samples / int(held.sum()) if len(held) else 0.0


def first_of_batches(num_samples: Integers, *, limit: float, max_crops: int) -> Integers:
    """Fill batches with crops in the order given, each with as many as fit including padding, but at least one.

    The number of crops that fit is found for every first crop at once, by binary search over maxima of 1, 2, 4, ...
    crops; then the batches are walked through.

    Args:
        num_samples: (crops,) int64.
        limit: most samples in a batch, including padding.
        max_crops: most crops in a batch.

    Returns:
        (batches + 1,) int64, the first crop of each batch, then the number of crops.

    Examples:
        >>> first_of_batches(np.array([4, 2, 5, 9]), limit=10, max_crops=8)
        array([0, 2, 3, 4])
    """
    first = []
    place = 0
    while place < len(num_samples):
        block = num_samples[place : place + _BLOCK + max_crops]  # with crops that its last batches may take
        fitting = _fitting(block, limit, max_crops).data
        stop = len(block) if place + len(block) == len(num_samples) else _BLOCK
        within = 0
        while within < stop:
            first.append(place + within)
            within += fitting[within]
        place += within
    return np.array([*first, len(num_samples)], np.int64)


def _fitting(num_samples: Integers, limit: float, max_crops: int) -> Integers:
    """Return, for each crop, how many crops from it on fit into one batch."""
    count = len(num_samples)
    most = min(max_crops, int(limit // max(int(num_samples.min()), 1)), count)
    maxima = [num_samples]  # maxima[j][i]: longest of the 2 ** j crops from i on
    while 2 << (len(maxima) - 1) <= most:
        step = 1 << (len(maxima) - 1)
        maxima.append(np.maximum(maxima[-1][:-step], maxima[-1][step:]))
    taken = np.zeros(count, np.int64)
    longest = np.zeros(count, np.int64)
    places = np.arange(count)
    for level in reversed(range(len(maxima))):
        following = places + taken
        is_there = following < len(maxima[level])
        higher = np.maximum(longest, maxima[level][np.where(is_there, following, 0)])
        more = taken + (1 << level)
        does_fit = is_there & (more <= most) & (higher * more <= limit)
        taken = np.where(does_fit, more, taken)
        longest = np.where(does_fit, higher, longest)
    return np.maximum(taken, 1)
