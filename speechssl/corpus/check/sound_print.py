"""Audio fingerprints of 256 bits, and the search for copies among recordings.

A bit says whether the difference of two neighbouring bands grows or falls from one 32nd of the sound to the next, after
Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002). The 32nds span 1.5 standard deviations
of the energy over time on both sides of its centre, so that pauses at the ends and quiet noise do not shift them. A
fingerprint survives changes of level, format, rate and codec; it does not find a part of a recording in another.
Chromaprint is a native library for music, and leaves the search to its user.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BANDS", "BITS", "Fingerprint", "bit_difference", "fingerprint", "similar_pairs"]

BANDS = 9
BITS = 256
_STEPS = BITS // (BANDS - 1) + 1
_REACH = 1.5  # standard deviations of the energy over time; sound of constant level ends at 1.73
_SHORTEST = 25  # fewest frames for a fingerprint; with fewer the bits would be noise
_FLOOR = 1e-3  # floor added to all energies, relative to the largest: quieter sound is not compared
_WORDS = 20  # words of 12 bits; copies agree in at least one: probability 0.9999 with 5 % wrong bits, 0.98 with 15 %
_NEIGHBOURS = 64  # most recordings of the same word and similar extent that are compared


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Fingerprint of a recording, and the extent of its sound."""

    bits: bytes  # 32 bytes
    extent_s: float


def fingerprint(energies: NDArray[np.float32], *, frames_per_second: float) -> Fingerprint | None:
    """Compute the fingerprint of one recording; None for silence and for less than 0.4 s of sound.

    Args:
        energies: (frames, BANDS) float32, band energies.
        frames_per_second: frame rate of `energies`.
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
    around = int(reach) + 1  # frames of padding on both sides, where the steps reach beyond the ends
    logs = np.full((len(weights) + 2 * around + 1, BANDS), np.log(floor))
    logs[0] = 0
    logs[around + 1 : -around] = np.log(energies + np.float32(floor))
    sums = np.cumsum(logs, axis=0, out=logs)  # sums over all frames before each
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
    """Find recordings of similar extent whose fingerprints nearly agree, in time linear in their number.

    Args:
        prints: fingerprints of all recordings.
        bits: largest share of bits that may differ.
        duration: largest relative difference of the extents.

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
    """Return 12 adjacent bits of each fingerprint, (recordings,) uint16: the first or second half of three bytes."""
    first, middle, last = table[:, number // 2 * 3 : number // 2 * 3 + 3].T.astype(np.uint16)
    return (first << 4 | middle >> 4) if number % 2 == 0 else ((middle & 15) << 8 | last)
