"""Interpolated modified Kneser-Ney smoothing: Chen and Goodman, "An empirical study of smoothing techniques for
language modeling" (Harvard TR-10-98), section 3, equation 26 for the discounts.

Each order has its own three discounts, estimated from its counts of counts. Pruning uses raw counts, and the mass of
pruned n-grams goes to the lower order, as in lmplz (Heafield et al., ACL 2013).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.lm.sentences import BEGIN, END, UNKNOWN
from speechssl.config import configuration
from speechssl.errors import ConfigError, VocabularyError

__all__ = [
    "BEGIN_ID",
    "END_ID",
    "FALLBACK",
    "UNKNOWN_ID",
    "Corpus",
    "Discounts",
    "Estimate",
    "Estimated",
    "NGramConfig",
    "NGrams",
    "count_ngrams",
    "estimate",
    "number_words",
]

UNKNOWN_ID, BEGIN_ID, END_ID = range(3)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Text as word ids."""

    words: tuple[str, ...]  # by id: unknown, begin, end, then in code-point order
    tokens: Integers  # (tokens,): all sentences, each with its begin and end


@dataclass(frozen=True)
class NGrams:
    """All n-grams of one order, sorted; rows of order 1 are word ids."""

    prefix: Integers  # (rows,): row, one order below, of the n-gram without its last word
    suffix: Integers  # (rows,): row, one order below, of the n-gram without its first word
    word: Integers  # (rows,): the last word
    raw: Integers  # (rows,): number of occurrences
    starts: NDArray[np.bool_]  # (rows,): True if it begins a sentence


def number_words(sentences: Iterable[Sequence[str]], *, vocabulary: int | None = None) -> Corpus:
    """Number the words.

    Args:
        sentences: words of each sentence.
        vocabulary: number of most frequent words to keep, ties in code-point order; the others become the unknown
            word. None keeps all.

    Raises:
        VocabularyError: there is no sentence.
    """
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}  # ids in order of appearance, after the three special ones
    stream: list[int] = []
    for sentence in sentences:
        stream.append(BEGIN_ID)
        stream.extend(first.setdefault(word, len(first) + 3) for word in sentence)
        stream.append(END_ID)
    if not stream:
        raise VocabularyError("the texts hold no words; name files with text, or manifests with a text column")
    tokens = np.array(stream, np.int64)
    counts.update(dict(zip(first, np.bincount(tokens, minlength=len(first) + 3)[3:].tolist(), strict=True)))
    kept = sorted(sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary])
    numbers = {word: number for number, word in enumerate(kept, start=3)}
    renumbered = np.array([*range(3), *(numbers.get(word, UNKNOWN_ID) for word in first)], np.int64)
    return Corpus(words=(UNKNOWN, BEGIN, END, *kept), tokens=renumbered[tokens])


def count_ngrams(corpus: Corpus, order: int) -> list[NGrams]:
    """Count the n-grams of orders 1 to `order` that lie within sentences."""
    tokens, size = corpus.tokens, len(corpus.words)
    none = np.zeros(size, np.int64)
    words = np.arange(size)
    levels = [NGrams(none, none, words, np.bincount(tokens, minlength=size), words == BEGIN_ID)]
    rows = tokens  # row of the n-gram that begins at each token; -1 if the sentence is too short for it
    for n in range(2, order + 1):
        begins = np.flatnonzero((rows[: len(rows) - n + 1] >= 0) & (tokens[n - 2 : -1] != END_ID))
        keys = rows[begins] * size + tokens[begins + n - 1]
        unique, first, inverse, raw = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        prefix, word = np.divmod(unique, size)
        suffix = rows[begins[first] + 1]
        rows = np.full(len(tokens), -1)
        rows[begins] = inverse
        levels.append(NGrams(prefix, suffix, word, raw, levels[-1].starts[prefix]))
    return levels


FALLBACK = (0.0, 0.5, 1.0, 1.5)  # discounts of lmplz if counts of counts are missing (--discount_fallback)
_LARGEST_ORDER = 6  # limit of the wheels of flashlight and kenlm

Floats = NDArray[np.float64]


@configuration
class NGramConfig:
    """Configuration of an n-gram model."""

    order: int = 3
    prune: tuple[int, ...] = (0,)  # largest pruned count by order; the last holds for longer n-grams
    vocabulary: int | None = None  # number of most frequent words to keep; None keeps all

    def __post_init__(self) -> None:
        """Check the fields together."""
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
        """Return the largest count that is pruned in this order."""
        return self.prune[min(order, len(self.prune)) - 1]


@dataclass(frozen=True)
class Discounts:
    """Discounts of one order."""

    amounts: tuple[float, ...]  # discounts of a count of 0, 1, 2, and 3 or more
    counts_of_counts: tuple[int, ...]  # number of n-grams with a count of 1, 2, 3, 4
    is_fallback: bool  # the counts of counts allow no estimate: the amounts are fixed


@dataclass(frozen=True)
class Estimate:
    """The probabilities of one order, for its `NGrams`."""

    ngrams: NGrams
    is_kept: NDArray[np.bool_]  # (rows,): False if pruned
    probability: Floats  # (rows,); 0 for the sentence begin, which is never predicted
    backoff: Floats  # (rows,): weight of the lower order after this context; 1 if nothing follows it
    discounts: Discounts


@dataclass(frozen=True)
class Estimated:
    """An estimated n-gram model in memory."""

    words: tuple[str, ...]
    orders: tuple[Estimate, ...]


def estimate(sentences: Iterable[Sequence[str]], config: NGramConfig) -> Estimated:
    """Estimate a model from the words of sentences.

    Raises:
        VocabularyError: there is no sentence.
    """
    corpus = number_words(sentences, vocabulary=config.vocabulary)
    levels = count_ngrams(corpus, config.order)
    lower = np.full(1, 1.0 / (len(corpus.words) - 1))  # order 0: any word but the sentence begin
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
    """Return counts: below the highest order the distinct left neighbours, or occurrences at a sentence begin."""
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
