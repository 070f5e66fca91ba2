r"""Reads pronunciation lexicons: lines of a word, a tab or a blank, and its phones separated by blanks.

Comments are skipped: `;;;` and `#` at the start of a line and, if a blank separates word and phones as in CMUdict,
` # ` after the phones. CMUdict's `WORD(2)` is another pronunciation; only the first of a word is used, as a target is
one sequence.

Numbers between word and phones are probabilities and are left out: one or four in MFA's dictionaries and Kaldi's
`lexiconp.txt` and `lexiconp_silprob.txt`. SAMPA phones and tones are whole numbers too, so the whole file decides. A
number with a point or an exponent is not a phone. A whole number is a phone unless all lines have a number in its
place, of which some, or some after it, have a point; or it has a cell of its own between tabs, of 0 to 1, on all lines;
or it is 1 on all of at least ten lines, and no other phone is a number; or the file is named `lexiconp...` as in Kaldi.
HTK's `[OUTPUT]` is left out too if all lines have it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.errors import VocabularyError
from speechssl.text.fields import BLANKS, fields_of, lines_of
from speechssl.text.policy import TextConfig

__all__ = [
    "Pronunciation",
    "lexicon_lines",
    "parse_lexicon",
    "read_lexicon_of_phones",
    "read_pronunciations",
    "without_variant",
]

_FURTHER = re.compile(r"(?<=.)\([0-9]+\)$")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TELLING = 10  # fewest lines from which a common first field is concluded not to be a phone
_MOST = 4  # most numbers on a line: pronunciation probability, silence after, and two corrections


@dataclass(frozen=True)
class Pronunciation:
    """A line of a lexicon."""

    line: int
    word: str  # as written
    phones: tuple[str, ...]


def read_lexicon_of_phones(path: Path, text: TextConfig) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Read a lexicon, with its words normalised by the text policy.

    Returns:
        Phones by word, and notes on what was left out.

    Raises:
        VocabularyError: the file cannot be read or holds no word, a word has no phones, or only some lines have
            probabilities, so that whole numbers are ambiguous.
    """
    lexicon: dict[str, tuple[str, ...]] = {}
    found, notes = read_pronunciations(path)
    for each in found:
        lexicon.setdefault(text.apply(without_variant(each.word)), each.phones)
    return lexicon, notes


