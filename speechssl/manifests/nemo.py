"""NeMo's manifests: a JSON object on every line, with `audio_filepath`, `duration` in seconds and `text`.

`lang` and `speaker` are NeMo's; `id` and `split` are ours, and NeMo passes over them. A part of a recording has its
`offset`, in seconds as well (`entries` says how they round).
"""

import json
from pathlib import Path

from speechssl.data.manifest import Manifest, write_atomically
from speechssl.errors import ManifestError
from speechssl.manifests.entries import Entry, file_of, json_lines, seconds_of, word

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
    """Write a manifest of NeMo: whole paths, but those of the manifest if it is written into its root.

    Raises:
        ManifestError: audio in an archive or at a URL.
    """
    is_beside = path.parent.resolve() == manifest.root.resolve()  # NeMo's relative paths start from its manifest
    lines = []
    for row in manifest.utterances:
        named = {
            "audio_filepath": row.path if is_beside else file_of(manifest, row, by="NeMo"),
            "offset": None if row.file_samples is None else seconds_of(row.start, row.sample_rate),
            "duration": seconds_of(row.num_samples, row.sample_rate),
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
