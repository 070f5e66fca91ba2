"""Imports and exports Kaldi's data directories: `wav.scp text utt2spk utt2lang segments reco2file_and_channel`.

Each file has lines of a key and a value. `wav.scp` may hold shell commands; they are never run, and such a line is
refused. In Kaldi an unknown speaker is the utterance's id, which is read as no speaker. `segments` states parts of
recordings in seconds (`corpus/entries.py` says how they round); its optional fifth field is a channel, counted from 0.
`reco2file_and_channel` states the channel of a recording in its source file, where A or 1 is the first; it is used if
the file in `wav.scp` has several channels.
"""

import re
from collections.abc import Collection
from pathlib import Path

from speechssl.atomic import write_atomically
from speechssl.corpus.entries import Entry, account, file_of, lost_columns, recording_ids, seconds_of, text_lines
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError
from speechssl.text.fields import BLANKS, fields_of, first_field

__all__ = ["read_kaldi", "write_kaldi"]


def read_kaldi(folder: Path) -> tuple[list[Entry], list[str]]:
    """Read a data directory.

    Returns:
        The entries, and a note on the files that were used and those that were not.

    Raises:
        ManifestError: `wav.scp` is missing or holds a command or an archive, a key occurs twice, a line has no value,
            or a table has keys that are not utterances.
    """
    recordings = {key: (where, _file(path, where)) for key, (where, path) in _table(folder / "wav.scp").items()}
    segments = {}
    if (folder / "segments").exists():
        segments = {
            key: (where, *_segment(value, where)) for key, (where, value) in _table(folder / "segments").items()
        }
        unknown = {key: part[1] for key, part in segments.items() if part[1] not in recordings}
        if unknown:
            key, recording = next(iter(unknown.items()))
            raise ManifestError(f"{segments[key][0]}: the recording {recording!r} is not in wav.scp; add it there")
    keys = segments or recordings
    columns = {name: _column(folder / file, keys.keys()) for name, file in _FILES.items()}
    sides = _sides(folder / _SIDES, recordings.keys())
    entries = []
    for key in keys:
        recording = segments[key][1] if segments else key
        where, path = recordings[recording]
        channel = segments[key][4] if segments else None
        speaker = columns["speaker"].get(key)
        entries.append(
            Entry(
                where=segments[key][0] if segments else where,
                id=key,
                path=path,
                start_s=segments[key][2] if segments else None,
                end_s=segments[key][3] if segments else None,
                channel=sides.get(recording) if channel is None else channel,
                is_channel_of_source=channel is None,
                text=columns["text"].get(key),
                speaker=None if speaker == key else speaker,
                language=columns["language"].get(key),
            )
        )
    return entries, [_account(folder)]


def write_kaldi(folder: Path, manifest: Manifest) -> list[str]:
    """Write a data directory, sorted by the bytes of ids as Kaldi requires; return notes on what it cannot hold.

    Raises:
        ManifestError: an id, speaker or language is empty or has a blank, Kaldi would read a path as a command, an
            archive or standard input, or audio is in an archive or at a URL.
    """
    rows = sorted(manifest.utterances, key=lambda row: row.id.encode())
    files = {row.path: file_of(manifest, row, by="Kaldi") for row in rows}
    for row in rows:
        for value in (row.id, row.speaker, row.language):
            if value is not None and re.search(r"\s", value):
                raise ManifestError(f"{row.id!r}: {value!r} has a blank, where Kaldi would split it; rename it")
        _file(files[row.path], where=row.id)
    speakers = {row.id: row.speaker or row.id for row in rows}
    of_speaker: dict[str, list[str]] = {}
    for key, speaker in speakers.items():
        of_speaker.setdefault(speaker, []).append(key)
    recordings = {row.id: files[row.path] for row in rows}
    parts = {}
    if any(row.segment is not None for row in rows):
        ids = recording_ids(manifest)
        recordings = {ids[path]: files[path] for path in sorted(files, key=lambda path: ids[path].encode())}
        parts = {row.id: f"{ids[row.path]} {_interval(row)}" for row in rows}
    _write(folder / "wav.scp", recordings)
    _write(folder / "segments", parts)
    _write(folder / "utt2spk", speakers)
    _write(folder / "spk2utt", {name: " ".join(of_speaker[name]) for name in sorted(of_speaker, key=str.encode)})
    _write(folder / "text", {row.id: row.text for row in rows if row.text})
    _write(folder / "utt2lang", {row.id: row.language for row in rows if row.language})
    notes = lost_columns(manifest, ("id", "text", "speaker", "language"), by="a Kaldi data directory")
    if list(speakers.values()) != sorted(speakers.values(), key=str.encode):
        notes.append("ids do not sort like their speakers: Kaldi's scripts expect ids to begin with the speaker")
    return notes


