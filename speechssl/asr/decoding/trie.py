"""Tries of spellings as arrays, searched for many nodes at once; scores of hot words.

Nodes are numbered level by level and sorted by (parent, token), so that the position of a key is its node; the root is
0.
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
    """A trie of spellings."""

    vocab: int  # number of tokens
    keys: Integers  # (nodes - 1,), ascending: parent x vocab + token
    first_child: Integers  # (nodes + 1,): the children of a node are first_child[node] to first_child[node + 1]
    entries: Integers  # (entries,): entries sorted by the node where they end
    first_entry: Integers  # (nodes + 1,): entries of a node are entries[first_entry[node]:first_entry[node + 1]]

    @classmethod
    def build(cls, spellings: Sequence[Sequence[int]], vocab: int) -> Self:
        """Build a trie from non-empty spellings; entries are numbered in their order."""
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
        """(nodes,) token that leads to each node; -1 for the root."""
        return np.concatenate([[-1], self.keys % self.vocab])

    def child(self, nodes: Integers, tokens: Integers) -> Integers:
        """Return the (pairs,) nodes reached by a token, -1 if there is none; -1 has no children."""
        if not len(self.keys):
            return np.full(len(nodes), -1)
        wanted = nodes * self.vocab + tokens
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((self.keys[places] == wanted) & (nodes >= 0), places + 1, -1)

    def children(self, nodes: Integers) -> tuple[Integers, Integers]:
        """Return all children of the given nodes: (pairs,) index of the parent, and (pairs,) child."""
        return _spread(self.first_child, nodes)

    def ending(self, nodes: Integers) -> tuple[Integers, Integers]:
        """Return all entries that end at the given nodes: (pairs,) index of the node, and (pairs,) entry."""
        owner, places = _spread(self.first_entry, nodes)
        return owner, self.entries[places]

    def best_below(self, scores: Floats) -> Floats:
        """Return the (nodes,) largest score of the entries that end at or below each node.

        Args:
            scores: (entries,).
        """
        best = np.full(len(self.keys) + 1, -np.inf)
        owner, entry = self.ending(np.arange(len(best)))
        np.maximum.at(best, owner, scores[entry])
        levels = [1]  # first node of each level
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
    """Hot-word state of each prefix: its node within a hot word, 0 at the beginning of a word, -1 in another word.

    The partial score of a hot word is taken back when the word deviates, so that a text gets the weight exactly once
    for each hot word in it. Partial scores guide the search without changing the ranking of whole texts.
    """

    def __init__(self, spellings: Sequence[Sequence[int]], vocab: int, boundary: int, weight: float) -> None:
        """Prepare.

        Args:
            spellings: token ids of each word, without word boundary.
            vocab: number of tokens.
            boundary: token between words.
            weight: score of each hot word, in natural logarithms.
        """
        self._trie = Trie.build(spellings, vocab)
        self._boundary = boundary
        owner, _ = self._trie.ending(np.arange(len(self._trie.keys) + 1))
        shortest = -self._trie.best_below(np.array([-float(len(spelling)) for spelling in spellings]))
        depth = np.zeros(len(shortest))
        for node, parent in enumerate((self._trie.keys // vocab).tolist(), start=1):
            depth[node] = depth[parent] + 1
        self._share = np.append(weight * depth / shortest, 0.0)  # [-1]: for other words
        self._whole = np.zeros(len(shortest) + 1)
        self._whole[owner] = weight

    def advance(self, nodes: Integers, tokens: Integers) -> tuple[Integers, Floats]:
        """Return the (pairs,) states after a token, and the scores added."""
        is_end = tokens == self._boundary
        children = self._trie.child(nodes, tokens)
        earned = np.where(is_end, self._whole[nodes], self._share[children]) - self._share[nodes]
        return np.where(is_end, 0, children), earned
