"""Readers of phone alignments: intervals in seconds from CTM, TextGrid, festival labels and our own table.

CTM: `utterance channel start duration phone [confidence]`. Praat's TextGrid: long and short text form; the reader is
our own, a page of code instead of a dependency. festival's label files: ESPS xlabel, `end colour phone` after a line
`#`. The table of `speechssl corpus`: `id<TAB>end:phone ...`.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from speechssl.errors import LabelError
from speechssl.text.fields import BLANKS, fields_of, unescape_id

__all__ = ["Interval", "read_phones"]

_SLACK_S = 0.001  # overlap in seconds that rounding of start and duration may cause; a longer overlap is an error
_SUFFIXES = (".ctm", ".lab", ".textgrid")  # suffixes of alignment files in a folder


class Interval(NamedTuple):
    """One phone."""

    start_s: float
    end_s: float
    phone: str


class _Row(NamedTuple):
    """An unchecked interval from a file."""

    line: int
    start_s: float
    end_s: float
    phone: str


def read_phones(path: Path, *, tier: str = "phones") -> dict[str, list[Interval]]:
    """Read the alignments in a file, or in all files of one format below a folder.

    The suffix determines the format: `.ctm`, `.lab`, `.TextGrid`; any other suffix is the table. CTM and table contain
    utterance ids; for the others, the id is the file name without suffix or, if two files share it, the path below the
    folder with `-` for `/`, as in `speechssl manifest build`. Time without a phone, and TextGrid intervals without
    text, are gaps.

    Args:
        path: file or folder.
        tier: name of the TextGrid tier with the phones.

    Returns:
        The intervals of each utterance id: ascending, none of length 0, without overlaps.

    Raises:
        LabelError: there is nothing to read, an utterance occurs twice, the tier is missing, a line does not parse, or
            intervals run backwards or overlap.
    """
    if not path.is_dir():
        return _read_file(path, path.stem, tier)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) != 1:
        found = f"{' and '.join(kinds)} files" if kinds else "none"
        raise LabelError(f"{path}: expected phone alignments of one kind ({', '.join(_SUFFIXES)}), found {found}")
    alignments: dict[str, list[Interval]] = {}
    for file, name in zip(files, _names(files, path), strict=True):
        for key, intervals in _read_file(file, name, tier).items():
            if key in alignments:
                raise LabelError(f"{file}: {key} is aligned in an earlier file too; keep one of them")
            alignments[key] = intervals
    return alignments


def _names(files: Sequence[Path], folder: Path) -> list[str]:
    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    return [file.relative_to(folder).with_suffix("").as_posix().replace("/", "-") for file in files]


def _read_file(path: Path, name: str, tier: str) -> dict[str, list[Interval]]:
    match path.suffix.lower():
        case ".ctm":
            rows = _ctm_rows(path)
        case ".lab":
            rows = {name: list(_festival_rows(path))}
        case ".textgrid":
            rows = {name: list(_textgrid_rows(path, tier))}
        case _:
            rows = _table_rows(path)
    return {key: list(_checked(found, path)) for key, found in rows.items()}


def _checked(rows: Iterable[_Row], path: Path) -> Iterator[Interval]:
    """Check that intervals do not run backwards or overlap; an overlap by rounding is assigned to the first."""
    previous_s = 0.0
    for line, start_s, end_s, phone in rows:
        if not 0 <= start_s <= end_s < float("inf"):
            raise LabelError(
                f"{path}:{line}: {phone!r} lasts from {start_s:g} to {end_s:g} s, expected an end not before its "
                "start, and both from 0 up; correct the times"
            )
        if start_s < previous_s - _SLACK_S:
            raise LabelError(
                f"{path}:{line}: {phone!r} starts at {start_s:g} s, before the end of the phone before it at "
                f"{previous_s:g} s; expected phones in order that do not overlap"
            )
        if end_s > max(start_s, previous_s):
            yield Interval(max(start_s, previous_s), end_s, phone)
            previous_s = end_s


def _ctm_rows(path: Path) -> dict[str, list[_Row]]:
    """Read NIST's time-marked conversation format; `;;` starts a comment, ids may be escaped (`fields.escape_id`)."""
    rows: dict[str, list[_Row]] = {}
    channels: dict[str, str] = {}
    for line, text in _lines(path):
        cells = fields_of(text)
        if not cells or text.startswith(";;"):
            continue
        try:
            if len(cells) not in (5, 6):
                raise ValueError
            start_s, duration_s = float(cells[2]), float(cells[3])
        except ValueError as error:
            raise _broken(path, line, "utterance channel start duration phone [confidence]", text) from error
        key = unescape_id(cells[0])
        if channels.setdefault(key, cells[1]) != cells[1]:
            raise LabelError(f"{path}:{line}: {key} has phones of two channels; keep the rows of one")
        rows.setdefault(key, []).append(_Row(line, start_s, start_s + duration_s, cells[4]))
    return rows


