"""Counts of n-grams, as sorted arrays: an n-gram is the row of its first words, one order below, and its last word.

Two integers packed into one are sorted instead of tuples put into dictionaries: at 10 million words of order 3 about
100 bytes a word.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import VocabularyError
from speechssl.lm.texts import BEGIN, END, UNKNOWN

__all__ = ["BEGIN_ID", "END_ID", "UNKNOWN_ID", "Corpus", "NGrams", "count_ngrams", "number_words"]

UNKNOWN_ID, BEGIN_ID, END_ID = range(3)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Text as numbers."""

    words: tuple[str, ...]  # by id: unknown, begin, end, then in code-point order
    tokens: Integers  # (tokens,): every sentence with its begin and its end, one after the other


@dataclass(frozen=True)
class NGrams:
    """All n-grams of one order, sorted. Rows of order 1 are the ids of words."""

    prefix: Integers  # (rows,): row, one order below, of the n-gram without its last word
    suffix: Integers  # (rows,): row, one order below, of the n-gram without its first word
    word: Integers  # (rows,): the last word
    raw: Integers  # (rows,): how often it occurs
    starts: NDArray[np.bool_]  # (rows,): True where it begins a sentence


def number_words(sentences: Iterable[Sequence[str]], *, vocabulary: int | None = None) -> Corpus:
    """Give every word a number.

    Args:
        sentences: words of each.
        vocabulary: how many of the most frequent words to keep, of equally frequent ones the first in code-point
            order; the others become the unknown word. None keeps all.

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
    rows = tokens  # of the n-gram that begins at each token; -1 where the sentence is too short for it
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
