"""Grammars for the prefix search: any letters, any words scored by a word model, or the words of a lexicon.

The score of a text is the log-probability of its frames, plus `lm_weight` times the log10 probability of the language
model, plus `word_score` for each word. These are flashlight's units, used for published weights (pyctcdecode's alpha is
lm_weight / ln 10, its beta is the word score).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.decoding.search import Extensions
from speechssl.asr.decoding.trie import HotWords, Trie
from speechssl.asr.lm.ngram_model import NGramModel
from speechssl.asr.lm.sentences import END
from speechssl.config import configuration
from speechssl.text.vocabulary import BLANK

__all__ = ["LetterGrammar", "LexiconGrammar", "Weights", "WordGrammar", "every_pair"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_BETWEEN, _HOT, _HISTORY, _NODE = range(4)  # columns of a state


@configuration
class Weights:
    """Weights of the language model."""

    lm_weight: float = 2.0  # factor of the model's log10 probability (flashlight: lm_weight)
    word_score: float = 0.0  # added for each word (flashlight: word_score)
    unknown_score: float = 0.0  # added for each unknown word, besides its probability; not with a lexicon


def every_pair(prefixes: int, is_allowed: Flags) -> tuple[Integers, Integers]:
    """Return (pairs,) prefixes and tokens: every allowed token except the blank after each prefix."""
    tokens = np.flatnonzero(is_allowed)
    tokens = tokens[tokens != BLANK]
    return np.repeat(np.arange(prefixes), len(tokens)), np.tile(tokens, prefixes)


class _Grammar:
    """Base of the three grammars: sentence ends of the language model, hot words, the initial state."""

    def __init__(
        self, boundary: int, edges: int, lm: NGramModel | None, weights: Weights, hot: HotWords | None
    ) -> None:
        self.boundary = boundary
        self.edges = edges
        self._lm = lm
        self._weights = weights
        self._hot = hot

    def start(self) -> Integers:
        """Return the state of the empty prefix."""
        return np.array([1, 0, 0 if self._lm is None else self._lm.begin, 0])

    def is_between_words(self, states: Integers) -> Flags:
        """Return (prefixes,) bool, True if a word has just ended or none has begun."""
        return states[:, _BETWEEN] > 0

    def finish(self, states: Integers) -> Floats:
        """Return (prefixes,) scores of the language model for the sentence end."""
        if self._lm is None:
            return np.zeros(len(states))
        ends = np.full(len(states), self._lm.ids[END])
        return self._weights.lm_weight * self._lm.score(states[:, _HISTORY], ends)[0]

    def follow(self, states: Integers, tokens: Integers) -> tuple[Integers, Floats]:
        """Return (prefixes, width) states after a token each, and (prefixes,) what the tokens earn."""
        states = states.copy()
        earned = np.zeros(len(states))
        states[:, _BETWEEN] = tokens == self.boundary
        if self._hot is not None:
            states[:, _HOT], earned = self._hot.advance(states[:, _HOT], tokens)
        return states, earned

    def _every_token(self, states: Integers, is_allowed: Flags) -> Extensions:
        """Return every allowed token after every prefix, boundaries only after a letter."""
        owner, token = every_pair(len(states), is_allowed)
        is_kept = (token != self.boundary) | (states[owner, _BETWEEN] == 0)
        owner, token = owner[is_kept], token[is_kept]
        after, earned = self.follow(states[owner], token)
        return Extensions(owner, token, token, earned, after)

    def _judge(self, states: Integers, earned: Floats, where: Integers, words: Integers) -> None:
        """Add the language model's scores of (places,) words to some of the states and scores, in place."""
        earned[where] += self._weights.word_score
        if self._lm is not None:
            scores, histories = self._lm.score(states[where, _HISTORY], words)
            earned[where] += self._weights.lm_weight * scores
            states[where, _HISTORY] = histories


class LetterGrammar(_Grammar):
    """Any letters, with or without a language model of letters and word boundaries."""

    def __init__(
        self,
        tokens: Sequence[str],
        boundary: int,
        lm: NGramModel | None = None,
        weights: Weights | None = None,
        hot: HotWords | None = None,
    ) -> None:
        super().__init__(boundary, len(tokens), lm, weights or Weights(), hot)
        self._lm_ids = np.array([0] * len(tokens) if lm is None else lm.numbers(tokens))

    def follow(self, states: Integers, tokens: Integers) -> tuple[Integers, Floats]:
        """Return (prefixes, width) states after a token each, and (prefixes,) what the tokens earn."""
        states, earned = super().follow(states, tokens)
        earned[tokens == self.boundary] += self._weights.word_score
        if self._lm is not None:
            scores, states[:, _HISTORY] = self._lm.score(states[:, _HISTORY], self._lm_ids[tokens])
            earned += self._weights.lm_weight * scores
        return states, earned

    def extend(self, states: Integers, is_allowed: Flags) -> Extensions:
        """Return every allowed token after every prefix."""
        return self._every_token(states, is_allowed)