def read_pronunciations(path: Path, *, comments: bool = True) -> tuple[list[Pronunciation], list[str]]:
    """Read the lines of a lexicon; words may occur several times.

    Args:
        path: lexicon in UTF-8.
        comments: False if `#` and `;;;` are words or letters.

    Returns:
        The lines, and notes on what was left out.

    Raises:
        VocabularyError: as `read_lexicon_of_phones`.
    """
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: cannot be read ({error}); name a lexicon in UTF-8") from error
    kept = [
        (number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip(BLANKS) and not (comments and line.startswith((";;;", "#")))
    ]
    if not kept:
        raise VocabularyError(f"{path}: holds no words; expected lines of a word, a tab and its phones")
    is_tabbed = _has_words_before_tabs([line for _, line in kept])
    rows = [(number, line, *_cells(line, is_tabbed, comments)) for number, line in kept]
    cells = [found for *_, found in rows]
    fields = [[field for cell in found for field in fields_of(cell)] for found in cells]
    notes = []
    if all(len(each) > 1 and each[0].startswith("[") and each[0].endswith("]") for each in fields):
        fields, cells = [each[1:] for each in fields], []
        notes.append(f"{path}: output symbols in brackets are not taken")
    columns = _columns(path, cells, fields)
    taken = []
    for (number, line, word, _), each in zip(rows, fields, strict=True):
        count = max(columns, _points(each))
        if columns == 0 and each and len(each) > count and count < _MOST and _is_unclear(each[count], fields, count):
            raise VocabularyError(
                f"{path}:{number}: {each[count]!r} may be a probability or a phone, since only some lines have "
                "probabilities; write them with a point (1.0), or on no line"
            )
        if len(each) <= count or not word:
            raise VocabularyError(
                f"{path}:{number}: expected a word and its {'phones' if comments else 'tokens'}, found {line!r}"
            )
        taken.append((count, Pronunciation(number, word, tuple(each[count:]))))
    numbered = sum(count > 0 for count, _ in taken)
    if numbered:
        first = next(row for row in taken if row[0])[1]
        notes.append(
            f"{path}: numbers between word and phones, on {numbered} of {len(taken)} lines, are probabilities and not "
            f"taken: line {first.line} is {first.word}: {' '.join(first.phones)}"
        )
    return [each for _, each in taken], notes


def without_variant(word: str) -> str:
    """Return a word without its pronunciation number.

    Examples:
        >>> without_variant("world(2)"), without_variant("(2)")
        ('world', '(2)')
    """
    return _FURTHER.sub("", word)


def lexicon_lines(lexicon: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return lines of a word, a tab and its phones, as stored in a model."""
    return tuple(f"{word}\t{' '.join(phones)}" for word, phones in lexicon.items())


def parse_lexicon(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parse the lines of `lexicon_lines`."""
    pairs = (line.split("\t") for line in lines)
    return {word: tuple(fields_of(phones)) for word, phones in pairs}


def _has_words_before_tabs(lines: Sequence[str]) -> bool:
    """Return whether the text before a tab is a word, not `word 1.0` as from Kaldi's prepare_lang.sh."""
    heads = [fields_of(line.split("\t", 1)[0]) for line in lines if "\t" in line.strip(BLANKS)]
    numbers = [head[1:] for head in heads]
    is_kaldi = len(heads) == len(lines) and all(each and all(map(_NUMBER.fullmatch, each)) for each in numbers)
    return not (is_kaldi and any(_points(each) for each in numbers))


def _cells(line: str, is_tabbed: bool, comments: bool) -> tuple[str, list[str]]:
    """Split a line into its word and the cells after it."""
    line = line.strip(BLANKS)
    if "\t" in line and is_tabbed:
        word, *cells = line.split("\t")
        return word.strip(BLANKS), cells
    found = fields_of(line.split(" # ")[0] if comments and "\t" not in line else line)
    return (found[0], [" ".join(found[1:])]) if found else ("", [])


def _columns(path: Path, cells: Sequence[Sequence[str]], fields: Sequence[Sequence[str]]) -> int:
    """Return how many numbers follow the word on all lines; 0 if lines differ or the numbers may be phones."""
    shared = next((n for n in range(_MOST) if not all(len(each) > n + 1 and _is_number(each[n]) for each in fields)), 4)
    pointed = [n + 1 for n in range(shared) if any(_has_point(each[n]) for each in fields)]
    if pointed:
        return _MOST if shared == _MOST and pointed[-1] > 1 else pointed[-1]
    if shared and path.name.startswith("lexiconp"):
        return _MOST if shared == _MOST and "silprob" in path.name else 1
    are_ones = shared in (1, _MOST) and all({*each[:shared]} == {"1"} for each in fields)
    if are_ones and len(fields) >= _TELLING and not any(_is_number(one) for each in fields for one in each[shared:]):
        return shared
    middle = {len(each) - 1 for each in cells}
    has_cells = len(middle) == 1 and middle <= {1, _MOST} and shared >= min(middle)
    if has_cells and all(each[0].strip(BLANKS) in ("0", "1") for each in cells):
        return min(middle)
    return 0


def _points(fields: Sequence[str]) -> int:
    """Count the numbers with a point at the start of a line, up to four."""
    return next((n for n, field in enumerate(fields[:_MOST]) if not _has_point(field)), min(len(fields), _MOST))


def _is_unclear(field: str, fields: Sequence[Sequence[str]], column: int) -> bool:
    """Return whether a whole number is in a column where some lines have a number with a point."""
    return _is_number(field) and any(_points(each) > column for each in fields)


def _is_number(field: str) -> bool:
    return _NUMBER.fullmatch(field) is not None


def _has_point(field: str) -> bool:
    return _is_number(field) and not field.lstrip("+-").isdigit()
