"""Pronunciation lexicons. A line a word: the word, a tab or a blank, and its phones with blanks between.

Comments are passed over: `;;;` and `#` at the start of a line and, where a blank parts the word from its phones as in
CMUdict, ` # ` behind them. CMUdict's `WORD(2)` is a further pronunciation; of several the first counts, since a target
is one sequence.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from speechssl.data.texts import TextConfig
from speechssl.errors import VocabularyError

__all__ = ["lexicon_lines", "parse_lexicon", "read_lexicon_of_phones"]

_FURTHER = re.compile(r"\(\d+\)$")


def read_lexicon_of_phones(path: Path, text: TextConfig) -> dict[str, tuple[str, ...]]:
    """Read a lexicon; its words go through the policy that the texts go through.

    Raises:
        VocabularyError: it cannot be read, a word has no phones, or there is no word.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: cannot be read ({error}); name a lexicon of phones in UTF-8") from error
    lexicon: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith((";;;", "#")):
            continue
        word, *phones = line.split("\t", 1) if "\t" in line else line.split(" # ")[0].split(maxsplit=1)
        sounds = tuple(" ".join(phones).split())
        if not sounds:
            raise VocabularyError(f"{path}:{number}: expected a word and its phones, found {line!r}")
        lexicon.setdefault(text.apply(_FURTHER.sub("", word.strip())), sounds)
    if not lexicon:
        raise VocabularyError(f"{path}: holds no words; expected lines of a word, a tab and its phones")
    return lexicon


def lexicon_lines(lexicon: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return lines of a word, a tab and its phones: what a model keeps of its lexicon."""
    return tuple(f"{word}\t{' '.join(phones)}" for word, phones in lexicon.items())


def parse_lexicon(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read what `lexicon_lines` returned."""
    pairs = (line.split("\t") for line in lines)
    return {word: tuple(phones.split()) for word, phones in pairs}
