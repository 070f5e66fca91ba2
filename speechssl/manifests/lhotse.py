"""Lhotse's manifests: recordings (audio), supervisions (what is said in them) and cuts (both), JSON lines, gzipped.

Written without Lhotse, whose classes store just these dictionaries; the tests read the files with it. What only Lhotse
can carry out (a command as source, a transform, a mixture of cuts) is refused by name.

A cut whose one supervision is as long as itself is an utterance, and so is a cut without any. Otherwise every
supervision is one, with its own id, as after Lhotse's `trim_to_supervisions`; a note says what lies outside of them.
"""

import gzip
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.data.manifest import Manifest, Utterance, write_atomically
from speechssl.errors import ManifestError
from speechssl.manifests.entries import Entry, file_of, json_lines, recording_ids, seconds_of, word

__all__ = ["read_lhotse", "write_lhotse"]

_NAMES = ("recordings.jsonl.gz", "supervisions.jsonl.gz", "cuts.jsonl.gz")
_TOLERANCE_S = 0.05  # by which a supervision may differ from the cut that it is all of, or leave its cut


def read_lhotse(path: Path) -> tuple[list[Entry], list[str]]:
    """Read a file of cuts or of recordings, or a folder as `write_lhotse` leaves it.

    Args:
        path: a file of cuts or recordings, or a folder with `cuts.jsonl.gz`, or else with `recordings.jsonl.gz`, and
            `supervisions.jsonl.gz` if there are texts.

    Returns:
        The entries, and a note on what lies outside of the supervisions of a cut.

    Raises:
        ManifestError: no such files, or something in them that a manifest cannot hold.
    """
    if not path.is_dir():
        return _entries(json_lines(path))
    recordings, supervisions, cuts = (path / name for name in _NAMES)
    if cuts.exists():
        return _entries(json_lines(cuts))
    if not recordings.exists():
        raise ManifestError(f"{path}: expected {_NAMES[2]}, or {' and '.join(_NAMES[:2])}; name the file itself")
    said: dict[str, list[Any]] = {}
    for where, row in json_lines(supervisions) if supervisions.exists() else ():
        said.setdefault(word(row, "recording_id", where=where) or "", []).append(row)
    rows = []
    for where, row in json_lines(recordings):
        supervised = {"recording": row, "supervisions": said.pop(word(row, "id", where=where) or "", [])}
        rows.append((where, {"id": row.get("id"), "type": "MonoCut", **supervised}))
    if said:
        raise ManifestError(f"{supervisions}: the recordings {', '.join(list(said)[:3])} are not in {recordings.name}")
    return _entries(rows)


def write_lhotse(folder: Path, manifest: Manifest) -> None:
    """Write recordings, supervisions and cuts, with whole paths; the split goes into the supervisions' `custom`.

    Raises:
        ManifestError: audio in an archive or at a URL.
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


def _entries(rows: Iterable[tuple[str, dict[str, Any]]]) -> tuple[list[Entry], list[str]]:
    entries, trimmed, outside_s = [], 0, 0.0
    for where, row in rows:
        audio = _audio(row, where)
        supervisions: list[dict[str, Any]] = row.get("supervisions") or []
        spans = [_span(one, audio, where) for one in supervisions]
        cut_s = _length(audio)
        if not supervisions:
            entries.append(audio)
        elif len(spans) == 1 and cut_s is not None and abs(spans[0][1] - cut_s) <= _TOLERANCE_S:
            entries.append(_said(audio, supervisions[0], where))
        else:
            trimmed += 1
            outside_s += (cut_s or 0.0) - _covered(spans)
            for one, (start_s, duration_s) in zip(supervisions, spans, strict=True):
                part = replace(audio, id=word(one, "id", where=where), start_s=start_s, duration_s=duration_s)
                entries.append(_said(part, one, where))
    note = f"{trimmed} cuts were trimmed to their supervisions; {outside_s:.1f} s outside of them are not taken"
    return entries, [note] if trimmed else []


def _audio(row: dict[str, Any], where: str) -> Entry:
    """Return the audio of a cut or recording, with nothing said in it."""
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
    whole, channel = recording.get("channel_ids") or sources[0].get("channels"), row.get("channel")
    if channel is not None and whole is not None and (channel if isinstance(channel, list) else [channel]) != whole:
        raise ManifestError(f"{where}: {key} is channel {channel} of {whole}; save its audio to a file of its own")
    return Entry(
        where=where,
        id=key,
        path=word(sources[0], "source", where=where) or "",
        num_samples=_whole(recording, "num_samples", where),
        sample_rate=_whole(recording, "sampling_rate", where),
        start_s=_number(row, "start", where) or 0.0,
        duration_s=_number(row, "duration", where),
    )


def _length(audio: Entry) -> float | None:
    """Return the seconds of a cut, or of the recording where no cut is said."""
    if audio.duration_s is not None or audio.num_samples is None or not audio.sample_rate:
        return audio.duration_s
    return audio.num_samples / audio.sample_rate - (audio.start_s or 0.0)


def _span(supervision: dict[str, Any], audio: Entry, where: str) -> tuple[float, float]:
    """Return start, in the file, and duration of what a supervision describes, in seconds.

    Raises:
        ManifestError: it reaches out of its cut, so that its text says more than there is.
    """
    start_s, duration_s = _number(supervision, "start", where) or 0.0, _number(supervision, "duration", where)
    cut_s = _length(audio)
    if duration_s is None:
        duration_s = (cut_s or 0.0) - start_s
    if not start_s >= -_TOLERANCE_S or (cut_s is not None and not start_s + duration_s <= cut_s + _TOLERANCE_S):
        key = word(supervision, "id", where=where)
        raise ManifestError(
            f"{where}: the supervision {key} starts at {start_s:g} s and lasts {duration_s:g} s, its cut {cut_s:g} s; "
            "cut where nothing is said"
        )
    return (audio.start_s or 0.0) + max(0.0, start_s), duration_s + min(0.0, start_s)


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return how many seconds lie in one of the spans, or in several."""
    covered_s, reached_s = 0.0, -math.inf
    for start_s, duration_s in sorted(spans):
        covered_s += max(0.0, start_s + duration_s - max(start_s, reached_s))
        reached_s = max(reached_s, start_s + duration_s)
    return covered_s


def _said(audio: Entry, supervision: dict[str, Any], where: str) -> Entry:
    custom = supervision.get("custom")
    return replace(
        audio,
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
        "channel": 0 if row.channels == 1 else _channels(row),
        **{name: value for name, value in said.items() if value is not None},
        **({"custom": {"split": row.split}} if row.split is not None else {}),
    }


def _cut(row: Utterance, recording: dict[str, Any], supervision: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "start": supervision["start"],
        "duration": supervision["duration"],
        "channel": supervision["channel"],
        "supervisions": [{**supervision, "start": 0.0}],  # in a cut, counted from its beginning
        "recording": recording,
        "type": "MonoCut" if row.channels == 1 else "MultiCut",
    }


def _write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, gzip.compress(text.encode(), mtime=0))  # no time stamp: the same rows, the same bytes