class WordGrammar(_Grammar):
    """Any letters; each word is scored by a word model at its end. Unknown words may be allowed or not."""

    def __init__(
        self,
        vocab: int,
        boundary: int,
        lm: NGramModel | None,
        known: Sequence[tuple[str, Sequence[int]]],
        weights: Weights,
        hot: HotWords | None = None,
        *,
        only_known: bool = False,
    ) -> None:
        """Prepare; `known` maps the words of a lexicon or of the model to token ids."""
        super().__init__(boundary, vocab, lm, weights, hot)
        self._trie = Trie.build([spelling for _, spelling in known], vocab)
        owner, entry = self._trie.ending(np.arange(len(self._trie.keys) + 1))
        self._word = np.full(len(self._trie.keys) + 2, -1)  # word that ends at each node; the last entry is for no node
        numbers = range(len(known)) if lm is None else lm.numbers(word for word, _ in known)
        self._word[owner] = np.array(numbers, np.int64)[entry]
        self._unknown = 0 if lm is None else lm.numbers([""])[0]
        self._only_known = only_known

    def follow(self, states: Integers, tokens: Integers) -> tuple[Integers, Floats]:
        """Return (prefixes, width) states after a token each, and (prefixes,) what the tokens earn."""
        states, earned = super().follow(states, tokens)
        nodes = states[:, _NODE].copy()
        states[:, _NODE] = self._trie.child(nodes, tokens)
        ends = np.flatnonzero(tokens == self.boundary)
        words = self._word[nodes[ends]]
        earned[ends] += np.where(words < 0, self._weights.unknown_score, 0.0)
        states[ends, _NODE] = 0
        self._judge(states, earned, ends, np.where(words < 0, self._unknown, words))
        if self._only_known:
            earned[ends[words < 0]] = -np.inf
            earned[states[:, _NODE] < 0] = -np.inf
        return states, earned

    def extend(self, states: Integers, is_allowed: Flags) -> Extensions:
        """Return every allowed token after every prefix."""
        return self._every_token(states, is_allowed)


class LexiconGrammar(_Grammar):
    """The words of a lexicon only, with or without a word model.

    As in flashlight, a prefix within a word gets in advance the best score of any word with this beginning at the start
    of a text.
    """

    def __init__(
        self,
        vocab: int,
        boundary: int,
        entries: Sequence[tuple[str, Sequence[int]]],
        lm: NGramModel | None,
        weights: Weights,
        hot: HotWords | None = None,
    ) -> None:
        """Prepare; `entries` maps words to token ids."""
        self._trie = Trie.build([spelling for _, spelling in entries], vocab)
        self._nodes = len(self._trie.keys) + 1
        super().__init__(boundary, self._nodes + len(entries), lm, weights, hot)
        self._token = self._trie.token
        self._words = np.zeros(len(entries), np.int64)
        self._ahead = np.zeros(self._nodes)
        if lm is not None:
            self._words = np.array(lm.numbers(word for word, _ in entries), np.int64)
            first, _ = lm.score(np.full(len(entries), lm.begin), self._words)
            self._ahead = weights.lm_weight * self._trie.best_below(first)
            self._ahead[0] = 0.0

    def entry(self, edge: int) -> int | None:
        """Return the entry that ended with an edge, if any."""
        return edge - self._nodes if edge >= self._nodes else None

    def extend(self, states: Integers, is_allowed: Flags) -> Extensions:
        """Return the next letters of words, and the word ends."""
        nodes = states[:, _NODE]
        owner, child = self._trie.children(nodes)
        is_kept = is_allowed[self._token[child]]
        owner, child = owner[is_kept], child[is_kept]
        ending, entry = self._trie.ending(nodes)
        if not is_allowed[self.boundary]:
            ending, entry = ending[:0], entry[:0]
        both = np.concatenate([owner, ending])
        ends = np.arange(len(owner), len(both))
        token = np.concatenate([self._token[child], np.full(len(ends), self.boundary)])
        after, earned = self.follow(states[both], token)
        earned += np.concatenate([self._ahead[child], np.zeros(len(ends))]) - self._ahead[nodes[both]]
        after[:, _NODE] = np.concatenate([child, np.zeros(len(ends), np.int64)])
        self._judge(after, earned, ends, self._words[entry])
        return Extensions(both, token, np.concatenate([child, entry + self._nodes]), earned, after)