_FILES = {"text": "text", "speaker": "utt2spk", "language": "utt2lang"}
_SIDES = "reco2file_and_channel"
_TABLE = r"[A-Za-z0-9_]+(\.scp|\.txt)?"  # names of tables in Kaldi's scripts


def _account(folder: Path) -> str:
    """Describe which tables of a data directory were used, and which were not."""
    places = {"path": "wav.scp", "start and end": "segments", "channel": _SIDES, **_FILES}
    taken = {ours: file for ours, file in places.items() if (folder / file).exists()}
    tables = sorted(path.name for path in folder.iterdir() if path.is_file() and re.fullmatch(_TABLE, path.name))
    return account(folder, taken, [name for name in tables if name not in (*places.values(), "spk2utt")])


def _sides(path: Path, recordings: Collection[str]) -> dict[str, int]:
    """Return the channel of each recording, counted from 0; the file counts from A, from 1, or from 0 if it has a 0."""
    sides = {}
    for key, (where, value) in (_table(path) if path.exists() else {}).items():
        side = fields_of(value)[-1]
        if not re.fullmatch(r"[A-Z]|[0-9]{1,4}", side):
            raise ManifestError(
                f"{where}: expected `recording file channel`, a channel such as A or 1, found {value!r}"
            )
        if key not in recordings:
            raise ManifestError(f"{where}: the recording {key!r} is not in wav.scp; remove the line, or add it there")
        sides[key] = side
    first = 0 if "0" in sides.values() else 1
    return {key: int(side) - first if side.isdecimal() else ord(side) - ord("A") for key, side in sides.items()}


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Read lines `key value`: key -> location, value."""
    table: dict[str, tuple[str, str]] = {}
    for where, line in text_lines(path):
        key, value = first_field(line)
        if not value and path.name != "text":
            raise ManifestError(f"{where}: expected a key and a value, found {line!r}")
        if key in table:
            raise ManifestError(f"{where}: {key} occurs twice, first at {table[key][0]}; keep one of the lines")
        table[key] = (where, value)
    return table


def _column(path: Path, keys: Collection[str]) -> dict[str, str]:
    if not path.exists():
        return {}
    table = _table(path)
    unknown = [key for key in table if key not in keys]
    if unknown:
        raise ManifestError(
            f"{table[unknown[0]][0]}: {len(unknown)} keys are not utterances of the directory: "
            f"{', '.join(unknown[:3])}; remove their lines"
        )
    return {key: value for key, (_, value) in table.items()}


def _file(written: str, where: str) -> str:
    """Return `written` if Kaldi reads it as a plain file."""
    if written.startswith("|") or written.endswith("|"):
        raise ManifestError(
            f"{where}: {written!r} is a command, and commands are not run; write its output to a file and name that"
        )
    if written == "-" or re.search(r":\d+(\[.*\])?$", written):
        raise ManifestError(f"{where}: Kaldi reads {written!r} as standard input or part of an archive, not as a file")
    if written != written.strip(BLANKS + "\v\f\r") or "\n" in written or written.endswith("]"):
        raise ManifestError(f"{where}: Kaldi cannot hold the path {written!r}; rename the file")
    return written


def _segment(value: str, where: str) -> tuple[str, float, float | None, int | None]:
    try:
        recording, start, end, *rest = fields_of(value)
        start_s, end_s = float(start), float(end)
        channel = int(rest[0]) if rest else -1
        if len(rest) > 1 or channel < -1:
            raise ValueError(value)
    except ValueError as error:
        raise ManifestError(
            f"{where}: expected `utterance recording start end`, and a channel, counted from 0, where there are "
            f"several, found {value!r}"
        ) from error
    return recording, start_s, None if end_s == -1 else end_s, None if channel == -1 else channel


def _interval(row: Utterance) -> str:
    end = row.start + row.num_samples
    channel = "" if row.channel is None else f" {row.channel}"
    return f"{seconds_of(row.start, row.sample_rate)!r} {seconds_of(end, row.sample_rate)!r}{channel}"


def _write(path: Path, table: dict[str, str]) -> None:
    if table:
        write_atomically(path, "".join(f"{key} {value}\n" for key, value in table.items()))
    else:
        path.unlink(missing_ok=True)  # file of an earlier export
