"""Read texts by utterance from manifests, tables, Kaldi's `text`, TRN, STM, CTM and JSON lines.

The counterpart of `transcript_formats` and of other toolkits' output; `matching` joins two such files.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from speechssl.corpus.building import ALL_SUFFIXES
from speechssl.corpus.named import is_manifest, usual_columns
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest, id_of, part_id_of
from speechssl.errors import ManifestError
from speechssl.text.fields import BLANKS, cells_of, fields_of, first_field, lines_of, sign_of, unescape_id

__all__ = [
    "Said",
    "Side",
    "Span",
    "Texts",
    "Word",
    "by_recording",
    "kind_of",
    "lines_in",
    "read_json_lines",
    "read_texts",
]

Side = Literal["reference", "hypothesis"]

_IGNORED = "IGNORE_TIME_SEGMENT_IN_SCORING"  # an STM segment with this text is not scored, nor are hypotheses in it


class Span(NamedTuple):
    """Recording, channel and times of a segment."""

    recording: str
    channel: str
    start_s: float
    end_s: float


class Word(NamedTuple):
    """A word and its span."""

    at: Span
    text: str


@dataclass(frozen=True, kw_only=True)
class Said:
    """Content of a file for one utterance."""

    id: str
    text: str
    path: str | None = None  # path of the audio, as in the file
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    duration_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Content of a file, by utterance or by time."""

    said: Sequence[Said]
    spans: Mapping[str, Span] = field(default_factory=dict)  # spans of an STM's segments, by id
    ignored: Sequence[Span] = ()  # segments that are not scored
    words: Sequence[Word] | None = None  # words of a CTM; `said` then has one entry per recording
    manifest: Manifest | None = None  # the manifest, if the file is one
    notes: Sequence[str] = ()  # how an ambiguous file was interpreted

    def by_id(self) -> dict[str, str]:
        """Return the texts by utterance id."""
        return {row.id: row.text for row in self.said}


def read_texts(path: Path, side: Side = "hypothesis", *, root: Path | None = None) -> Texts:
    """Read the texts of a file; its name and first line give the format.

    `.jsonl` and `.json` hold one object per line; in a hypothesis `pred_text` has precedence over `text`, and a missing
    `id` is made from the audio file and times, as in an import. `.trn` is sclite's format (`text (id)`), `.stm` and
    `.ctm` are NIST's, also if these are words within a name. A table has a header that names an id or a path; lines
    without a header are `id text` (Kaldi's) or `id path text`. In a Kaldi folder the file `text` is read.

    Args:
        path: the file.
        side: reference or hypothesis.
        root: root folder of the audio, if the file is a manifest.

    Raises:
        ManifestError: the file does not parse, or an id occurs twice.
    """
    if path.is_dir():
        path /= "text"
    if path.suffix.lower() in ALL_SUFFIXES:
        raise ManifestError(
            f"{path}: is audio, which has no text; name a manifest with texts, or a table of id and text"
        )
    kind = kind_of(path)
    if kind == "json":
        found = Texts(said=[_of_object(key, row, side) for key, row in read_json_lines(path).items()])
    elif kind == "trn":
        found = Texts(said=_read_trn(path))
    elif kind == "stm":
        found = _read_stm(path)
    elif kind == "ctm":
        words = _read_ctm(path)
        found = Texts(said=by_recording(words), words=words)
    elif path.exists() and is_manifest(path) and (path.suffix == ".parquet" or path.stat().st_size):
        manifest = read_manifest(path, root=root)
        said = [
            Said(
                id=row.id,
                text=row.text or "",
                path=row.path,
                speaker=row.speaker,
                language=row.language,
                split=row.split,
                duration_s=row.duration_s,
            )
            for row in manifest.utterances
        ]
        found = Texts(said=said, manifest=manifest)
    else:
        said, has_ids = _read_table(path)
        kaldi = f"{path}: the first word of each line is taken for its id, as in Kaldi's"
        found = Texts(said=said, notes=() if has_ids else (kaldi,))
    return found


def by_recording(words: Sequence[Word]) -> list[Said]:
    """Join words in the order of time; the channel is part of the id if a recording has several."""
    places: dict[tuple[str, str], list[Word]] = {}
    for word in words:
        places.setdefault(word.at[:2], []).append(word)
    channels = Counter(recording for recording, _ in places)
    return [
        Said(
            id=recording if channels[recording] == 1 else f"{recording}-{channel}",
            text=" ".join(word.text for word in sorted(found, key=lambda word: word.at.start_s)),
        )
        for (recording, channel), found in places.items()
    ]


