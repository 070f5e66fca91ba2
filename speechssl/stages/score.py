"""Stage `score`: a manifest with texts and what a system wrote -> references with their groups."""

import dataclasses
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechssl.data.audio import AudioConfig
from speechssl.data.fields import BLANKS, first_field, lines_of, unescape_id
from speechssl.data.languages import is_code_like, read_language
from speechssl.data.manifest import Manifest, Utterance, id_of, part_id_of, read_side_file, read_table
from speechssl.errors import ConfigError, ManifestError
from speechssl.score.evaluate import Reference

__all__ = ["GROUPINGS", "read_columns", "read_hypotheses", "read_json_lines", "references_of", "with_known_languages"]

GROUPINGS = ("speaker", "language", "split", "duration", "snr")  # known without a table
_BANDS_S = (1.0, 2.0, 5.0, 10.0, 20.0)
_BANDS_DB = (0.0, 10.0, 20.0, 30.0)
_ANY_RATE = AudioConfig(min_sample_rate=1)


def references_of(
    manifest: Manifest, groupings: Sequence[str] = (), columns: Mapping[str, Mapping[str, str]] | None = None
) -> list[Reference]:
    """Return the texts of a manifest with the groups of each utterance.

    Args:
        manifest: with a text for every utterance.
        groupings: names of `GROUPINGS`, or of columns; `snr` reads the audio.
        columns: of `read_columns`.

    Raises:
        ManifestError: a text is missing, a grouping is not known, or nothing is known of an utterance's group.
        AudioError: `snr` is asked for and a file cannot be read.
    """
    untranscribed = [row.id for row in manifest.utterances if not row.text]
    if untranscribed:
        raise ManifestError(
            f"{len(untranscribed)} utterances have no text: {', '.join(untranscribed[:3])}; transcribe or remove them"
        )
    known = {name: None for row in (columns or {}).values() for name in row}
    unknown = [name for name in groupings if name not in GROUPINGS and name not in known]
    if unknown:
        raise ManifestError(
            f"no grouping {unknown[0]!r}; take one of {', '.join([*GROUPINGS, *known])}, or name a table that has it"
        )
    return [
        Reference(
            id=row.id,
            text=row.text or "",
            speaker=row.speaker,
            language=row.language,
            groups={name: _group_of(manifest, row, name, columns or {}) for name in groupings},
        )
        for row in manifest.utterances
    ]


def with_known_languages(references: Sequence[Reference], where: Path) -> tuple[list[Reference], list[str]]:
    """Check languages before texts are normalised by their rules.

    Args:
        references: of a manifest.
        where: it is, for messages.

    Returns:
        The references, without a language where it is a word that is no code (`English`); and a line about each word.

    Raises:
        ManifestError: a language looks like a code, and is that of no language.
    """
    no_code: dict[str, list[str]] = {}
    for row in references:
        try:
            read_language(row.language)
        except ConfigError as error:
            if is_code_like(row.language or ""):
                raise ManifestError(f"{where}: {row.id}: column language: {error}") from error
            no_code.setdefault(row.language or "", []).append(row.id)
    known = [dataclasses.replace(row, language=None) if row.language in no_code else row for row in references]
    return known, [
        f"{where}: column language: {word!r} of {len(ids)} utterances ({', '.join(ids[:3])}) is no code; no language's "
        "rules of capitals and marks are applied to them; write a code, as tr or tur for Turkish"
        for word, ids in no_code.items()
    ]


def read_hypotheses(path: Path) -> dict[str, str]:
    """Read what a system wrote, by utterance id, in the form that the name and the first line say.

    `.jsonl` and `.json` are objects, one a line, as `speechssl transcribe` and NeMo write them: `pred_text` counts
    before `text`, and without an `id` the file and its times make one, as in an import. `.trn` is sclite's
    (`text (id)`). A table has a header with `id` or `path`; lines without one, in a file that is no `.tsv` or `.csv`,
    are Kaldi's.

    Raises:
        ManifestError: it does not parse, or an id occurs twice.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json"):
        rows = read_json_lines(path)
        return {key: str(row.get("pred_text", row.get("text", ""))) for key, row in rows.items()}
    if suffix == ".trn":
        return _read_trn(path)
    lines = [] if suffix in (".tsv", ".csv") else _lines(path)
    if not lines or {"id", "path"} & {*lines[0].split("\t")}:
        return {key: columns.get("text", "") for key, columns in read_side_file(path).items()}
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        key, text = first_field(line)
        if key in found:
            raise ManifestError(f"{path}:{number}: {key} occurs twice; keep one of its rows")
        if key:
            found[key] = text
    return found


def _lines(path: Path) -> list[str]:
    try:
        return lines_of(path.read_text(encoding="utf-8-sig")) or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); name a file in UTF-8") from error


def _read_trn(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        text, opened, field = line.rstrip(BLANKS).rpartition("(")
        key = unescape_id(field[:-1])
        if not line.strip(BLANKS):
            continue
        if not opened or not field.endswith(")"):
            raise ManifestError(f"{path}:{number}: expected `text (id)`, found {line!r}")
        if key in found:
            raise ManifestError(f"{path}:{number}: {key} occurs twice; keep one of its rows")
        found[key] = text.strip(BLANKS)
    return found


def read_json_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Read objects, one a line, by their `id`, or the one that NeMo's `audio_filepath`, `offset` and `duration` make.

    Raises:
        ManifestError: it cannot be read, a line is no object with an id, or an id occurs twice.
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
            row = json.loads(line)
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
    """Return the id that an import of NeMo's manifest gives an utterance without one."""
    key = id_of(str(row["audio_filepath"]))
    if row.get("offset") is None:
        return key
    start_s = float(row["offset"])
    return part_id_of(key, start_s, start_s + float(row["duration"]))


def read_columns(path: Path) -> dict[str, dict[str, str]]:
    """Read a table (tab, or comma for `.csv`) of what is known of utterances, or of speakers, by `id` or `speaker`.

    Raises:
        ManifestError: neither column is there, a row has too few cells, or a key occurs twice.
    """
    return read_table(path, ("id", "speaker"))


def _group_of(manifest: Manifest, row: Utterance, name: str, columns: Mapping[str, Mapping[str, str]]) -> str:
    match name:
        case "speaker" | "language" | "split":
            return getattr(row, name) or "unknown"
        case "duration":
            return _band(row.duration_s, _BANDS_S, "s")
        case "snr":
            from speechssl.data.utterance import read_utterance  # both bring torch, which texts do without
            from speechssl.score.snr import estimate_snr_db

            return _band(estimate_snr_db(read_utterance(manifest, row, _ANY_RATE)), _BANDS_DB, "dB")
    known = columns.get(row.id) or columns.get(row.speaker or "") or {}
    return known.get(name) or "unknown"


def _band(value: float, limits: Sequence[float], unit: str) -> str:
    """Name the band that a value lies in.

    Examples:
        >>> _band(3.0, (1.0, 2.0, 5.0), "s"), _band(0.5, (1.0, 2.0), "s"), _band(2.0, (1.0, 2.0), "s")
        ('from 2 to 5 s', 'below 1 s', 'over 2 s')
    """
    place = bisect_right(limits, value)
    if place == 0:
        return f"below {limits[0]:g} {unit}"
    if place == len(limits):
        return f"over {limits[-1]:g} {unit}"
    return f"from {limits[place - 1]:g} to {limits[place]:g} {unit}"
