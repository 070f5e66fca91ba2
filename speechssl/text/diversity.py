"""Diversity of texts: distinct words and letters, their entropies, and lengths.

A recogniser that learns from its own transcripts may come to write fewer words. Numbers of distinct words grow with the
texts, so texts are compared at one number of words.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Diversity", "diversity"]


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Diversity of a sample of texts."""

    words: int  # number of words in the sample
    distinct_words: int
    distinct_letters: int
    word_entropy: float  # bits a word, of the frequencies in the sample
    letter_entropy: float  # bits a letter
    mean_letters: float  # of a text, spaces included


def diversity(texts: Sequence[str], *, at_most: int, seed: int = 0) -> Diversity:
    """Measure the first `at_most` words of the texts, in an order drawn by `seed`; lengths are those of all texts."""
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    words = [word for index in order for word in texts[index].split()][:at_most]
    letters = Counter(letter for word in words for letter in word)
    return Diversity(
        words=len(words),
        distinct_words=len({*words}),
        distinct_letters=len(letters),
        word_entropy=_entropy(Counter(words).values()),
        letter_entropy=_entropy(letters.values()),
        mean_letters=sum(map(len, texts)) / max(1, len(texts)),
    )


def _entropy(counts: Iterable[int]) -> float:
    found = [*counts]
    total = sum(found)
    return 0.0 - sum(count / total * math.log2(count / total) for count in found)