def kind_of(path: Path) -> Literal["json", "trn", "stm", "ctm"] | None:
    """Return the format by file name; None for tables, lines and manifests."""
    name = path.name.lower()
    if name.removesuffix(".gz").endswith((".json", ".jsonl")):
        return "json"
    if name.endswith(".trn"):
        return "trn"
    named = re.search(r"(?:^|[._-])(stm|ctm)(?:[._-]|$)", name)
    if named is None or name.endswith((".tsv", ".csv", ".parquet")):
        return None
    return "stm" if named[1] == "stm" else "ctm"


def lines_in(path: Path) -> list[str]:
    """Return the lines of a text file, at least one.

    Raises:
        ManifestError: it cannot be read, or is not UTF-8.
    """
    try:
        return lines_of(path.read_text(encoding="utf-8-sig")) or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); name a file in UTF-8") from error


def _read_trn(path: Path) -> list[Said]:
    found: dict[str, Said] = {}
    for number, line in enumerate(lines_in(path), start=1):
        text, opened, field_ = line.rstrip(BLANKS).rpartition("(")
        key = unescape_id(field_[:-1])
        if not line.strip(BLANKS):
            continue
        if not opened or not field_.endswith(")"):
            raise ManifestError(f"{path}:{number}: expected `text (id)`, found {line!r}")
        if key in found:
            raise ManifestError(f"{path}:{number}: {key} occurs twice; keep one of its rows")
        found[key] = Said(id=key, text=text.strip(BLANKS))
    return [*found.values()]


def _read_stm(path: Path) -> Texts:
    """Read `recording channel speaker start end <label> text`; `;;` begins a comment."""
    rows: list[tuple[int, Span, str, str]] = []
    for number, line in enumerate(lines_in(path), start=1):
        if not line.strip(BLANKS) or line.startswith(";;"):
            continue
        head, rest = [], line
        for _ in range(5):
            cell, rest = first_field(rest)
            head.append(cell)
        try:
            span = Span(unescape_id(head[0]), head[1], float(head[3]), float(head[4]))
        except ValueError as error:
            raise ManifestError(
                f"{path}:{number}: expected `recording channel speaker start end <label> text`, found {line[:80]!r}"
            ) from error
        rows.append((number, span, head[2], re.sub(r"^<[^>]*>[ \t]*", "", rest)))
    scored = [row for row in rows if row[3] and row[3] != _IGNORED]
    channels = Counter(recording for recording, _ in {row[1][:2] for row in rows})
    counts = Counter(row[1].recording for row in scored)
    said, spans = dict[str, Said](), dict[str, Span]()
    for number, span, speaker, text in scored:
        key = span.recording
        if counts[key] > 1:
            key = part_id_of(key, span.start_s, span.end_s)
            key = key if channels[span.recording] == 1 else f"{key}-{span.channel}"
        if key in said:
            raise ManifestError(f"{path}:{number}: {key} occurs twice; keep one of its rows")
        said[key] = Said(id=key, text=text, speaker=speaker or None, duration_s=span.end_s - span.start_s)
        spans[key] = span
    ignored = [row[1] for row in rows if not row[3] or row[3] == _IGNORED]
    return Texts(said=[*said.values()], spans=spans, ignored=ignored)


def _read_ctm(path: Path) -> list[Word]:
    """Read `recording channel start duration word` and more; `;;` begins a comment."""
    words = []
    for number, line in enumerate(lines_in(path), start=1):
        cells = fields_of(line)
        if not cells or line.startswith(";;"):
            continue
        try:
            recording, channel, start, length, text = cells[:5]
            start_s = float(start)
            span = Span(unescape_id(recording), channel, start_s, start_s + float(length))
        except ValueError as error:
            alternative = ": alternatives are not scored; keep one of them" if "<ALT" in line else ""
            raise ManifestError(
                f"{path}:{number}: expected `recording channel start duration word`, found {line[:80]!r}{alternative}"
            ) from error
        words.append(Word(span, text))
    return words


def read_json_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Read one object per line, by `id`, or by an id made from NeMo's `audio_filepath`, `offset` and `duration`.

    Raises:
        ManifestError: the file cannot be read, a line is not an object with an id, or an id occurs twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); name a file in UTF-8") from error
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = dict(json.loads(line))
            key = str(row["id"]) if "id" in row else _id_of_audio(row)
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"{path}:{number}: expected an object with an id or audio_filepath, found {line[:60]!r}"
            ) from error
        if key in found:
            raise ManifestError(f"{path}:{number}: {key} occurs twice; keep one of its lines")
        found[key] = row
    return found


