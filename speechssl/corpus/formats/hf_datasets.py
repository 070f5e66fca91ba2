"""Imports and exports Hugging Face audio folders (with `metadata.csv` or `.jsonl`) and datasets saved to disk.

Only saved datasets need the package `datasets`. They hold the audio in their tables: importing one writes the files,
byte for byte. An audio folder lists whole files, so parts of recordings are refused; in a dataset a part becomes a file
of its own, exact to the sample.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile

from speechssl.atomic import write_atomically
from speechssl.audio.reading import read_header
from speechssl.corpus.entries import Entry, entries_of, file_of, is_utf8, json_lines, lost_columns, word
from speechssl.corpus.formats.tables import read_table
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError

__all__ = ["read_audio_folder", "read_saved_dataset", "write_audio_folder", "write_saved_dataset"]

_NAMES = {  # usual names; the first one present is used
    "id": ("id",),
    "text": ("text", "transcription", "sentence", "transcript"),
    "speaker": ("speaker",),
    "language": ("language",),
    "split": ("split",),
}


def read_audio_folder(path: Path, columns: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    """Read the table of an audio folder; `file_name` is relative to its folder, whatever the root.

    Args:
        path: the folder, or the table.
        columns: our column -> its name there, where it has none of the usual names.

    Returns:
        The entries, and a note on the names that were used and those that were not.

    Raises:
        ManifestError: the table is missing, or has no `file_name`.
    """
    tables = [path] if path.is_file() else [path / name for name in ("metadata.jsonl", "metadata.csv")]
    found = [table for table in tables if table.is_file()]
    if not found:
        raise ManifestError(f"{path}: expected metadata.jsonl or metadata.csv in it; list a bare folder with `build`")
    table, *others = found
    if table.suffix == ".csv":
        entries, notes = read_table(table, columns, {"path": ("file_name",), **_NAMES})
    else:
        entries, notes = entries_of(table, json_lines(table), {"path": ("file_name",), **_NAMES}, columns)
    folder = table.parent.absolute()
    entries = [replace(entry, path=str(folder / entry.path) if entry.path else "") for entry in entries]
    return entries, [*notes, *(f"{other}: not read, as {table.name} is" for other in others)]


def write_audio_folder(folder: Path, manifest: Manifest) -> None:
    """Write `metadata.jsonl` into a folder that holds the audio.

    Raises:
        ManifestError: audio lies outside of the folder, where `datasets` would not read it, in an archive or at a URL,
            or an utterance is a part of a file.
    """
    base, root = folder.resolve(), manifest.root.resolve()
    lines = []
    for row in manifest.utterances:
        if row.segment is not None:
            raise ManifestError(
                f"{row.id}: is a part of {row.path}, or a channel, and an audio folder lists whole files; export to "
                "`dataset`, which holds them as files of their own"
            )
        audio = Path(file_of(manifest, row, by="an audio folder"))
        if not audio.is_relative_to(base):
            raise ManifestError(f"{audio}: an audio folder holds its audio, name one that does, such as {root}")
        named = {
            "file_name": audio.relative_to(base).as_posix(),
            "id": row.id,
            "text": row.text,
            "speaker": row.speaker,
            "language": row.language,
            "split": row.split,
        }
        filled = {key: value for key, value in named.items() if any(getattr(r, key, True) for r in manifest.utterances)}
        lines.append(json.dumps(filled, ensure_ascii=False))
    write_atomically(base / "metadata.jsonl", "\n".join(lines) + "\n")


def read_saved_dataset(folder: Path, root: Path, columns: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    """Read a dataset saved to disk, and write its audio to files below `root`.

    A file is named after the utterance's id, or keeps its name (`datasets` saves no folders) where there is none; one
    that is there already has to hold the same bytes. `columns` (ours -> theirs) are those without a usual name.

    Returns:
        The entries, and a note on the names that were used and those that were not.

    Raises:
        ManifestError: `datasets` is not installed, no saved dataset, no column of audio, or a name that leaves `root`.
    """
    audio_of, dataset = _open(folder)
    rows, paths = [], []
    for number, row in enumerate(dataset):
        where, sound = f"{folder}, row {number}", row.pop(audio_of)
        name, key = str(sound.get("path") or f"{number}.wav"), word(row, columns.get("id", "id"), where=where)
        written = name if key is None else f"{key}{PurePosixPath(name).suffix}"
        if sound.get("bytes") is not None:
            _unpack(sound["bytes"], written, root, where)
        rows.append((where, row))
        paths.append(written)
    entries, notes = entries_of(folder, rows, _NAMES, columns)
    return [replace(entry, path=path) for entry, path in zip(entries, paths, strict=True)], notes


def write_saved_dataset(folder: Path, manifest: Manifest) -> list[str]:
    """Save a dataset to disk with its audio, using `datasets`; return notes on what it cannot hold.

    Raises:
        ManifestError: `datasets` is not installed, or audio is in an archive or at a URL.
        AudioError: a recording of which an utterance is a part cannot be read.
    """
    datasets = _datasets()
    columns: dict[str, list[str | None]] = {
        name: [getattr(row, name) for row in manifest.utterances]
        for name in ("id", "text", "speaker", "language", "split")
    }
    filled = {name: values for name, values in columns.items() if any(values)}
    with tempfile.TemporaryDirectory() as scratch:
        files = [_own_file(manifest, row, Path(scratch, str(number))) for number, row in enumerate(manifest.utterances)]
        made = datasets.Dataset.from_dict({"audio": files, **filled})
        made.cast_column("audio", datasets.Audio()).save_to_disk(str(folder))  # stores the bytes of the files
    parts = sum(row.segment is not None for row in manifest.utterances)
    notes = [f"{parts} parts of recordings are files of their own in the dataset"] if parts else []
    return notes + lost_columns(manifest, tuple(columns), by="a dataset")


def _own_file(manifest: Manifest, row: Utterance, stem: Path) -> str:
    """Return the file of an utterance; a part is written to `stem` with a suffix, with identical samples."""
    source, part = file_of(manifest, row, by="a dataset"), row.segment
    if part is None:
        return source
    header = read_header(Path(source))
    if header.num_samples != (row.file_samples or row.num_samples):
        raise ManifestError(
            f"{source}: holds {header.num_samples} samples, the manifest says {row.file_samples or row.num_samples}; "
            "build it again"
        )
    try:
        subtype = soundfile.info(source).subtype
        is_integer = subtype in ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24")
        samples, rate = soundfile.read(
            source, frames=part.num_samples, start=part.start, dtype="int32" if is_integer else "float32"
        )
    except soundfile.LibsndfileError as error:  # ffmpeg's formats among them
        raise ManifestError(f"{source}: libsndfile cannot cut a part out of it ({error}); convert it first") from error
    if part.channel is not None:
        samples = samples[:, part.channel]
    target = stem.with_suffix(".flac" if is_integer else ".wav")
    depth = "PCM_24" if subtype == "PCM_24" else "PCM_16"
    soundfile.write(target, samples, rate, subtype=depth if is_integer else "FLOAT")
    return str(target)


def _open(folder: Path) -> tuple[str, Any]:
    datasets = _datasets()
    try:
        dataset = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{folder}: not a dataset saved to disk ({error})") from error
    if not hasattr(dataset, "features"):
        raise ManifestError(f"{folder}: holds the splits {', '.join(dataset)}; name the folder of one of them")
    audio = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Audio)]
    if len(audio) != 1:
        raise ManifestError(f"{folder}: expected one column of audio, found {', '.join(audio) or 'none'}")
    return audio[0], dataset.cast_column(audio[0], datasets.Audio(decode=False))


def _unpack(content: bytes, name: str, root: Path, where: str) -> None:
    """Write audio to the file `name` below `root`."""
    if not name or name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name or not is_utf8(name):
        raise ManifestError(f"{where}: the file name {name!r} leaves {root}, or is none; rename it in the dataset")
    target = root / name
    if not target.parent.resolve().is_relative_to(root.resolve()) or target.is_symlink():
        raise ManifestError(f"{where}: {target} is or lies behind a link that leaves {root}; name another --root")
    if target.exists():
        if not target.is_file() or target.read_bytes() != content:
            raise ManifestError(
                f"{where}: {target} exists with other bytes; name an empty folder with --root, and give the dataset "
                "a column `id` if its files share names"
            )
        return
    write_atomically(target, content)


def _datasets() -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise ManifestError("saved datasets need the package `datasets`: pip install 'speechssl[datasets]'") from error
