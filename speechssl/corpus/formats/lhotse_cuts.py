"""Imports and exports Lhotse's manifests of recordings, supervisions and cuts, as gzipped JSON lines.

Lhotse is not needed, as its classes store just these dictionaries; the tests read the files with it. Features that need
Lhotse (a command as source, a transform, a mixture of cuts) are refused.

A cut with no supervision, or a single one of the same length, is one utterance. Otherwise every supervision is an
utterance with its own id, as after Lhotse's `trim_to_supervisions`; a note states the audio outside of them.
"""

import gzip
import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.atomic import write_atomically
from speechssl.corpus.entries import Entry, file_of, json_lines, recording_ids, seconds_of, word
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError

__all__ = ["read_lhotse", "write_lhotse"]

_NAMES = ("recordings.jsonl.gz", "supervisions.jsonl.gz", "cuts.jsonl.gz")  # files written
_RECORDINGS, _SUPERVISIONS, _CUTS = "recordings", "supervisions", "cuts"  # parts of file names
_TOLERANCE_S = 0.05  # tolerance for a supervision that covers, or exceeds, its cut


def read_lhotse(path: Path) -> tuple[list[Entry], list[str]]:
    """Read cuts, or recordings with their supervisions.

    Args:
        path: a file of cuts; one of recordings, whose texts are not read; one of supervisions, beside recordings whose
            name differs only in that word, as in Lhotse's recipes; or a folder with one file of cuts, or one such pair,
            or recordings alone.

    Returns:
        The entries, and notes on the files that were read, and on audio outside of supervisions.

    Raises:
        ManifestError: the files are missing or ambiguous, or hold something that a manifest cannot.
    """
    named = _only_file(path) if path.is_dir() else path
    recordings = named.with_name(named.name.replace(_SUPERVISIONS, _RECORDINGS))
    supervisions = named.with_name(named.name.replace(_RECORDINGS, _SUPERVISIONS))
    if recordings == supervisions:  # it has neither word in its name
        return _entries(json_lines(named), [])
    if not recordings.exists():
        raise ManifestError(f"{named}: expected {recordings.name} beside it, which says where the audio is")
    if not supervisions.exists():
        return _entries(json_lines(recordings), [f"{recordings}: no texts, as there is no {supervisions.name}"])
    if path == recordings:
        note = f"{path}: its texts, in {supervisions.name}, are not taken; name that file, or the folder, to take them"
        return _entries(json_lines(path), [note])
    said: dict[str, list[Any]] = {}
    for where, row in json_lines(supervisions):
        said.setdefault(word(row, "recording_id", where=where) or "", []).append(row)
    rows = []
    for where, row in json_lines(recordings):
        supervised = {"recording": row, "supervisions": said.pop(word(row, "id", where=where) or "", [])}
        rows.append((where, {"id": row.get("id"), "type": "MonoCut", **supervised}))
    if said:
        raise ManifestError(f"{supervisions}: the recordings {', '.join(list(said)[:3])} are not in {recordings.name}")
    return _entries(rows, [])


def write_lhotse(folder: Path, manifest: Manifest) -> None:
    """Write recordings, supervisions and cuts, with absolute paths; the split goes into the supervisions' `custom`.

    Raises:
        ManifestError: audio is in an archive or at a URL.
    """
    ids = recording_ids(manifest)
    recordings: dict[str, dict[str, Any]] = {}
    supervisions, cuts = [], []
    for row in manifest.utterances:
        if row.path not in recordings:
            recordings[row.path] = _recording(row, ids[row.path], file_of(manifest, row, by="Lhotse"))
        supervision = _supervision(row, ids[row.path])
        supervisions.append(supervision)
        cuts.append(_cut(row, recordings[row.path], supervision))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(_NAMES, (list(recordings.values()), supervisions, cuts), strict=True):
        _write_json_lines(folder / name, rows)


