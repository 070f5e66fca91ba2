"""An n-gram model as arrays, which scores many words after many histories at once (log10).

A node is an n-gram; node 0 is the empty one. Nodes are numbered order by order and sorted by (node of the prefix, last
word), so that the position of a key is its node. A history is the node of its longest suffix in the model.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.lm.sentences import BEGIN, END, UNKNOWN
from speechssl.errors import VocabularyError

__all__ = ["Entries", "NGramModel", "Perplexity", "perplexity"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_UNKNOWN_LOG10 = -100.0  # log10 probability of unknown words if a file has none, as in kenlm


class Entries(NamedTuple):
    """The n-grams of one order as listed in a file."""

    words: Integers  # (rows, order) ids
    probability: Floats  # (rows,), log10
    backoff: Floats  # (rows,), log10


@dataclass(frozen=True)
class NGramModel:
    """A backoff model."""

    ids: dict[str, int]  # ids by word
    keys: Integers  # (nodes - 1,), ascending: node of the prefix x number of words + last word
    probability: Floats  # (nodes,), log10
    backoff: Floats  # (nodes,), log10
    suffix: Integers  # (nodes,): longest proper suffix of the n-gram in the model
    num_contexts: int  # number of nodes below the highest order, which can be histories

    @classmethod
    def from_entries(cls, words: Sequence[str], orders: Sequence[Entries], *, where: str) -> Self:
        """Build the arrays from n-grams.

        Args:
            words: words of the 1-grams, by id, each once; missing special words are added.
            orders: n-grams of every order, those of order 1 sorted by id, longer ones in any order.
            where: origin of the n-grams, for errors.

        Raises:
            VocabularyError: an n-gram occurs twice, or its prefix is not an n-gram of the lower order.
        """
        ids = {word: number for number, word in enumerate(words)}
        for special in (UNKNOWN, BEGIN, END):
            ids.setdefault(special, len(ids))
        missing = len(ids) - len(words)
        model = cls(
            ids=ids,
            keys=np.arange(len(ids)),
            probability=np.concatenate([[0.0], orders[0].probability, np.full(missing, _UNKNOWN_LOG10)]),
            backoff=np.concatenate([[0.0], orders[0].backoff, np.zeros(missing)]),
            suffix=np.zeros(len(ids) + 1, np.int64),
            num_contexts=len(ids) + 1,
        )
        if len(orders) == 1:
            return dataclasses.replace(model, num_contexts=1)
        for entries in orders[1:]:
            model = model._with_order(entries, where)
        return model

    def numbers(self, words: Iterable[str]) -> list[int]:
        """Return the ids of words, with that of `<unk>` for unknown words."""
        unknown = self.ids[UNKNOWN]
        return [self.ids.get(word, unknown) for word in words]

    @property
    def begin(self) -> int:
        """The history at the beginning of a sentence."""
        return int(self._shorten(np.array([self.ids[BEGIN] + 1]))[0])

    def score(self, histories: Integers, words: Integers) -> tuple[Floats, Integers]:
        """Score words after histories.

        Args:
            histories: (pairs,) nodes.
            words: (pairs,) ids.

        Returns:
            (pairs,) log10 probabilities, and the (pairs,) histories after those words.
        """
        nodes = histories
        found = self._child(nodes, words)
        total = np.zeros(len(nodes))
        while not (is_known := found > 0).all():
            total += np.where(is_known, 0.0, self.backoff[nodes])
            nodes = np.where(is_known, nodes, self.suffix[nodes])
            found = np.where(is_known, found, self._child(nodes, words))
        return total + self.probability[found], self._shorten(found)

    def score_sentence(self, words: Sequence[str]) -> Floats:
        """Return the log10 probability of each word of a sentence, and of its end."""
        history = np.array([self.begin])
        scores = []
        for word in [*self.numbers(words), self.ids[END]]:
            score, history = self.score(history, np.array([word]))
            scores.append(score)
        return np.concatenate(scores)

    def _shorten(self, nodes: Integers) -> Integers:
        return np.where(nodes < self.num_contexts, nodes, self.suffix[nodes])

    def _child(self, nodes: Integers, words: Integers) -> Integers:
        """Return the nodes of histories extended by a word, 0 if they are not in the model."""
        wanted = nodes * len(self.ids) + words
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, places + 1, 0)

    def _with_order(self, entries: Entries, where: str) -> Self:
        """Return the model with the n-grams of the next order."""
        words = entries.words
        nodes = self._child(np.zeros(len(words), np.int64), words[:, 0])
        for column in words[:, 1:-1].T:
            nodes = np.where(nodes > 0, self._child(nodes, column), 0)
        keys = nodes * len(self.ids) + words[:, -1]
        sorting = np.argsort(keys, kind="stable")
        keys = keys[sorting]
        is_bad = (nodes[sorting] == 0) | (np.diff(keys, prepend=-1) == 0)
        if is_bad.any():
            names = list(self.ids)
            found = " ".join(names[word] for word in words[sorting[np.argmax(is_bad)]])
            raise VocabularyError(f"{where}: {found!r} occurs twice, or its first words are not an n-gram of the file")
        suffix, last = self.suffix[nodes[sorting]], words[sorting, -1]
        nodes = self._child(suffix, last)
        while (is_open := nodes == 0).any():  # a pruned model may lack suffixes; every word is a node
            suffix = np.where(is_open, self.suffix[suffix], suffix)
            nodes = np.where(is_open, self._child(suffix, last), nodes)
        return dataclasses.replace(
            self,
            keys=np.concatenate([self.keys, keys]),
            probability=np.concatenate([self.probability, entries.probability[sorting]]),
            backoff=np.concatenate([self.backoff, entries.backoff[sorting]]),
            suffix=np.concatenate([self.suffix, nodes]),
            num_contexts=len(self.keys) + 1,
        )


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text; sentence ends count as words, sentence begins do not."""

    sentences: int
    words: int  # number of words, unknown ones included
    unknown: int
    log10: float  # log10 probability of all words
    log10_known: float  # log10 probability of known words and sentence ends

    @property
    def perplexity(self) -> float:
        """Per word and end of sentence, unknown words included."""
        return float(10.0 ** (-self.log10 / (self.words + self.sentences)))

    @property
    def perplexity_known(self) -> float:
        """Per known word and end of sentence: not comparable between models of different vocabularies."""
        return float(10.0 ** (-self.log10_known / (self.words + self.sentences - self.unknown)))


def perplexity(model: NGramModel, sentences: Iterable[Sequence[str]]) -> Perplexity:
    """Measure the perplexity of a text.

    All sentences advance together, one word at a time.

    Raises:
        VocabularyError: there is no sentence.
    """
    rows = [np.array([*model.numbers(words), model.ids[END]]) for words in sentences]
    if not rows:
        raise VocabularyError("the texts hold no words; name files with text, or manifests with a text column")
    rows.sort(key=len, reverse=True)
    lengths = np.array([len(row) for row in rows])
    history = np.full(len(rows), model.begin)
    totals = [0.0, 0.0]  # known words, unknown words
    unknown = 0
    for place in range(lengths[0]):
        count = int((lengths > place).sum())
        words = np.array([row[place] for row in rows[:count]])
        scores, history = model.score(history[:count], words)
        is_unknown = words == model.ids[UNKNOWN]
        unknown += int(is_unknown.sum())
        totals[0] += float(scores[~is_unknown].sum())
        totals[1] += float(scores[is_unknown].sum())
    return Perplexity(len(rows), int(lengths.sum()) - len(rows), unknown, sum(totals), totals[0])
