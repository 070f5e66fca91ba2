"""Splits text formats into lines and fields exactly as these formats do, at line feeds, blanks and tabs.

`str.splitlines` and `str.split` also split at U+2028, U+00A0, U+3000, vertical tabs and others, which Kaldi, ARPA,
NIST's formats and lexicons treat as letters. Every reader of such a format uses this module. `escape_id` writes ids
into formats that cannot hold all characters, `unescape_id` reads them back; `cells_as_line` writes reports. `sign_of`
and `cells_of` split tables with an unknown separator.
"""

import csv
import re
from collections.abc import Iterable

__all__ = [
    "BLANKS",
    "cells_as_line",
    "cells_of",
    "escape_id",
    "fields_of",
    "first_field",
    "lines_of",
    "sign_of",
    "unescape_id",
]

BLANKS = " \t"
_ESCAPE = re.compile("((?:%[0-9A-F]{2})+)")


def lines_of(text: str) -> list[str]:
    r"""Split a text into lines at LF or CRLF; the last line may lack one.

    Examples:
        >>> lines_of("a\u2028b\r\nc")
        ['a\u2028b', 'c']
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def fields_of(line: str) -> list[str]:
    r"""Split a line at runs of blanks and tabs.

    Examples:
        >>> fields_of(" a\u00a0b \tc")
        ['a\xa0b', 'c']
    """
    return list(filter(None, line.replace("\t", " ").split(" ")))


def first_field(line: str) -> tuple[str, str]:
    """Return the first field of a line, and the rest without surrounding blanks.

    Examples:
        >>> first_field(" key  some value ")
        ('key', 'some value')
    """
    line = line.strip(BLANKS)
    end = next((index for index, sign in enumerate(line) if sign in BLANKS), len(line))
    return line[:end], line[end:].lstrip(BLANKS)


def sign_of(line: str, *, is_csv: bool) -> str | None:
    """Return the separator of a table from its first line: tab, comma, semicolon or bar; None for blanks.

    Args:
        line: the first line.
        is_csv: whether commas and semicolons may separate cells.
    """
    signs = ("\t", ",", ";", "|") if is_csv else ("\t", "|")
    return next((sign for sign in signs if sign in line), None)


def cells_of(line: str, sign: str | None, most: int = 0) -> list[str]:
    """Split a line of a table into cells.

    Args:
        line: a line of the table.
        sign: separator, from `sign_of`.
        most: most cells for a table of blanks, where the last is the rest of the line; 0 for no limit.

    Examples:
        >>> cells_of("a  b.wav one two", None, 3), cells_of('a,"b,c"', ",")
        (['a', 'b.wav', 'one two'], ['a', 'b,c'])
    """
    if sign in (",", ";"):
        return next(csv.reader([line], delimiter=sign))
    if sign is not None:
        return line.split(sign)
    cells, rest = list[str](), line.strip(BLANKS)
    while rest and (not most or len(cells) < most - 1):
        cell, rest = first_field(rest)
        cells.append(cell)
    return [*cells, rest] if most else cells


def cells_as_line(cells: Iterable[str]) -> str:
    r"""Join cells with tabs; tabs and line breaks within cells become blanks.

    Examples:
        >>> cells_as_line(["a\tb", "c\r\nd"])
        'a b\tc d'
    """
    return "\t".join(re.sub(r"[\t\r\n]+", " ", cell) for cell in cells)


def escape_id(key: str, signs: Iterable[str] = ()) -> str:
    """Percent-encode whitespace and `signs` in an id, so that it is one field.

    Text in the id that looks encoded is escaped too, so that `unescape_id` restores any id.

    Examples:
        >>> escape_id("a b"), escape_id("100%"), escape_id("a%20b"), escape_id("a(1)", "()")
        ('a%20b', '100%', 'a%2520b', 'a%281%29')
    """
    key = _ESCAPE.sub(lambda found: found[0].replace("%", "%25"), key)
    return "".join(_escaped(sign) if sign.isspace() or sign in signs else sign for sign in key)


def unescape_id(field: str) -> str:
    """Decode an id written by `escape_id`."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(errors="replace"), field)


def _escaped(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())
