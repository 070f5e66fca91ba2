"""Fingerprints of recordings: 256 bits that copies share and other recordings do not, and the search for copies.

A bit says whether the difference of two neighbouring bands grows or falls from one 32nd of the sound to the next, after
Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002). The 32nds are laid over 1.5 standard
deviations of the energy to both sides of its middle, so that pauses at the ends and quiet noise do not move them. It
survives another level, format, rate and coding; it does not find a part of a recording in another. Chromaprint was
weighed: a native library for music, which leaves the search to its user.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BANDS", "BITS", "Fingerprint", "bit_difference", "fingerprint", "similar_pairs"]

BANDS = 9
BITS = 256
_STEPS = BITS // (BANDS - 1) + 1
_REACH = 1.5  # standard deviations of the energy over time; even sound ends at 1.73
_SHORTEST = 25  # frames over which the steps are laid, at least; of fewer the bits would be guesses
_FLOOR = 1e-3  # of the loudest band of a frame, added to all: what is quieter is not compared
_WORDS = 20  # of 12 bits; copies agree in one at least: 0.9999 with 5 % of the bits wrong, 0.98 with 15 %
_NEIGHBOURS = 64  # compared at most of one word and like extent, where a word is everybody's


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a recording looks like, and how long its sound is."""

    bits: bytes  # 32 of them
    extent_s: float


def fingerprint(energies: NDArray[np.float32], *, frames_per_second: float) -> Fingerprint | None:
    """Make the fingerprint of one recording; None for silence and for less than 0.4 s of sound.

    Args:
        energies: (frames, BANDS), its band energies.
        frames_per_second: of `energies`.
    """
    weights = energies.sum(axis=1, dtype=np.float64)
    total = weights.sum()
    if not 0 < total < np.inf:
        return None
    times = np.arange(len(weights)) + 0.5
    middle = float(weights @ times) / total
    reach = _REACH * float(np.sqrt(weights @ np.square(times - middle) / total))
    if 2 * reach < _SHORTEST:
        return None
    floor = float(energies.max()) * _FLOOR
    around = int(reach) + 1  # frames of pause to both sides, where the steps reach over the ends
    logs = np.full((len(weights) + 2 * around + 1, BANDS), np.log(floor))
    logs[0] = 0
    logs[around + 1 : -around] = np.log(energies + np.float32(floor))
    sums = np.cumsum(logs, axis=0, out=logs)  # of all frames before each
    cuts = around + middle + np.linspace(-reach, reach, _STEPS + 1)
    before = cuts.astype(np.intp)
    at_cuts = sums[before] + (cuts - before)[:, None] * (sums[before + 1] - sums[before])
    tilt = np.diff(np.diff(at_cuts, axis=0), axis=1)  # (_STEPS, BANDS - 1)
    bits = np.packbits(np.diff(tilt, axis=0) > 0).tobytes()
    return Fingerprint(bits=bits, extent_s=2 * reach / frames_per_second)


def bit_difference(one: Fingerprint, other: Fingerprint) -> float:
    """Return the share of bits in which two fingerprints differ."""
    return (int.from_bytes(one.bits) ^ int.from_bytes(other.bits)).bit_count() / BITS


def similar_pairs(prints: Sequence[Fingerprint], *, bits: float, duration: float) -> Iterator[tuple[int, int, float]]:
    """Find recordings of like extent whose fingerprints nearly agree, in time that grows with their number.

    Args:
        prints: of all recordings.
        bits: share of the bits that may differ.
        duration: share by which the extents may differ.

    Yields:
        Two indices, the smaller first, and the share of bits that differ; each pair once, in order.
    """
    if not prints:
        return
    table = np.frombuffer(b"".join(one.bits for one in prints), np.uint8).reshape(len(prints), -1)
    extents = np.array([one.extent_s for one in prints])
    found: dict[tuple[int, int], float] = {}
    for number in range(_WORDS):
        word = _word(table, number)
        order = np.lexsort((extents, word))
        for shift in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            one, other = order[:-shift], order[shift:]
            near = word[one] == word[other]
            near &= extents[other] <= extents[one] * (1 + duration)
            if not near.any():
                break
            one, other = one[near], other[near]
            differ = np.bitwise_count(table[one] ^ table[other]).sum(axis=1) / BITS
            close = differ <= bits
            for i, j, share in zip(one[close], other[close], differ[close], strict=True):
                found[int(min(i, j)), int(max(i, j))] = float(share)
    yield from ((i, j, found[i, j]) for i, j in sorted(found))


def _word(table: NDArray[np.uint8], number: int) -> NDArray[np.uint16]:
    """Return 12 neighbouring bits of each fingerprint: the first or second half of three bytes."""
    first, middle, last = table[:, number // 2 * 3 : number // 2 * 3 + 3].T.astype(np.uint16)
    return (first << 4 | middle >> 4) if number % 2 == 0 else ((middle & 15) << 8 | last)
