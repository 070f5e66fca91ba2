"""Sentences for language models: lines of text files, plain or gzipped, or the text column of manifests."""

import gzip
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from speechssl.data.manifest import PARQUET, read_manifest, read_table
from speechssl.errors import VocabularyError
from speechssl.text.vocabulary import WORD_BOUNDARY

__all__ = ["BEGIN", "END", "UNKNOWN", "as_letters", "read_sentences"]

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"  # spelling of ARPA files and kenlm


def read_sentences(paths: Sequence[Path], *, change: Callable[[str], str] | None = None) -> Iterator[list[str]]:
    """Yield the words of every non-empty line, after Unicode NFC.

    Args:
        paths: `.tsv` and `.parquet` are manifests, or `.tsv` tables with an `id` or `path`, whose column `text` is
            read; any other file is UTF-8 text with one sentence per line, gzipped if the name ends in `.gz`.
        change: normalisation of each line before it is split at spaces.

    Raises:
        VocabularyError: a file is not text, or a line holds a word reserved in language models.
    """
    for path in paths:
        for number, line in enumerate(_lines(path), start=1):
            words = unicodedata.normalize("NFC", line if change is None else change(line)).split()
            for reserved in (UNKNOWN, BEGIN, END):
                if reserved in words:
                    raise VocabularyError(
                        f"{path}: sentence {number} holds {reserved}, which marks unknown words and ends of sentences "
                        "in language models; remove it from the text"
                    )
            if words:
                yield words


def as_letters(words: Sequence[str]) -> list[str]:
    """Return a sentence for a letter model: letters with a word boundary after every word, also the last.

    Examples:
        >>> as_letters(["ab", "c"])
        ['a', 'b', '|', 'c', '|']
    """
    return [letter for word in words for letter in (*word, WORD_BOUNDARY)]


def _is_table(path: Path) -> bool:
    """Return whether a file is a table of texts, but no manifest: its header names `text`, and `id` or `path`."""
    if path.suffix.lower() != ".tsv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        names = {*file.readline().rstrip("\r\n").split("\t")}
    return "text" in names and bool({"id", "path"} & names) and "samples" not in names


def _lines(path: Path) -> Iterator[str]:
    if _is_table(path):
        yield from (row["text"] for row in read_table(path, ("id", "path")).values())
        return
    if path.suffix.lower() in (".tsv", PARQUET):
        utterances = read_manifest(path).utterances
        if not any(row.text for row in utterances):
            raise VocabularyError(f"{path}: the manifest has no texts; name another, or a text file with a line each")
        yield from (row.text or "" for row in utterances)
        return
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from file
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise VocabularyError(f"{path}: expected text in UTF-8, found other bytes ({error}); convert it") from error
