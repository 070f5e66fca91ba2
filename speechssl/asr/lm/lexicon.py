"""Lexicons: the words that a decoder may write, spelled in the tokens of a model's vocabulary.

A file has one line per word: the word, a tab, and its tokens separated by spaces, the word boundary last, as read by
flashlight and torchaudio. Pieces mark word starts themselves and need no boundary. A word may have several spellings.
For a model of phones a pronunciation lexicon works, too, as read by `text.phones`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from speechssl.atomic import write_atomically
from speechssl.errors import VocabularyError
from speechssl.text.phones import read_pronunciations, without_variant
from speechssl.text.pieces import WORD_START, segment
from speechssl.text.vocabulary import WORD_BOUNDARY, Vocabulary

__all__ = ["Lexicon", "read_lexicon", "spell"]


@dataclass(frozen=True)
class Lexicon:
    """Words and their spellings."""

    words: tuple[str, ...]  # ascending; repeated for several spellings
    spellings: tuple[tuple[str, ...], ...]  # tokens of each, without the word boundary
    notes: tuple[str, ...] = field(default=(), compare=False)  # notes on lines of the file that were ignored

    @classmethod
    def from_sentences(
        cls, sentences: Iterable[Sequence[str]], vocabulary: Vocabulary, *, min_count: int = 1
    ) -> tuple[Self, list[str]]:
        """Collect the words of texts that the vocabulary can spell: in letters, phones of its lexicon, or pieces.

        Args:
            sentences: words of each sentence.
            vocabulary: vocabulary of the model.
            min_count: rarer words are left out.

        Returns:
            The lexicon, and the words that the vocabulary cannot spell, most frequent first.

        Raises:
            VocabularyError: no word is left.
        """
        counts = Counter(word for sentence in sentences for word in sentence)
        frequent = {word: count for word, count in counts.items() if count >= min_count}
        spelled = {word: spelling for word in sorted(frequent) if (spelling := spell(word, vocabulary))}
        refused = sorted(set(frequent) - set(spelled), key=lambda word: (-counts[word], word))
        if not spelled:
            raise VocabularyError(
                f"none of {len(counts)} words can be spelled in the vocabulary's {vocabulary.written_in}; "
                "normalise the texts as those of training were (--normaliser), or take texts of its language"
            )
        return cls(tuple(spelled), tuple(spelled.values())), refused

    def write(self, path: Path) -> None:
        """Write the file."""
        lines = []
        for word, spelling in zip(self.words, self.spellings, strict=True):
            end = () if spelling[0].startswith(WORD_START) else (WORD_BOUNDARY,)
            lines.append(f"{word}\t{' '.join((*spelling, *end))}\n")
        write_atomically(path, "".join(lines))


def spell(word: str, vocabulary: Vocabulary) -> tuple[str, ...] | None:
    """Return the tokens of a word, for pieces the most probable ones; None if it cannot be spelled."""
    if vocabulary.written_in == "phones":
        return vocabulary.lexicon.get(word)
    if vocabulary.written_in == "pieces":
        is_known = bool(word) and {*word} <= vocabulary.scores.keys() - {WORD_START}
        return tuple(segment(word, vocabulary.scores)) if is_known else None
    is_known = all(letter in vocabulary.tokens[1:] and letter != WORD_BOUNDARY for letter in word)
    return tuple(word) if is_known and word else None


def read_lexicon(path: Path, vocabulary: Vocabulary) -> Lexicon:
    """Read a lexicon for a model; the word boundary at the end of a spelling is optional.

    Raises:
        VocabularyError: a line does not parse, or the vocabulary lacks a token.
    """
    known = set(vocabulary.tokens[1:]) - {WORD_BOUNDARY}
    entries: set[tuple[str, tuple[str, ...]]] = set()
    found, notes = read_pronunciations(path, comments=vocabulary.written_in == "phones")
    words_there = {each.word for each in found}
    for each in found:
        word, tokens = each.word, each.phones
        if vocabulary.written_in == "phones" and (first := without_variant(word)) in words_there:
            word = first
        if tokens[-1] == WORD_BOUNDARY:
            tokens = tokens[:-1]
        if not tokens:
            raise VocabularyError(f"{path}:{each.line}: expected a word and its tokens, found {word} without tokens")
        if unknown := sorted(set(tokens) - known):
            raise VocabularyError(
                f"{path}:{each.line}: {word} is spelled with {' '.join(map(repr, unknown))}, which the model's "
                "vocabulary lacks; make the lexicon with `speechssl lm lexicon` for this model"
            )
        entries.add((word, tokens))
    words, spellings = zip(*sorted(entries), strict=True)
    return Lexicon(words, spellings, tuple(notes))
