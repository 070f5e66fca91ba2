"""Imports and exports NeMo's manifests: JSON lines with `audio_filepath`, `duration` in seconds and `text`.

`lang`, `speaker` and `channel` are NeMo's; `id` and `split` are ours, and NeMo ignores them. A part of a recording has
an `offset` in seconds (`corpus/entries.py` says how they round).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from speechssl.atomic import write_atomically
from speechssl.corpus.entries import Entry, entries_of, file_of, json_lines, seconds_of
from speechssl.data.utterances import Manifest

__all__ = ["read_nemo", "write_nemo"]

_NAMES = {
    "path": ("audio_filepath", "audio_filename", "audio_file"),
    "id": ("id",),
    "start_s": ("offset",),
    "duration_s": ("duration",),
    "channel": ("channel_selector", "channel"),
    "text": ("text",),
    "speaker": ("speaker",),
    "language": ("lang",),
    "split": ("split",),
}


def read_nemo(path: Path, columns: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    """Read a NeMo manifest.

    Args:
        path: the file.
        columns: our column -> its name there, where it has none of NeMo's names.

    Returns:
        The entries, and a note on the names that were used and those that were not.

    Raises:
        ManifestError: a line is not an object, has no audio file, or has a value of the wrong type.
    """
    return entries_of(path, json_lines(path), _NAMES, columns)


def write_nemo(path: Path, manifest: Manifest) -> None:
    """Write a NeMo manifest, with absolute paths unless it is written into the root.

    Raises:
        ManifestError: audio is in an archive or at a URL.
    """
    is_beside = path.parent.resolve() == manifest.root.resolve()  # NeMo's relative paths start from its manifest
    lines = []
    for row in manifest.utterances:
        named = {
            "audio_filepath": row.path if is_beside else file_of(manifest, row, by="NeMo"),
            "offset": None if row.file_samples is None else seconds_of(row.start, row.sample_rate),
            "duration": seconds_of(row.num_samples, row.sample_rate),
            "channel_selector": row.channel,
            "text": row.text or "",
            "id": row.id,
            "speaker": row.speaker,
            "lang": row.language,
            "split": row.split,
        }
        lines.append(json.dumps({key: value for key, value in named.items() if value is not None}, ensure_ascii=False))
    write_atomically(path, "\n".join(lines) + "\n")
