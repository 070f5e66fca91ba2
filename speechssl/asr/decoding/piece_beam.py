"""Grammar for models of pieces: any pieces, scored letter by letter by the grammars of letters.

A piece is spelled in letters; its word start becomes a boundary before them. So letter models, word models and lexicons
work for pieces, too, however a word is split into them; the decoder adds up the ways.
"""

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.decoding.grammar import LetterGrammar, WordGrammar, every_pair
from speechssl.asr.decoding.search import Extensions
from speechssl.text.pieces import WORD_START
from speechssl.text.vocabulary import BLANK, WORD_BOUNDARY, Vocabulary

__all__ = ["PieceGrammar", "letters_of"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_NONE = -1  # padding after the letters of a shorter piece


def letters_of(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the tokens of a corresponding letter vocabulary: the blank, the word boundary, the pieces' letters."""
    return (vocabulary.tokens[BLANK], WORD_BOUNDARY, *sorted({*"".join(vocabulary.tokens[1:])} - {WORD_START}))


class PieceGrammar:
    """Any pieces, with the scores that a grammar gives to their letters."""

    boundary = None

    def __init__(self, vocabulary: Vocabulary, letters: LetterGrammar | WordGrammar) -> None:
        """Prepare.

        Args:
            vocabulary: vocabulary of pieces.
            letters: grammar over the tokens of `letters_of`.
        """
        self.edges = len(vocabulary)
        self._letters = letters
        ids = {letter: number for number, letter in enumerate(letters_of(vocabulary))} | {WORD_START: letters.boundary}
        self._spelled = np.full((len(vocabulary), max(map(len, vocabulary.tokens[1:]))), _NONE)
        for row, piece in zip(self._spelled[1:], vocabulary.tokens[1:], strict=True):
            row[: len(piece)] = [ids[letter] for letter in piece]

    def start(self) -> Integers:
        """Return the state of the empty prefix."""
        return self._letters.start()

    def is_between_words(self, states: Integers) -> Flags:
        """Return (prefixes,) False: no piece is skipped."""
        return np.zeros(len(states), bool)

    def extend(self, states: Integers, is_allowed: Flags) -> Extensions:
        """Return every allowed piece after every prefix."""
        owner, token = every_pair(len(states), is_allowed)
        after, earned = self._follow(states[owner], self._spelled[token])
        return Extensions(owner, token, token, earned, after)

    def finish(self, states: Integers) -> Floats:
        """Return (prefixes,) scores for the end of the last word and of the text."""
        after, earned = self._follow(states, np.full((len(states), 1), self._letters.boundary))
        total: Floats = earned + self._letters.finish(after)
        return total if np.isfinite(total).any() else np.zeros(len(states))  # else: no word could end

    def _follow(self, states: Integers, spelled: Integers) -> tuple[Integers, Floats]:
        """Return states and scores after (prefixes, letters); boundaries count only between words."""
        states, earned = states.copy(), np.zeros(len(states))
        for column in spelled.T:
            is_idle = (column == self._letters.boundary) & self._letters.is_between_words(states)
            where = np.flatnonzero((column != _NONE) & ~is_idle)
            states[where], more = self._letters.follow(states[where], column[where])
            earned[where] += more
        return states, earned
