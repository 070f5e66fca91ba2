"""Words that a search shall prefer: names, terms. Their letters earn a share of the weight as they come."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechssl.decoding.trie import Trie

__all__ = ["HotWords"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class HotWords:
    """A state for each prefix: the node of the word it is in, 0 at its beginning, -1 when it is none of them.

    What a word has earned so far is taken back where it goes astray, so that a text earns the weight once for each hot
    word in it and nothing else: the search is led, the ranking of whole texts is not.
    """

    def __init__(self, spellings: Sequence[Sequence[int]], vocab: int, boundary: int, weight: float) -> None:
        """Prepare.

        Args:
            spellings: token ids of each word, without word boundary.
            vocab: number of tokens.
            boundary: token between words.
            weight: earned by each, in natural logarithms.
        """
        self._trie = Trie.build(spellings, vocab)
        self._boundary = boundary
        owner, _ = self._trie.ending(np.arange(len(self._trie.keys) + 1))
        shortest = -self._trie.best_below(np.array([-float(len(spelling)) for spelling in spellings]))
        depth = np.zeros(len(shortest))
        for node, parent in enumerate((self._trie.keys // vocab).tolist(), start=1):
            depth[node] = depth[parent] + 1
        self._share = np.append(weight * depth / shortest, 0.0)  # [-1]: of what is no hot word
        self._whole = np.zeros(len(shortest) + 1)
        self._whole[owner] = weight

    def advance(self, nodes: Integers, tokens: Integers) -> tuple[Integers, Floats]:
        """Return (pairs,) the states after a token, and what it earns."""
        is_end = tokens == self._boundary
        children = self._trie.child(nodes, tokens)
        earned = np.where(is_end, self._whole[nodes], self._share[children]) - self._share[nodes]
        return np.where(is_end, 0, children), earned
