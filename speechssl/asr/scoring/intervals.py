"""Confidence intervals of error rates and significance of differences: resampling of utterances or speakers.

Errors on utterances of one speaker are correlated, so an interval over utterances is too narrow for other speakers; for
these, all utterances of a speaker are drawn together as a block (Bisani and Ney 2004, "Bootstrap estimates for
confidence intervals in ASR performance evaluation").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Interval", "compare_systems", "drawn_sums", "in_blocks", "percentiles"]

_AT_ONCE = 2**22  # most drawn counts or sums in memory at a time


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Confidence interval of a rate."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Error rate of the second system minus that of the first; negative if the second is better."""

    difference: float
    interval: Interval
    p_value: float  # two-sided, by approximate randomisation: probability of such a difference between equal systems
    better_share: float  # share of bootstrap samples in which the second has the lower rate


def in_blocks(counts: NDArray[np.int64], blocks: Sequence[str]) -> NDArray[np.int64]:
    """Sum (utterances, any) counts by block; returns (blocks, any), in the order of first appearance."""
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(name, len(numbers)) for name in blocks]
    sums = np.zeros((len(numbers), counts.shape[1]), np.int64)
    np.add.at(sums, rows, counts)
    return sums


def drawn_sums(
    tables: Sequence[NDArray[np.int64]], *, samples: int, seed: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Sum tables over blocks drawn with replacement; tables with equal numbers of blocks share the draws.

    Args:
        tables: (blocks, columns) counts, with any number of blocks and the same columns in all.
        samples: number of bootstrap samples.
        seed: seed of the draws.

    Yields:
        The index of a table and its (samples, columns) sums, each table once, in any order.
    """
    heights: dict[int, list[int]] = {}
    for number, table in enumerate(tables):
        heights.setdefault(len(table), []).append(number)
    for blocks, alike in heights.items():
        most = max(1, _AT_ONCE // (samples * tables[alike[0]].shape[1]))  # tables whose sums fit into memory at a time
        for begin in range(0, len(alike), most):
            some = alike[begin : begin + most]
            drawn = _draw(np.concatenate([tables[number] for number in some], 1), blocks, samples, seed)
            yield from zip(some, np.split(drawn, len(some), 1), strict=True)


def percentiles(drawn: NDArray[np.int64], level: float) -> list[Interval]:
    """Return the percentile interval of each error rate.

    Args:
        drawn: (samples, 2 x rates), a column of errors and one of reference tokens for each rate.
        level: confidence level, such as 0.95.
    """
    rates = drawn[:, ::2] / np.maximum(drawn[:, 1::2], 1)
    return [_percentiles(rate, level) for rate in rates.T]


def compare_systems(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    drawn: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    seed: int,
    level: float,
) -> list[Difference]:
    """Compare two systems on the same blocks by paired differences of each rate.

    Args:
        first: (blocks, 2 x rates) of the first system: a column of errors and one of reference tokens for each rate.
        second: the same for the second system, with the same tokens.
        drawn: sums of the two tables from `drawn_sums` with the same seed.
        seed: seed of the draws.
        level: confidence level.
    """
    gaps, tokens = (second - first)[:, ::2], first[:, 1::2].sum(0)
    rates = (drawn[1] - drawn[0])[:, ::2] / np.maximum(drawn[0][:, 1::2], 1)
    samples, generator = len(rates), np.random.default_rng([seed, 1])
    observed, as_large = np.abs(gaps.sum(0)), np.zeros(len(tokens), np.int64)
    for count in _portions(samples, len(gaps)):
        signs = generator.integers(0, 2, (count, len(gaps)), np.int8) * 2 - 1  # random exchange of the two systems
        as_large += (np.abs(signs @ gaps) >= observed).sum(0)
    return [
        Difference(
            difference=float(gaps[:, each].sum() / tokens[each]),
            interval=_percentiles(rates[:, each], level),
            p_value=(int(as_large[each]) + 1) / (samples + 1),
            better_share=float((rates[:, each] < 0).mean()),
        )
        for each in range(len(tokens))
    ]


def _draw(counts: NDArray[np.int64], blocks: int, samples: int, seed: int) -> NDArray[np.int64]:
    """Sum (blocks, columns) counts over as many blocks drawn with replacement: (samples, columns)."""
    generator = np.random.default_rng([seed, 0])
    chances = np.full(blocks, 1 / blocks)
    return np.concatenate([generator.multinomial(blocks, chances, n) @ counts for n in _portions(samples, blocks)])


def _portions(samples: int, blocks: int) -> list[int]:
    most = max(1, _AT_ONCE // max(1, blocks))
    return [min(most, samples - done) for done in range(0, samples, most)]


def _percentiles(rates: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high))