def _only_file(folder: Path) -> Path:
    """Return the only file of cuts in a folder, or else the only one of recordings."""
    names = sorted(path.name for path in folder.iterdir() if re.search(r"\.jsonl(\.gz)?$", path.name))
    for kind in (_CUTS, _RECORDINGS):
        found = [name for name in names if kind in name]
        if len(found) > 1:
            raise ManifestError(f"{folder}: holds {', '.join(found)}; name one of the files")
        if found:
            return folder / found[0]
    raise ManifestError(
        f"{folder}: expected a file such as {_NAMES[2]}, or {' and '.join(_NAMES[:2])}; name the file itself"
    )


def _entries(rows: Iterable[tuple[str, dict[str, Any]]], notes: list[str]) -> tuple[list[Entry], list[str]]:
    entries, trimmed, outside_s = [], 0, 0.0
    for where, row in rows:
        audio = _audio(row, where)
        supervisions: list[dict[str, Any]] = row.get("supervisions") or []
        spans = [_span(one, audio, where) for one in supervisions]
        cut_s, channels = _length(audio), _channel_ids(row)
        if not supervisions:
            entries.append(audio)
        elif len(spans) == 1 and cut_s is not None and abs(spans[0][1] - cut_s) <= _TOLERANCE_S:
            entries.append(_said(audio, supervisions[0], channels, where))
        else:
            trimmed += 1
            outside_s += (cut_s or 0.0) - _covered(spans)
            for one, (start_s, duration_s) in zip(supervisions, spans, strict=True):
                part = replace(audio, id=word(one, "id", where=where), start_s=start_s, duration_s=duration_s)
                entries.append(_said(part, one, channels, where))
    note = f"{trimmed} cuts were trimmed to their supervisions; {outside_s:.1f} s outside of them are not taken"
    return entries, [*notes, note] if trimmed else notes


def _audio(row: dict[str, Any], where: str) -> Entry:
    """Return the entry of a cut or recording, without text."""
    if "sources" in row:
        row = {"id": row.get("id"), "type": "MonoCut", "recording": row}
    key, kind = word(row, "id", where=where), row.get("type")
    recording, supervisions = row.get("recording"), row.get("supervisions") or []
    if kind not in ("MonoCut", "MultiCut") or not isinstance(recording, dict) or not isinstance(supervisions, list):
        raise ManifestError(f"{where}: {key} is a {kind}, expected a MonoCut or MultiCut with its recording")
    if not all(isinstance(one, dict) for one in supervisions):
        raise ManifestError(f"{where}: {key} has supervisions that are no objects; write it with Lhotse again")
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ManifestError(f"{where}: {key} is not made of one file; save its audio as one")
    if sources[0].get("type") != "file" or recording.get("transforms"):
        what = "a transform" if recording.get("transforms") else f"a source of type {sources[0].get('type')!r}"
        raise ManifestError(f"{where}: {key} has {what}, which only Lhotse carries out; save its audio to a file")
    return Entry(
        where=where,
        id=key,
        path=word(sources[0], "source", where=where) or "",
        num_samples=_whole(recording, "num_samples", where),
        sample_rate=_whole(recording, "sampling_rate", where),
        start_s=_number(row, "start", where) or 0.0,
        duration_s=_number(row, "duration", where),
        channel=_channel(row, _channel_ids(row), where),
    )


def _channel_ids(row: dict[str, Any]) -> list[Any]:
    """Return the names of the channels of a file, in order; empty if they are not stated."""
    recording = row.get("recording") or row
    sources = recording.get("sources") or [{}]
    found = recording.get("channel_ids") or sources[0].get("channels")
    return found if isinstance(found, list) else []


def _channel(row: dict[str, Any], channels: list[Any], where: str) -> int | None:
    """Return the index of the channel of a cut or supervision; None for all."""
    found = row.get("channel")
    wanted = found if isinstance(found, list) else [found]
    if found is None or not channels or wanted == channels:
        return None
    if len(wanted) != 1 or wanted[0] not in channels:
        raise ManifestError(
            f"{where}: {row.get('id')} has the channels {found} of {channels}, expected one or all; save its "
            "audio to a file of its own"
        )
    return channels.index(wanted[0])


