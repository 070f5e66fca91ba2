"""Letters to ids and back. The vocabulary is what the training texts hold, in any script, after NFC.

Token 0 is the CTC blank, token 1 the word boundary `|`, the letters follow in code-point order.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from speechssl.errors import VocabularyError

__all__ = ["BLANK", "WORD_BOUNDARY", "Vocabulary"]

BLANK = 0  # id of the CTC blank
WORD_BOUNDARY = "|"


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of letters.

    Examples:
        >>> vocabulary = Vocabulary.from_texts(["ab a"])
        >>> vocabulary.encode("b a", where="example")
        [3, 1, 2]
        >>> vocabulary.decode([3, 1, 2])
        'b a'
    """

    tokens: tuple[str, ...]  # by id; tokens[0] is the blank

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Self:
        """Collect the letters of the training texts.

        Raises:
            VocabularyError: no text holds a letter, or one holds the word boundary's sign.
        """
        letters = sorted({letter for text in texts for letter in _normalise(text) if not letter.isspace()})
        if not letters:
            raise VocabularyError("the training texts hold no letters; give the manifest a text column")
        if WORD_BOUNDARY in letters:
            raise VocabularyError(f"a training text holds {WORD_BOUNDARY!r}, which marks word boundaries; remove it")
        return cls(("<blank>", WORD_BOUNDARY, *letters))

    def __len__(self) -> int:
        """Return the number of tokens, blank and word boundary included."""
        return len(self.tokens)

    def encode(self, text: str, *, where: str) -> list[int]:
        """Return the ids of a text; `where` names it in errors.

        Raises:
            VocabularyError: the text is empty or holds letters outside the vocabulary.
        """
        ids = {token: index for index, token in enumerate(self.tokens)}
        words = _normalise(text).split()
        letters = WORD_BOUNDARY.join(words)
        unknown = sorted({letter for letter in "".join(words) if letter not in ids or letter == WORD_BOUNDARY})
        if unknown:
            raise VocabularyError(
                f"{where}: the text holds {' '.join(map(repr, unknown))}, which the vocabulary lacks; "
                "normalise the text, or add it to the training texts"
            )
        if not letters:
            raise VocabularyError(f"{where}: the text is empty; remove the utterance or transcribe it")
        return [ids[letter] for letter in letters]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without blanks; runs of word boundaries become one space."""
        letters = "".join(self.tokens[index] for index in ids if index != BLANK)
        return " ".join(letters.replace(WORD_BOUNDARY, " ").split())


def _normalise(text: str) -> str:
    return unicodedata.normalize("NFC", text)