def _id_of_audio(row: Mapping[str, Any]) -> str:
    """Return the id that an import of NeMo's manifest gives to an utterance without one."""
    path = next((names[0] for ours, names in usual_columns(list(row)).items() if ours == "path"), "audio_filepath")
    key = id_of(str(row[path]))
    if row.get("offset") is None:
        return key
    start_s = float(row["offset"])
    return part_id_of(key, start_s, start_s + float(row["duration"]))


def _of_object(key: str, row: Mapping[str, Any], side: Side) -> Said:
    usual = {ours: row[names[0]] for ours, names in usual_columns(list(row)).items()}
    spoken = row.get("pred_text") if side == "hypothesis" and "pred_text" in row else usual.get("text", "")
    is_part = row.get("offset") is not None
    path = None if is_part else usual.get("path")
    values = {ours: None if usual.get(ours) is None else str(usual[ours]) for ours in ("speaker", "language", "split")}
    duration = row.get("duration")
    return Said(
        id=key,
        text=str(spoken),
        path=path if isinstance(path, str) else None,
        duration_s=float(duration) if isinstance(duration, int | float) else None,
        **values,
    )


def _read_table(path: Path) -> tuple[list[Said], bool]:
    """Return the content of a table, and whether a header or a separator distinguishes ids from texts."""
    lines = lines_in(path)
    is_csv = path.suffix.lower() == ".csv"
    sign = sign_of(lines[0], is_csv=is_csv)
    if sign == "|" and not is_csv and not lines[0].partition("|")[0].lower().endswith(ALL_SUFFIXES):
        sign = None  # a Kaldi line of letters, with bars between words
    if sign in (",", ";"):
        reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=sign)
        rows = [(reader.line_num, cells) for cells in reader if cells]
    else:
        rows = [(number, cells_of(line, sign)) for number, line in enumerate(lines, start=1) if line.strip(BLANKS)]
    names = rows[0][1] if rows else []
    usual = usual_columns(names)
    is_header = bool({"id", "path"} & {*usual}) and (sign is not None or ("text" in usual and len(names) == len(usual)))
    if is_header and sign is None:
        rows = [rows[0], *((number, cells_of(lines[number - 1], None, len(names))) for number, _ in rows[1:])]
    if is_header:
        found = [(number, _of_row(path, number, names, usual, cells)) for number, cells in rows[1:]]
    else:
        found = _without_header(path, lines, rows, sign)
    said: dict[str, Said] = {}
    for number, row in found:
        if row.id in said:
            first = "" if is_header or sign else " as the first word, which is the id in Kaldi's lines"
            raise ManifestError(f"{path}:{number}: {row.id} occurs twice{first}; keep one of its rows")
        said[row.id] = row
    return [*said.values()], is_header or sign is not None


def _of_row(
    path: Path, number: int, names: Sequence[str], usual: Mapping[str, Sequence[str]], cells: Sequence[str]
) -> Said:
    if len(cells) != len(names):
        raise ManifestError(f"{path}:{number}: expected {len(names)} columns, as many as the first line names")
    row = dict(zip(names, cells, strict=True))
    values = {ours: row[known[0]] or None for ours, known in usual.items()}
    return Said(
        id=values.get("id") or values.get("path") or "",
        text=values.get("text") or "",
        path=values.get("path"),
        speaker=values.get("speaker"),
        language=values.get("language"),
        split=values.get("split"),
    )


def _without_header(
    path: Path, lines: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]], sign: str | None
) -> list[tuple[int, Said]]:
    """Read `id text`, `path text` or `id path text`; the last if every second cell names audio."""
    has_path = bool(rows) and all(len(cells) > 1 and cells[1].lower().endswith(ALL_SUFFIXES) for _, cells in rows)
    width = 3 if has_path else 2
    found = []
    for number, cells in rows:
        if sign is None:
            cells = cells_of(lines[number - 1], None, width)
        if sign is not None and len(cells) > width:
            raise ManifestError(
                f"{path}:{number}: expected {'id, path and text' if has_path else 'id and text'}, found {len(cells)} "
                "cells; name the columns in a first line"
            )
        key, text = cells[0], cells[width - 1] if len(cells) >= width else ""
        is_path = key.lower().endswith(ALL_SUFFIXES)
        found.append((number, Said(id=key, text=text, path=cells[1] if has_path else key if is_path else None)))
    return [(number, replace(row, text=row.text.strip(BLANKS))) for number, row in found]
