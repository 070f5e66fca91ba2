"""NeMo's manifests: a JSON object on every line, with `audio_filepath`, `duration` in seconds and `text`.

`lang` and `speaker` are NeMo's; `id` and `split` are ours, and NeMo passes over them.
"""

import json
from pathlib import Path

from speechssl.data.manifest import Manifest, write_atomically
from speechssl.errors import ManifestError
from speechssl.manifests.entries import Entry, json_lines, word

__all__ = ["read_nemo", "write_nemo"]


def read_nemo(path: Path) -> list[Entry]:
    """Read a manifest of NeMo.

    Raises:
        ManifestError: a line is no object, has no audio file, or a value of another kind than NeMo writes.
    """
    return [
        Entry(
            where=where,
            path=word(row, "audio_filepath", where=where) or "",
            id=word(row, "id", where=where),
            start_s=_seconds(row, "offset", where=where),
            duration_s=_seconds(row, "duration", where=where),
            text=word(row, "text", where=where),
            speaker=word(row, "speaker", where=where),
            language=word(row, "lang", where=where),
            split=word(row, "split", where=where),
        )
        for where, row in json_lines(path)
    ]


def write_nemo(path: Path, manifest: Manifest) -> None:
    """Write a manifest of NeMo: whole paths, but those of the manifest if it is written into its root."""
    root = manifest.root.resolve()
    is_beside = path.parent.resolve() == root  # NeMo lets relative paths start from the folder of its manifest
    lines = []
    for row in manifest.utterances:
        named = {
            "audio_filepath": row.path if is_beside else str(root / row.path),
            "duration": row.duration_s,
            "text": row.text or "",
            "id": row.id,
            "speaker": row.speaker,
            "lang": row.language,
            "split": row.split,
        }
        lines.append(json.dumps({key: value for key, value in named.items() if value is not None}, ensure_ascii=False))
    write_atomically(path, "\n".join(lines) + "\n")


def _seconds(row: dict[str, object], name: str, *, where: str) -> float | None:
    found = row.get(name)
    if found is None or (isinstance(found, int | float) and not isinstance(found, bool)):
        return found
    raise ManifestError(f"{where}: {name} is {found!r}, expected seconds")