def _festival_rows(path: Path) -> Iterator[_Row]:
    """Read an ESPS xlabel file: a header up to `#`, then `end colour phone`; a phone starts at the end of the last."""
    lines = _lines(path)
    header = next((line for line, text in lines if text.strip(BLANKS) == "#"), None)
    if header is None:
        raise LabelError(f"{path}: has no line `#`, expected one between header and labels; is it a festival file?")
    start_s = 0.0
    for line, text in lines[header:]:
        if not text.strip(BLANKS):
            continue
        try:
            end, _, phone = fields_of(text)
            row = _Row(line, start_s, float(end), phone)
        except ValueError as error:
            raise _broken(path, line, "end number phone", text) from error
        yield row
        start_s = row.end_s


def _table_rows(path: Path) -> dict[str, list[_Row]]:
    """Read the table of `speechssl corpus`: a header, then the ends of each utterance's phones, starting at 0."""
    rows: dict[str, list[_Row]] = {}
    for line, text in _lines(path)[1:]:
        if not text:
            continue
        key, found, cells = text.partition("\t")
        start_s, phones = 0.0, []
        try:
            for end, _, phone in (cell.partition(":") for cell in fields_of(cells)):
                if not phone:
                    raise ValueError
                phones.append(_Row(line, start_s, float(end), phone))
                start_s = float(end)
        except ValueError as error:
            raise _broken(path, line, "id<TAB>end:phone ...", text) from error
        if not found:
            raise _broken(path, line, "id<TAB>end:phone ...", text)
        if key in rows:
            raise LabelError(f"{path}:{line}: {key} is aligned in an earlier line too; keep one of them")
        rows[key] = phones
    return rows


def _textgrid_rows(path: Path, tier: str) -> Iterator[_Row]:
    """Find an interval tier and read it (https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html)."""
    values = _PraatValues(path)
    values.text(), values.text()  # file type and object class
    values.number(), values.number()  # start and end of the whole file
    values.flag()  # <exists>: the file has tiers
    names = []
    for _ in range(int(values.number())):
        kind, name = values.text(), values.text()
        values.number(), values.number()
        size = int(values.number())
        if (kind, name) == ("IntervalTier", tier):
            for _ in range(size):
                start_s, end_s = values.number(), values.number()
                phone = values.text().strip(BLANKS + "\r\n")
                if phone:
                    yield _Row(values.line, start_s, end_s, phone)
            return
        for _ in range(size):
            values.number(), values.number() if kind == "IntervalTier" else None
            values.text()
        names.append(name if kind == "IntervalTier" else f"{name} (of points)")
    raise LabelError(
        f"{path}: has no interval tier {tier!r}, but {', '.join(names) or 'none'}; set tier to one of them"
    )


class _PraatValues:
    """Tokens of a Praat text file: quoted texts, and numbers and <flags> between blanks.

    Everything else is a comment, so that `xmin = 0.5` of the long form equals `0.5` of the short form.
    """

    _VALUE = re.compile(
        r'"(?P<text>(?:[^"]|"")*)"'
        r"|(?<!\S)(?P<number>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?!\S)"
        r"|(?<!\S)<(?P<flag>\w+)>"
        r"|!.*"
    )

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = _decoded(path)
        self.matches = (match for match in self._VALUE.finditer(self.source) if match.lastgroup)
        self.end = 0  # end of the last value, in characters
        self.line = 1  # line of the last value

    def text(self) -> str:
        return self._next("text").replace('""', '"')

    def number(self) -> float:
        return float(self._next("number"))

    def flag(self) -> str:
        return self._next("flag")

    def _next(self, kind: Literal["text", "number", "flag"]) -> str:
        match = next(self.matches, None)
        if match is not None:
            self.line += self.source.count("\n", self.end, match.end())
            self.end = match.end()
        if match is None or match.lastgroup != kind:
            found = "the end of the file" if match is None else match[0][:60]
            raise LabelError(
                f"{self.path}:{self.line}: expected a {kind} of a TextGrid in text form, found {found}; "
                "save it again with Praat (Save as text file)"
            )
        return match[kind]


def _lines(path: Path) -> list[tuple[int, str]]:
    return list(enumerate(re.split(r"\r\n?|\n", _decoded(path)), start=1))


def _decoded(path: Path) -> str:
    """Read a text in UTF-8 or, as Praat may write it, in UTF-16 with a byte order mark."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LabelError(f"{path}: cannot read the phone alignments ({error.strerror})") from error
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 or UTF-16 at byte {error.start}; save it as UTF-8") from error


def _broken(path: Path, line: int, expected: str, found: str) -> LabelError:
    return LabelError(f"{path}:{line}: expected `{expected}`, found {found[:60]!r}; correct or remove the line")
