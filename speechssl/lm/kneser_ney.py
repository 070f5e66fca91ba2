"""Interpolated modified Kneser-Ney smoothing: Chen and Goodman, "An empirical study of smoothing techniques for
language modeling" (Harvard TR-10-98), section 3, equation 26 for the discounts.

Each order has three discounts of its own, estimated from its counts of counts. Pruning is by raw counts, and the mass
of what is pruned goes to the order below, as lmplz (Heafield et al., ACL 2013) does it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.lm.counting import BEGIN_ID, Integers, NGrams, count_ngrams, number_words

__all__ = ["FALLBACK", "Discounts", "Estimate", "Estimated", "NGramConfig", "estimate"]

FALLBACK = (0.0, 0.5, 1.0, 1.5)  # what lmplz takes where counts of counts are missing (--discount_fallback)
_LARGEST_ORDER = 6  # that flashlight's and kenlm's wheels load

Floats = NDArray[np.float64]


@configuration
class NGramConfig:
    """How an n-gram model is built."""

    order: int = 3
    prune: tuple[int, ...] = (0,)  # n-grams occurring so often or less are left out; the last holds for longer ones
    vocabulary: int | None = None  # most frequent words kept; None keeps all

    def __post_init__(self) -> None:
        """Check what the fields mean together."""
        if not 1 <= self.order <= _LARGEST_ORDER:
            raise ConfigError(f"order must lie between 1 and {_LARGEST_ORDER}, found {self.order}")
        thresholds = list(self.prune)
        if not thresholds or thresholds[0] != 0 or thresholds != sorted(thresholds) or len(thresholds) > self.order:
            raise ConfigError(
                f"prune: expected 0 for single words, then up to {self.order - 1} numbers that do not fall, "
                f"found {' '.join(map(str, self.prune)) or 'none'}"
            )
        if self.vocabulary is not None and self.vocabulary < 1:
            raise ConfigError(f"vocabulary must be at least 1, found {self.vocabulary}")

    def threshold(self, order: int) -> int:
        """Return the largest count that is pruned among n-grams of this order."""
        return self.prune[min(order, len(self.prune)) - 1]


@dataclass(frozen=True)
class Discounts:
    """What is taken from the counts of one order."""

    amounts: tuple[float, ...]  # from a count of 0, 1, 2, and 3 or more
    counts_of_counts: tuple[int, ...]  # how many n-grams have a count of 1, 2, 3, 4
    is_fallback: bool  # the counts of counts allow no estimate: the amounts are fixed ones


@dataclass(frozen=True)
class Estimate:
    """The probabilities of one order, beside its `NGrams`."""

    ngrams: NGrams
    is_kept: NDArray[np.bool_]  # (rows,): False where pruned
    probability: Floats  # (rows,); 0 for the begin of a sentence, which is never predicted
    backoff: Floats  # (rows,): weight of the order below after this context; 1 where nothing follows it
    discounts: Discounts


@dataclass(frozen=True)
class Estimated:
    """An n-gram model as it was estimated, before it is a file."""

    words: tuple[str, ...]
    orders: tuple[Estimate, ...]


def estimate(sentences: Iterable[Sequence[str]], config: NGramConfig) -> Estimated:
    """Estimate a model from the words of sentences.

    Raises:
        VocabularyError: there is no sentence.
    """
    corpus = number_words(sentences, vocabulary=config.vocabulary)
    levels = count_ngrams(corpus, config.order)
    lower = np.full(1, 1.0 / (len(corpus.words) - 1))  # order 0: any word but the begin of a sentence
    orders: list[Estimate] = []
    for n, ngrams in enumerate(levels, start=1):
        counts = _adjusted(ngrams, levels[n] if n < config.order else None)
        is_kept = ngrams.raw > config.threshold(n) if n > 1 else np.ones(len(counts), bool)
        if n == 1:
            counts[BEGIN_ID] = 0  # never predicted
        discounts = _discounts(counts)
        taken = np.array(discounts.amounts)[np.minimum(counts, 3)]
        total = np.bincount(ngrams.prefix, counts, minlength=len(lower))
        freed = np.bincount(ngrams.prefix, np.where(is_kept, taken, counts), minlength=len(lower))
        weight = np.divide(freed, total, out=np.ones(len(lower)), where=total > 0)
        own = (counts - taken) / total[ngrams.prefix]
        probability = own + weight[ngrams.prefix] * lower[ngrams.suffix]
        if n == 1:
            probability[BEGIN_ID] = 0.0
        if n > 1:
            orders[-1].backoff[:] = weight
        orders.append(Estimate(ngrams, is_kept, probability, np.ones(len(counts)), discounts))
        lower = probability
    return Estimated(corpus.words, tuple(orders))


def _adjusted(ngrams: NGrams, longer: NGrams | None) -> Integers:
    """Count, below the highest order, the different words to the left, but occurrences where a sentence begins."""
    if longer is None:
        return ngrams.raw.copy()
    return np.where(ngrams.starts, ngrams.raw, np.bincount(longer.suffix, minlength=len(ngrams.raw)))


def _discounts(counts: Integers) -> Discounts:
    one, two, three, four = (int((counts == count).sum()) for count in range(1, 5))
    found = (one, two, three, four)
    if min(one, two, three) > 0:
        share = one / (one + 2 * two)
        amounts = (0.0, *(k - (k + 1) * share * found[k] / found[k - 1] for k in (1, 2, 3)))
        if all(0 <= amount <= k for k, amount in enumerate(amounts)):
            return Discounts(amounts, found, is_fallback=False)
    return Discounts(FALLBACK, found, is_fallback=True)