def _length(audio: Entry) -> float | None:
    """Return the duration of a cut, or of the recording, in seconds."""
    if audio.duration_s is not None or audio.num_samples is None or not audio.sample_rate:
        return audio.duration_s
    return audio.num_samples / audio.sample_rate - (audio.start_s or 0.0)


def _span(supervision: dict[str, Any], audio: Entry, where: str) -> tuple[float, float]:
    """Return the start in the file and the duration of a supervision, in seconds.

    Raises:
        ManifestError: the supervision exceeds its cut, so that its text is too long.
    """
    start_s, duration_s = _number(supervision, "start", where) or 0.0, _number(supervision, "duration", where)
    cut_s = _length(audio)
    if duration_s is None:
        duration_s = (cut_s or 0.0) - start_s
    if not start_s >= -_TOLERANCE_S or (cut_s is not None and not start_s + duration_s <= cut_s + _TOLERANCE_S):
        key = word(supervision, "id", where=where)
        raise ManifestError(
            f"{where}: the supervision {key} starts at {start_s:g} s and lasts {duration_s:g} s, its cut {cut_s:g} s; "
            "cut outside of supervisions"
        )
    return (audio.start_s or 0.0) + max(0.0, start_s), duration_s + min(0.0, start_s)


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the duration of the union of the spans, in seconds."""
    covered_s, reached_s = 0.0, -math.inf
    for start_s, duration_s in sorted(spans):
        covered_s += max(0.0, start_s + duration_s - max(start_s, reached_s))
        reached_s = max(reached_s, start_s + duration_s)
    return covered_s


def _said(audio: Entry, supervision: dict[str, Any], channels: list[Any], where: str) -> Entry:
    custom = supervision.get("custom")
    return replace(
        audio,
        channel=_channel(supervision, channels, where) if audio.channel is None else audio.channel,
        text=word(supervision, "text", where=where),
        speaker=word(supervision, "speaker", where=where),
        language=word(supervision, "language", where=where),
        split=word(custom, "split", where=where) if isinstance(custom, dict) else None,
    )


def _number(row: dict[str, Any], name: str, where: str) -> float | None:
    found = row.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ManifestError(f"{where}: {name} is {found!r:.60}, expected a number")
    return found


def _whole(row: dict[str, Any], name: str, where: str) -> int | None:
    found = _number(row, name, where)
    if found is not None and found != found // 1:  # also NaN and infinity
        raise ManifestError(f"{where}: {name} is {found}, expected a whole number")
    return None if found is None else int(found)


def _channels(row: Utterance) -> list[int]:
    return list(range(row.channels))


def _channel_of(row: Utterance) -> int | list[int]:
    if row.channel is not None:
        return row.channel
    return 0 if row.channels == 1 else _channels(row)


def _recording(row: Utterance, key: str, file: str) -> dict[str, Any]:
    num_samples = row.file_samples or row.num_samples
    return {
        "id": key,
        "sources": [{"type": "file", "channels": _channels(row), "source": file}],
        "sampling_rate": row.sample_rate,
        "num_samples": num_samples,
        "duration": seconds_of(num_samples, row.sample_rate),
        "channel_ids": _channels(row),
    }


def _supervision(row: Utterance, recording: str) -> dict[str, Any]:
    said = {"text": row.text, "language": row.language, "speaker": row.speaker}
    return {
        "id": row.id,
        "recording_id": recording,
        "start": seconds_of(row.start, row.sample_rate),
        "duration": seconds_of(row.num_samples, row.sample_rate),
        "channel": _channel_of(row),
        **{name: value for name, value in said.items() if value is not None},
        **({"custom": {"split": row.split}} if row.split is not None else {}),
    }


def _cut(row: Utterance, recording: dict[str, Any], supervision: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "start": supervision["start"],
        "duration": supervision["duration"],
        "channel": supervision["channel"],
        "supervisions": [{**supervision, "start": 0.0}],  # relative to the start of the cut
        "recording": recording,
        "type": "MultiCut" if isinstance(_channel_of(row), list) else "MonoCut",
    }


def _write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, gzip.compress(text.encode(), mtime=0))  # no time stamp, for reproducible bytes
