"""Percentile bootstrap intervals of any score, over utterances or over blocks of them, such as speakers.

Utterances of one speaker are alike, so an interval for other speakers draws all utterances of a speaker together
(Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation").
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.scoring.intervals import Interval

__all__ = ["Indices", "draws", "interval", "interval_of"]

Indices = NDArray[np.int64]


def draws(blocks: Sequence[str], *, samples: int, seed: int) -> Iterator[Indices]:
    """Yield the indices of the items in each bootstrap sample: whole blocks, drawn with replacement.

    Args:
        blocks: block of each item; a name of its own for each draws items one by one.
        samples: number of bootstrap samples.
        seed: seed of the draws.
    """
    numbers: dict[str, list[int]] = {}
    for index, name in enumerate(blocks):
        numbers.setdefault(name, []).append(index)
    members = [np.array(indices, np.int64) for indices in numbers.values()]
    generator = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.concatenate([members[block] for block in generator.integers(len(members), size=len(members))])


def interval(
    score: Callable[[Indices], float], blocks: Sequence[str], *, samples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile interval of a score.

    Args:
        score: computes the score of the items with these indices, repeated as often as they were drawn; NaN where it is
            not defined, such as an error rate without trials, and then the sample does not count.
        blocks, samples, seed: as for `draws`.
        level: confidence level.
    """
    return interval_of([score(indices) for indices in draws(blocks, samples=samples, seed=seed)], level=level)


def interval_of(drawn: Sequence[float] | NDArray[np.float64], *, level: float = 0.95) -> Interval:
    """Return the percentile interval of the scores of bootstrap samples, NaN left out; NaN where there is none."""
    scores = np.array(drawn, np.float64)
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return Interval(low=float("nan"), high=float("nan"))
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high))
