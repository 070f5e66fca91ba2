"""Words as a tree of tokens, in arrays: what may follow where, for many places at once.

A node is numbered level by level and sorted by (parent, token), so that the sorted keys are the numbers; the root is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["HotWords", "Trie"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trie:
    """A tree of spellings."""

    vocab: int  # number of tokens
    keys: Integers  # (nodes - 1,), ascending: parent x vocab + token
    first_child: Integers  # (nodes + 1,): the children of a node are first_child[node] to first_child[node + 1]
    entries: Integers  # (entries,): entries by the node where they end
    first_entry: Integers  # (nodes + 1,): those of a node are entries[first_entry[node]:first_entry[node + 1]]

    @classmethod
    def build(cls, spellings: Sequence[Sequence[int]], vocab: int) -> Self:
        """Arrange spellings, none of them empty; entries are numbered as they are listed."""
        lengths = np.array([len(spelling) for spelling in spellings], np.int64)
        tokens = np.full((len(spellings), int(lengths.max(initial=0))), -1, np.int64)
        for row, spelling in zip(tokens, spellings, strict=True):
            row[: len(spelling)] = spelling
        keys = np.zeros(0, np.int64)
        ends = np.zeros(len(spellings), np.int64)  # the node that each spelling has reached
        for place in range(tokens.shape[1]):
            rows = np.flatnonzero(lengths > place)
            level, inverse = np.unique(ends[rows] * vocab + tokens[rows, place], return_inverse=True)
            ends[rows] = len(keys) + 1 + inverse
            keys = np.concatenate([keys, level])
        nodes = np.arange(len(keys) + 2)
        order = np.argsort(ends, kind="stable")
        return cls(
            vocab=vocab,
            keys=keys,
            first_child=np.searchsorted(keys, nodes * vocab) + 1,
            entries=order,
            first_entry=np.searchsorted(ends[order], nodes),
        )

    @property
    def token(self) -> Integers:
        """(nodes,) the token that leads to each node; -1 for the root."""
        return np.concatenate([[-1], self.keys % self.vocab])

    def child(self, nodes: Integers, tokens: Integers) -> Integers:
        """Return (pairs,) the nodes reached by a token, -1 where there is none; from -1 there is none."""
        if not len(self.keys):
            return np.full(len(nodes), -1)
        wanted = nodes * self.vocab + tokens
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((self.keys[places] == wanted) & (nodes >= 0), places + 1, -1)

    def children(self, nodes: Integers) -> tuple[Integers, Integers]:
        """Return every child of the given nodes: (pairs,) whose it is, and (pairs,) the child."""
        return _spread(self.first_child, nodes)

    def ending(self, nodes: Integers) -> tuple[Integers, Integers]:
        """Return every entry that ends at the given nodes: (pairs,) where, and (pairs,) the entry."""
        owner, places = _spread(self.first_entry, nodes)
        return owner, self.entries[places]

    def best_below(self, scores: Floats) -> Floats:
        """Return (nodes,) the largest score of the entries that end at or below each node.

        Args:
            scores: (entries,).
        """
        best = np.full(len(self.keys) + 1, -np.inf)
        owner, entry = self.ending(np.arange(len(best)))
        np.maximum.at(best, owner, scores[entry])
        levels = [1]  # the first node of each
        while levels[-1] < len(best):
            levels.append(int(self.first_child[levels[-1]]))
        for first, behind in reversed([*pairwise(levels)]):
            np.maximum.at(best, self.keys[first - 1 : behind - 1] // self.vocab, best[first:behind])
        return best


def _spread(first: Integers, nodes: Integers) -> tuple[Integers, Integers]:
    counts = first[nodes + 1] - first[nodes]
    owner = np.repeat(np.arange(len(nodes)), counts)
    begins = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - begins[owner] + first[nodes][owner]


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
