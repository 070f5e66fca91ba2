"""Common Voice (arXiv:1912.06670): sentences read by volunteers, one folder per language.

A language's folder holds `clips/*.mp3` and tables `train.tsv dev.tsv test.tsv validated.tsv other.tsv`. The audio is
used in place. `train`, `dev` and `test` are the published splits; `pool` holds clips that are validated or not yet
judged, without the speakers of dev and test.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from speechssl.corpus.fetch.source import ClipCollector, Corpus, Findings
from speechssl.corpus.fetch.spoken_text import normalize_text
from speechssl.errors import CorpusError

__all__ = ["COMMON_VOICE", "find_common_voice"]

_SPLITS = ("train", "dev", "test")
_POOL_TABLES = ("train", "validated", "other")
_COLUMNS = ("client_id", "path", "sentence")


def find_common_voice(source: Path) -> Findings:
    """List the clips of one language.

    Args:
        source: the language's folder, such as `cv-corpus-17.0-2024-03-15/cs`.

    Raises:
        CorpusError: a table, a column or a listed clip is missing.
    """
    tables = {name: list(_read_table(source / f"{name}.tsv")) for name in _SPLITS}
    extra = [name for name in _POOL_TABLES if name not in tables and (source / f"{name}.tsv").is_file()]
    tables |= {name: list(_read_table(source / f"{name}.tsv")) for name in extra}
    held_out = {row["client_id"] for name in ("dev", "test") for row in tables[name]}
    members = {name: [_stem(row) for row in tables[name]] for name in _SPLITS}
    candidates = [row for name in _POOL_TABLES for row in tables.get(name, ())]
    pool = {_stem(row): row for row in candidates if row["client_id"] not in held_out}
    rows = pool | {_stem(row): row for name in _SPLITS for row in tables[name]}
    there = {path.stem for path in (source / "clips").glob("*.mp3")}
    absent = sorted(rows.keys() - there)
    if absent:
        raise CorpusError(
            f"{source / 'clips'}: {len(absent)} of {len(rows)} listed clips are missing: {', '.join(absent[:3])}; "
            "unpack the archive again"
        )
    found = ClipCollector()
    for stem, row in sorted(rows.items()):
        language = (row.get("locale") or source.resolve().name).split("-")[0]
        spoken = normalize_text(row["sentence"], language)
        path = source / "clips" / f"{stem}.mp3"
        found.add(path, f"audio/clips/{stem}.mp3", spoken, speaker=row["client_id"], language=language, name=stem)
    for stem in sorted({_stem(row) for name in extra for row in tables[name]} - rows.keys()):
        found.drop("a speaker of dev or test", stem)
    return found.findings(members | {"pool": sorted(pool)})


def _stem(row: dict[str, str]) -> str:
    return row["path"].removesuffix(".mp3")


def _read_table(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise CorpusError(
            f"{path}: not found; name a language's folder, which holds clips/ and {', '.join(_SPLITS)} as .tsv"
        )
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise CorpusError(f"{path}:1: no column {', '.join(missing)}; expected a table of Common Voice")
        yield from reader


COMMON_VOICE = Corpus(
    name="common-voice",
    summary="one of over 100 languages, volunteers reading sentences",
    licence="CC0-1.0",
    find=find_common_voice,
    layout="a language's folder with train.tsv, dev.tsv, test.tsv and clips/*.mp3",
)
