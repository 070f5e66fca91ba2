"""ML-SUPERB (Shi et al. 2023, arXiv:2305.10615): 143 languages of many data sets, 10 minutes and 1 hour of each.

`DATASET/LANGUAGE/wav/NAME.wav` with four lists beside `wav/`: `transcript_10min_train.txt`, `transcript_1h_train.txt`
(it contains the former), `transcript_10min_dev.txt` and `transcript_10min_test.txt`, lines `NAME ORIGINAL words`.
Speakers are not published. Texts follow the benchmark: without [brackets] and ASCII punctuation, in capitals.
"""

import re
import string
from collections.abc import Iterator
from pathlib import Path

from speechssl.corpus.entries import Entry, text_lines
from speechssl.corpus.layouts.listing import Account, Listing
from speechssl.errors import CorpusError

__all__ = ["find_ml_superb"]

_LISTS = {  # the first that holds an utterance gives its split
    "train-10min": "transcript_10min_train.txt",
    "train-1h": "transcript_1h_train.txt",
    "dev": "transcript_10min_dev.txt",
    "test": "transcript_10min_test.txt",
}
_LAYOUT = f"DATASET/LANGUAGE/wav and {', '.join(_LISTS.values())} beside it"
_FEW_SHOT = (  # of these languages, the benchmark trains on five utterances each
    *("bos", "ceb", "dan", "epo", "frr", "ful", "kaz", "kea", "lit", "luo"),
    *("srp", "sun", "tok", "tos", "tsn", "tso", "tur", "umb", "vie", "zul"),
)


def find_ml_superb(source: Path) -> Listing:
    """List all data sets and languages; the label `few_shot` marks the twenty languages with five utterances.

    Args:
        source: folder of the data sets, or one above it; ids are the names of the files.

    Raises:
        CorpusError: there are no languages, one lacks a list, or none of the listed audio is there.
    """
    root = _root(source)
    account = Account()
    entries: list[Entry] = []
    answers: dict[str, dict[str, str]] = {}
    split_of: dict[str, str] = {}
    for folder in sorted({path.parent for path in root.glob("*/*/transcript_*.txt")}):
        for split, name in _LISTS.items():
            for where, key, original, text in _lines(folder / name):
                path = folder / "wav" / f"{key}.wav"
                if split_of.setdefault(key, split) != split:
                    if not split.startswith("train"):
                        account.add(f"in {split} are listed under {split_of[key]}", [key])
                    continue
                if key in answers:
                    raise CorpusError(f"{where}: {key} was listed before; keep one of the lines")
                if not path.is_file():
                    account.add(f"left out, in {name}, without audio", [path.relative_to(root).as_posix()])
                    continue
                account.add("without text", [key] if not text else [])
                entries.append(
                    Entry(
                        where=where,
                        path=path.relative_to(root).as_posix(),
                        id=key,
                        text=text or None,
                        language=folder.name,
                        split=split,
                    )
                )
                answers[key] = {
                    "dataset": folder.parent.name,
                    "original": original,
                    "few_shot": "yes" if folder.name in _FEW_SHOT else "no",
                }
    if not entries:
        raise CorpusError(f"{root}: none of the recordings of its lists is in LANGUAGE/wav; unpack the archive again")
    return Listing(root=root, entries=entries, answers=answers, notes=account.notes())


def _root(source: Path) -> Path:
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder; name the one that holds {_LAYOUT}")
    for depth in ("", "*/"):
        places = [source] if not depth else sorted(path for path in source.glob(depth) if path.is_dir())
        found = [place for place in places if any(place.glob("*/*/transcript_10min_*.txt"))]
        if len(found) > 1:
            raise CorpusError(f"{source}: {' and '.join(path.name for path in found[:3])} hold {_LAYOUT}; name one")
        if found:
            return found[0]
    raise CorpusError(f"{source}: expected {_LAYOUT}, found no such list; name the folder of the data sets")


def _lines(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield the place, the name, the second field, which the benchmark does not use, and the words."""
    if not path.is_file():
        raise CorpusError(f"{path}: not found, expected {', '.join(_LISTS.values())} there; unpack the archive again")
    for where, line in text_lines(path):
        if not line.strip():
            continue
        fields = line.split(maxsplit=2)
        if len(fields) < 2:
            raise CorpusError(f"{where}: expected `NAME ORIGINAL words`, found {line[:60]!r}")
        words = re.sub(r"\[[^()]*\]", "", fields[2] if len(fields) > 2 else "")
        words = words.translate(str.maketrans("", "", string.punctuation)).upper()
        yield where, fields[0], fields[1], " ".join(words.split())
