"""How far an error rate may be off, and whether two systems differ: resampling of utterances or of speakers.

Utterances of one speaker share what is hard about him, so an interval over utterances alone is too narrow for other
speakers; blocks of a speaker's utterances are drawn together then (Bisani and Ney 2004, "Bootstrap estimates for
confidence intervals in ASR performance evaluation").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Interval", "bootstrap", "compare_systems", "in_blocks"]

_AT_ONCE = 2**22  # drawn counts held in memory at a time


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Between which rates the true one lies, with the confidence asked for."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second system's error rate minus the first's: below 0 the second is better."""

    difference: float
    interval: Interval
    p_value: float  # two-sided, approximate randomisation: as large a difference if the systems were the same
    better_share: float  # of the bootstrap's draws in which the second has the lower rate


def in_blocks(counts: NDArray[np.int64], blocks: Sequence[str]) -> NDArray[np.int64]:
    """Add up (utterances, any) counts of the same block; (blocks, any), in the order of first appearance."""
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(name, len(numbers)) for name in blocks]
    sums = np.zeros((len(numbers), counts.shape[1]), np.int64)
    np.add.at(sums, rows, counts)
    return sums


def bootstrap(
    errors: NDArray[np.int64], lengths: NDArray[np.int64], *, samples: int, seed: int, level: float
) -> Interval:
    """Return the percentile interval of the error rate, blocks drawn with replacement.

    Args:
        errors: (blocks,), of each block.
        lengths: (blocks,), reference tokens of each block.
        samples: number of draws.
        seed: of the draws.
        level: of confidence, as 0.95.
    """
    drawn = _drawn_sums(np.stack([errors, lengths], 1), samples, seed)
    return _percentiles(drawn[:, 0] / np.maximum(drawn[:, 1], 1), level)


def compare_systems(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    samples: int,
    seed: int,
    level: float,
) -> Difference:
    """Compare two systems on the same blocks, paired.

    Args:
        first: (blocks,), errors of the first system.
        second: (blocks,), errors of the second.
        lengths: (blocks,), reference tokens, the same for both.
        samples: number of draws of each kind.
        seed: of the draws.
        level: of confidence.
    """
    gaps = second - first
    drawn = _drawn_sums(np.stack([gaps, lengths], 1), samples, seed)
    rates = drawn[:, 0] / np.maximum(drawn[:, 1], 1)
    generator = np.random.default_rng([seed, 1])
    observed, as_large = abs(int(gaps.sum())), 0
    for count in _portions(samples, len(gaps)):
        signs = generator.integers(0, 2, (count, len(gaps)), np.int8) * 2 - 1  # which system is which, by chance
        as_large += int((np.abs(signs @ gaps) >= observed).sum())
    return Difference(
        difference=float(gaps.sum() / lengths.sum()),
        interval=_percentiles(rates, level),
        p_value=(as_large + 1) / (samples + 1),
        better_share=float((rates < 0).mean()),
    )


def _drawn_sums(counts: NDArray[np.int64], samples: int, seed: int) -> NDArray[np.int64]:
    """Sum (blocks, any) counts over as many blocks drawn with replacement: (samples, any)."""
    generator = np.random.default_rng([seed, 0])
    blocks = len(counts)
    return np.concatenate(
        [generator.multinomial(blocks, np.full(blocks, 1 / blocks), n) @ counts for n in _portions(samples, blocks)]
    )


def _portions(samples: int, blocks: int) -> list[int]:
    most = max(1, _AT_ONCE // max(1, blocks))
    return [min(most, samples - done) for done in range(0, samples, most)]


def _percentiles(rates: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high))
