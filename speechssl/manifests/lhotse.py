"""Lhotse's manifests: recordings (audio), supervisions (what is said in them) and cuts (both), JSON lines, gzipped.

Written without Lhotse, whose classes store just these dictionaries; the tests read the files with it. What only Lhotse
can carry out (a command as source, a transform, a mixture of cuts, a part of a recording) is refused by name.
"""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from speechssl.data.manifest import Manifest, Utterance, write_atomically
from speechssl.errors import ManifestError
from speechssl.manifests.entries import Entry, json_lines, word

__all__ = ["read_lhotse", "write_lhotse"]

_NAMES = ("recordings.jsonl.gz", "supervisions.jsonl.gz", "cuts.jsonl.gz")


def read_lhotse(path: Path) -> list[Entry]:
    """Read a file of cuts or of recordings, or a folder as `write_lhotse` leaves it.

    Args:
        path: a file of cuts or recordings, or a folder with `recordings.jsonl.gz`, and `supervisions.jsonl.gz` if
            there are texts, or with `cuts.jsonl.gz` alone.

    Raises:
        ManifestError: no such files, or something in them that a manifest cannot hold.
    """
    if not path.is_dir():
        return [_entry(row, where) for where, row in json_lines(path)]
    recordings, supervisions, cuts = (path / name for name in _NAMES)
    if not recordings.exists():
        if not cuts.exists():
            raise ManifestError(f"{path}: expected {' and '.join(_NAMES[:2])}, or {_NAMES[2]}; name the file itself")
        return [_entry(row, where) for where, row in json_lines(cuts)]
    said: dict[str, list[Any]] = {}
    for where, row in json_lines(supervisions) if supervisions.exists() else ():
        said.setdefault(word(row, "recording_id", where=where) or "", []).append(row)
    entries = []
    for where, row in json_lines(recordings):
        supervised = {"recording": row, "supervisions": said.pop(word(row, "id", where=where) or "", [])}
        entries.append(_entry({"id": row.get("id"), "type": "MonoCut", **supervised}, where))
    if said:
        raise ManifestError(f"{supervisions}: the recordings {', '.join(list(said)[:3])} are not in {recordings.name}")
    return entries


def write_lhotse(folder: Path, manifest: Manifest) -> None:
    """Write recordings, supervisions and cuts, with whole paths; the split goes into the supervisions' `custom`."""
    recordings = [_recording(row, manifest.root.resolve()) for row in manifest.utterances]
    supervisions = [_supervision(row) for row in manifest.utterances]
    cuts = [_cut(*parts) for parts in zip(manifest.utterances, recordings, supervisions, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(_NAMES, (recordings, supervisions, cuts), strict=True):
        _write_json_lines(folder / name, rows)


def _entry(row: dict[str, Any], where: str) -> Entry:
    if "sources" in row:
        row = {"id": row.get("id"), "type": "MonoCut", "recording": row}
    key, kind = word(row, "id", where=where), row.get("type")
    recording, supervisions = row.get("recording"), row.get("supervisions") or []
    if kind not in ("MonoCut", "MultiCut") or not isinstance(recording, dict) or not isinstance(supervisions, list):
        raise ManifestError(f"{where}: {key} is a {kind}, expected a MonoCut or MultiCut with its recording")
    if len(supervisions) > 1 or not all(isinstance(one, dict) for one in supervisions):
        raise ManifestError(
            f"{where}: {key} has {len(supervisions)} supervisions; trim the cuts to them and save audio"
        )
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ManifestError(f"{where}: {key} is not made of one file; save its audio as one")
    if sources[0].get("type") != "file" or recording.get("transforms"):
        what = "a transform" if recording.get("transforms") else f"a source of type {sources[0].get('type')!r}"
        raise ManifestError(f"{where}: {key} has {what}, which only Lhotse carries out; save its audio to a file")
    whole, channel = recording.get("channel_ids") or sources[0].get("channels"), row.get("channel")
    if channel is not None and whole is not None and (channel if isinstance(channel, list) else [channel]) != whole:
        raise ManifestError(f"{where}: {key} is channel {channel} of {whole}; save its audio to a file of its own")
    said: dict[str, Any] = supervisions[0] if supervisions else {}
    custom = said.get("custom")
    return Entry(
        where=where,
        id=key,
        path=word(sources[0], "source", where=where) or "",
        num_samples=_whole(recording, "num_samples", where),
        sample_rate=_whole(recording, "sampling_rate", where),
        start_s=_number(row, "start", where) or _number(said, "start", where) or 0.0,
        duration_s=_shortest(_number(part, "duration", where) for part in (row, said)),
        text=word(said, "text", where=where),
        speaker=word(said, "speaker", where=where),
        language=word(said, "language", where=where),
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


def _shortest(durations: Iterable[float | None]) -> float | None:
    return min((duration for duration in durations if duration is not None), default=None)


def _channels(row: Utterance) -> list[int]:
    return list(range(row.channels))


def _recording(row: Utterance, root: Path) -> dict[str, Any]:
    return {
        "id": row.id,
        "sources": [{"type": "file", "channels": _channels(row), "source": str(root / row.path)}],
        "sampling_rate": row.sample_rate,
        "num_samples": row.num_samples,
        "duration": row.duration_s,
        "channel_ids": _channels(row),
    }


def _supervision(row: Utterance) -> dict[str, Any]:
    said = {"text": row.text, "language": row.language, "speaker": row.speaker}
    return {
        "id": row.id,
        "recording_id": row.id,
        "start": 0.0,
        "duration": row.duration_s,
        "channel": 0 if row.channels == 1 else _channels(row),
        **{name: value for name, value in said.items() if value is not None},
        **({"custom": {"split": row.split}} if row.split is not None else {}),
    }


def _cut(row: Utterance, recording: dict[str, Any], supervision: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "start": 0.0,
        "duration": row.duration_s,
        "channel": supervision["channel"],
        "supervisions": [supervision],
        "recording": recording,
        "type": "MonoCut" if row.channels == 1 else "MultiCut",
    }


def _write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, gzip.compress(text.encode(), mtime=0))  # no time stamp: the same rows, the same bytes
