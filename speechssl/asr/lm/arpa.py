"""ARPA files of n-gram models, as used by irstlm, SRILM and kenlm, plain or gzipped.

NAME.json beside a file that we build has what the format cannot hold (kenlm refuses comments): texts, settings,
discounts, counts.
"""

import gzip
import io
from array import array
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import IO

import numpy as np

from speechssl.asr.lm.kneser_ney import Estimated, Integers
from speechssl.asr.lm.ngram_model import Entries, NGramModel
from speechssl.atomic import atomic
from speechssl.errors import VocabularyError
from speechssl.text.fields import BLANKS, fields_of

__all__ = ["read_arpa", "write_arpa"]

_BLOCK = 100_000  # n-grams formatted at a time
_NEVER = -99.0  # log10 of a probability of 0, as ARPA files write it


def write_arpa(path: Path, model: Estimated) -> None:
    """Write a model, gzipped if the name ends in `.gz`; the same model gives the same bytes."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                _write(packed, model)
        else:
            _write(file, model)


def read_arpa(path: Path) -> NGramModel:
    """Read a model.

    Raises:
        VocabularyError: the file is not in ARPA format, is truncated, or holds an n-gram without its prefix.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            lines = enumerate((line.rstrip("\r\n") for line in file), start=1)
            sizes = _read_sizes(path, lines)
            ids: dict[str, int] = {}
            orders = [_read_order(path, lines, n, size, ids) for n, size in enumerate(sizes, start=1)]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise VocabularyError(f"{path}: expected an ARPA file in UTF-8, found other bytes ({error})") from error
    if len(ids) != sizes[0]:
        raise VocabularyError(f"{path}: a word occurs twice among the 1-grams; build the file anew")
    return NGramModel.from_entries(list(ids), orders, where=str(path))


def _write(file: IO[bytes] | gzip.GzipFile, model: Estimated) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
    text.write("\\data\\\n")
    text.writelines(f"ngram {n}={int(order.is_kept.sum())}\n" for n, order in enumerate(model.orders, start=1))
    for n in range(1, len(model.orders) + 1):
        text.write(f"\n\\{n}-grams:\n")
        for block in _blocks(model, n):
            text.writelines(block)
    text.write("\n\\end\\\n")
    text.flush()
    text.detach()


def _blocks(model: Estimated, n: int) -> Iterator[list[str]]:
    words = np.array(model.words, object)
    order = model.orders[n - 1]
    kept = np.flatnonzero(order.is_kept)
    with np.errstate(divide="ignore"):  # a context without backoff mass
        probabilities = np.maximum(np.log10(order.probability), _NEVER)
        backoffs = np.maximum(np.log10(order.backoff), _NEVER)
    for begin in range(0, len(kept), _BLOCK):
        rows = kept[begin : begin + _BLOCK]
        names = map(" ".join, zip(*(words[column] for column in _columns(model, n, rows)), strict=True))
        weights = (f"\t{value:.7f}\n" if value else "\n" for value in backoffs[rows].tolist())
        ends = weights if n < len(model.orders) else repeat("\n")
        values = probabilities[rows].tolist()
        yield [f"{value:.7f}\t{name}{end}" for value, name, end in zip(values, names, ends, strict=False)]


def _columns(model: Estimated, n: int, rows: Integers) -> list[Integers]:
    """Return the words of n-grams, first to last, each (rows,)."""
    columns = []
    for order in reversed(model.orders[:n]):
        columns.append(order.ngrams.word[rows])
        rows = order.ngrams.prefix[rows]
    return columns[::-1]


def _read_sizes(path: Path, lines: Iterator[tuple[int, str]]) -> list[int]:
    """Read the number of n-grams of each order, up to the header of the first order."""
    for _, line in lines:
        if line.strip(BLANKS) == "\\data\\":
            break
    else:
        raise VocabularyError(f"{path}: expected an ARPA file, found no line \\data\\; binary models are not read")
    sizes: list[int] = []
    for number, line in lines:
        if line.strip(BLANKS) == "\\1-grams:":
            return sizes
        left, _, count = line.partition("=")
        if not line.strip(BLANKS):
            continue
        if fields_of(left) != ["ngram", str(len(sizes) + 1)] or not count.strip().isdigit():
            raise VocabularyError(f"{path}:{number}: expected `ngram {len(sizes) + 1}=COUNT`, found {line!r}")
        sizes.append(int(count))
    raise VocabularyError(f"{path}: expected \\1-grams:, found the end of the file; it is cut short")


def _read_order(path: Path, lines: Iterator[tuple[int, str]], n: int, size: int, ids: dict[str, int]) -> Entries:
    """Read the lines of one order, and the header of the next; order 1 fills `ids`."""
    words = array("q")
    probability, backoff = np.zeros(size), np.zeros(size)
    row = 0
    for number, line in lines:
        if not line.strip(BLANKS):
            continue
        if line.startswith("\\"):
            break
        cells = fields_of(line)
        try:
            if row == size or len(cells) not in (n + 1, n + 2):
                raise ValueError
            probability[row] = float(cells[0])
            backoff[row] = float(cells[n + 1]) if len(cells) == n + 2 else 0.0
            words.extend([ids.setdefault(cells[1], row)] if n == 1 else [ids[word] for word in cells[1 : n + 1]])
        except (ValueError, KeyError):
            raise VocabularyError(
                f"{path}:{number}: expected one of {size} lines of a number, {n} words of the 1-grams and perhaps a "
                f"number, found {line!r}"
            ) from None
        row += 1
    if row != size:
        raise VocabularyError(f"{path}: expected {size} {n}-grams, found {row}; the file is cut short")
    return Entries(np.array(words, np.int64).reshape(size, n), probability, backoff)
