"""The vocabulary: converts texts to token ids and back, with letters, phones of a lexicon, or word pieces as tokens.

Texts are normalised by the text policy first. Token 0 is the CTC blank. For letters and phones token 1 is the word
boundary `|`, and the others follow in code-point order; pieces that begin a word begin with `▁`, and pieces are ordered
by probability, the most probable first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from speechssl.config import Discriminator, configuration
from speechssl.errors import ConfigError, VocabularyError
from speechssl.text.phones import read_lexicon_of_phones
from speechssl.text.pieces import WORD_START, segment, train_pieces
from speechssl.text.policy import TextConfig, digits_in
from speechssl.text.writing import WritingConfig, joined_words, tidied

__all__ = [
    "BLANK",
    "WORD_BOUNDARY",
    "Letters",
    "Phones",
    "Pieces",
    "UnitsConfig",
    "Vocabulary",
    "WrittenIn",
    "frames_needed",
]

BLANK = 0  # id of the CTC blank
WORD_BOUNDARY = "|"
WrittenIn = Literal["letters", "phones", "pieces"]


@configuration
class Letters:
    """Every letter of the training texts is a token."""

    kind: Literal["letters"] = "letters"


@configuration
class Phones:
    """Every phone of the words in the training texts is a token."""

    kind: Literal["phones"] = "phones"
    lexicon: Path  # pronunciation lexicon: lines of a word, a tab and its phones


@configuration
class Pieces:
    """Word pieces trained on the training texts are tokens."""

    kind: Literal["pieces"] = "pieces"
    size: int = 500  # most pieces, including all letters

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ConfigError(f"units.size must be 2 or more, found {self.size}")


UnitsConfig = Annotated[Letters | Phones | Pieces, Discriminator("kind")]


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of tokens, which encodes and decodes texts.

    Examples:
        >>> vocabulary = Vocabulary.from_texts(["ab a"])
        >>> vocabulary.encode("b a", where="example")
        [3, 1, 2]
        >>> vocabulary.decode([3, 1, 2])
        'b a'
    """

    tokens: tuple[str, ...]  # by id; tokens[0] is the blank
    written_in: WrittenIn = "letters"
    text: TextConfig = TextConfig()
    lexicon: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # phones by word; empty: texts are phones
    scores: Mapping[str, float] = field(default_factory=dict)  # log-probability by piece
    notes: tuple[str, ...] = field(default=(), compare=False)  # notes on what of the lexicon was not used
    writing: WritingConfig = WritingConfig()  # how texts are written out

    @classmethod
    def from_texts(cls, texts: Iterable[str], units: UnitsConfig | None = None, text: TextConfig | None = None) -> Self:
        """Collect the tokens of the training texts.

        Args:
            texts: texts as in the manifest.
            units: kind of tokens; None for letters.
            text: text policy; None for the default.

        Raises:
            VocabularyError: no text holds a letter, one holds a mark of word boundaries, or the lexicon has none of
                their words.
            ConfigError: SentencePiece is needed but not installed.
        """
        policy = text or TextConfig()
        prepared = [policy.apply(each) for each in texts]
        match units or Letters():
            case Letters():
                return cls(("<blank>", WORD_BOUNDARY, *_letters(prepared)), text=policy)
            case Phones(lexicon=path):
                lexicon, notes = read_lexicon_of_phones(path, policy)
                used = {phone for each in prepared for word in each.split() for phone in lexicon.get(word, ())}
                if not used:
                    raise VocabularyError(f"{path}: has none of the words of the training texts; name another lexicon")
                if WORD_BOUNDARY in used:
                    raise VocabularyError(
                        f"{path}: has a phone {WORD_BOUNDARY!r}, which marks word boundaries; rename it"
                    )
                return cls(("<blank>", WORD_BOUNDARY, *sorted(used)), "phones", policy, lexicon, notes=tuple(notes))
            case Pieces(size=size):
                scores = train_pieces(prepared, size)
                return cls(("<blank>", *scores), "pieces", policy, scores=scores)

    def __len__(self) -> int:
        """Return the number of tokens, including blank and word boundary."""
        return len(self.tokens)

    def encode(self, text: str, *, where: str) -> list[int]:
        """Encode a text of a manifest as ids; `where` names it in errors.

        Raises:
            VocabularyError: the normalised text is empty, or holds refused digits, letters outside the
                vocabulary, or words that the lexicon lacks.
        """
        prepared = self.text.apply(text)
        if self.text.refuses(prepared):
            raise VocabularyError(
                f"{where}: the text holds digits, {' '.join(digits_in(prepared))}, and text.digits=refuse; "
                "write numbers as they are spoken"
            )
        if unknown := self._unknown_words(prepared):
            raise VocabularyError(
                f"{where}: the text holds {' '.join(map(repr, unknown))}, which the lexicon lacks; add them to it"
            )
        if unknown := self._unknown_letters(prepared):
            raise VocabularyError(
                f"{where}: the text holds {' '.join(map(repr, unknown))}, which the vocabulary lacks; "
                "normalise the text, or add it to the training texts"
            )
        if not prepared:
            raise VocabularyError(f"{where}: the text is empty; remove the utterance or transcribe it")
        ids = {token: index for index, token in enumerate(self.tokens)}
        return [ids[token] for token in self._spell(prepared)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids to a text; blanks are dropped, runs of word boundaries become one space.

        Phones are written with blanks between, and words of phones with ` | `, unless `writing` says otherwise.
        """
        tokens = [self.tokens[index] for index in ids if index != BLANK]
        tokens = [token for token in tokens if token not in self.writing.silent]
        boundary = self.writing.boundary
        if self.written_in == "phones" and boundary is None:
            text = f" {WORD_BOUNDARY} ".join(" ".join(word) for word in self._group(tokens))
        elif self.written_in == "phones":
            written = (boundary if token == WORD_BOUNDARY else token for token in tokens)
            text = " ".join(token for token in written if token)
        elif self.written_in == "pieces":
            text = " ".join(self.write(word) for word in self._group(tokens))
        else:
            between = " " if boundary is None else boundary
            text = "".join(between if token == WORD_BOUNDARY else token for token in tokens).strip()
        return " ".join((tidied(text) if self.writing.tidy else text).split())

    def join(self, words: Sequence[str]) -> str:
        """Join words of `write` to a text."""
        is_own = self.writing.boundary is not None and self.written_in == "letters"
        text = (self.writing.boundary or "" if is_own else " ").join(words)
        return tidied(text) if self.writing.tidy else text

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        """Return the indices in `ids`, which has no CTC blanks, of the tokens of each word, without boundaries."""
        found: list[list[int]] = []
        gaps: list[int] = []  # boundaries before each word
        gap = 0
        for place, token in enumerate(ids):
            if self.is_boundary(token):
                gap += 1
            elif self.tokens[token] in self.writing.silent:
                continue
            elif found and not gap and not self.begins_word(token):
                found[-1].append(place)
            else:
                found.append([place])
                gaps.append(max(gap, 1) if gaps else 0)
                gap = 0
        if not self.writing.tidy or self.written_in != "letters":
            return found
        joined = joined_words([self.write([self.tokens[ids[place]] for place in word]) for word in found], gaps)
        merged: list[list[int]] = []
        for word, is_joined in zip(found, joined, strict=True):
            merged[-1:] = [[*merged[-1], *word]] if is_joined else [*merged[-1:], word]
        return merged

    def write(self, word: Sequence[str]) -> str:
        """Write the tokens of one word without spaces; phones are separated by dots."""
        if self.written_in == "phones":
            return ".".join(word)
        return "".join(word).removeprefix(WORD_START if self.written_in == "pieces" else "")

    def reference(self, text: str) -> str:
        """Return the output of a perfect model for a text of a manifest.

        Raises:
            VocabularyError: tokens are phones, and the lexicon lacks a word.
        """
        prepared = self.text.apply(text)
        if self.written_in != "phones" or not self.lexicon:
            return prepared
        if unknown := self._unknown_words(prepared):
            raise VocabularyError(
                f"the text {text[:40]!r} holds {' '.join(map(repr, unknown))}, which the lexicon lacks; add them to it"
            )
        return f" {WORD_BOUNDARY} ".join(" ".join(self.lexicon[word]) for word in prepared.split())

    def unknown_letters(self, text: str) -> list[str]:
        """Return the letters, or phones, of a text that no token spells, in code-point order."""
        return self._unknown_letters(self.text.apply(text))

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that the lexicon lacks, in order; empty for other units."""
        return self._unknown_words(self.text.apply(text))

    def begins_word(self, token: int) -> bool:
        """Return whether a token, by id, begins a word; always False for letters and phones, which have boundaries."""
        return self.written_in == "pieces" and self.tokens[token].startswith(WORD_START)

    def is_boundary(self, token: int) -> bool:
        """Return whether a token, by id, is only a word boundary: `|`, or a lone mark of the start of a word."""
        return self.tokens[token] == (WORD_START if self.written_in == "pieces" else WORD_BOUNDARY)

    def _unknown_letters(self, prepared: str) -> list[str]:
        match self.written_in:
            case "letters":
                needed, known = {*prepared}, {*self.tokens[1:]} - {WORD_BOUNDARY}
                needed -= {" "} if WORD_BOUNDARY in self.tokens else set()
            case "phones" if not self.lexicon:
                needed, known = {*prepared.split()}, {*self.tokens[1:]}
            case "phones":
                needed = {phone for word in prepared.split() for phone in self.lexicon.get(word, ())}
                known = {*self.tokens[1:]}
            case "pieces":
                needed, known = {*prepared} - {" "}, self.scores.keys() - {WORD_START}
        return sorted(needed - known)

    def _unknown_words(self, prepared: str) -> list[str]:
        if self.written_in != "phones" or not self.lexicon:
            return []
        return [word for word in dict.fromkeys(prepared.split()) if word not in self.lexicon]

    def _spell(self, prepared: str) -> list[str]:
        match self.written_in:
            case "letters":
                return list(WORD_BOUNDARY.join(prepared.split()))
            case "phones" if not self.lexicon:
                return prepared.split()
            case "phones":
                words = [list(self.lexicon[word]) for word in prepared.split()]
                return [token for word in words for token in [WORD_BOUNDARY, *word]][1:]
            case "pieces":
                return segment(prepared, self.scores)

    def _group(self, tokens: Sequence[str]) -> list[list[str]]:
        """Split tokens into words."""
        words: list[list[str]] = [[]]
        for token in tokens:
            if self.written_in == "pieces" and token.startswith(WORD_START):
                words.append([token])
            elif self.written_in != "pieces" and token == WORD_BOUNDARY:
                words.append([])
            else:
                words[-1].append(token)
        return [word for word in words if word]


def frames_needed(ids: Sequence[int]) -> int:
    """Count the frames that CTC needs: one per token, and a blank between equal neighbours.

    Examples:
        >>> frames_needed([5, 5, 6])
        4
    """
    return len(ids) + sum(left == right for left, right in pairwise(ids))


def _letters(texts: Iterable[str]) -> list[str]:
    letters = sorted(set[str]().union(*texts) - {" "})
    if not letters:
        raise VocabularyError("the training texts hold no letters; give the manifest a text column")
    if WORD_BOUNDARY in letters:
        raise VocabularyError(f"a training text holds {WORD_BOUNDARY!r}, which marks word boundaries; remove it")
    return letters
