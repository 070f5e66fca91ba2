"""Hugging Face: folders of audio with a table (`metadata.csv` or `.jsonl`), and datasets saved to disk.

The package `datasets` is needed for saved datasets only, which hold the audio itself in their tables: importing one
writes its files out, byte for byte. A folder's table lists whole files, so it refuses parts of recordings; a dataset
gets a part as a file of its own, cut out sample for sample.
"""

import json
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile

from speechssl.data.audio import read_header
from speechssl.data.manifest import Manifest, Utterance, write_atomically
from speechssl.errors import ManifestError
from speechssl.manifests.entries import Entry, file_of, id_of, is_utf8, json_lines, lost_columns, word
from speechssl.manifests.table import read_table

__all__ = ["read_audio_folder", "read_saved_dataset", "write_audio_folder", "write_saved_dataset"]

_TEXTS = ("text", "transcription", "sentence")  # names in use for what is said


def read_audio_folder(path: Path) -> tuple[list[Entry], list[str]]:
    """Read the table of an audio folder; `file_name` starts from its folder, whatever the root is.

    Args:
        path: the folder, or the table.

    Raises:
        ManifestError: no table, or one without `file_name`.
    """
    tables = [path] if path.is_file() else [path / name for name in ("metadata.jsonl", "metadata.csv")]
    table = next((table for table in tables if table.is_file()), None)
    if table is None:
        raise ManifestError(f"{path}: expected metadata.jsonl or metadata.csv in it; list a bare folder with `build`")
    folder = table.parent.absolute()
    if table.suffix == ".csv":
        first = table.read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].strip().split(",")
        text = next((name for name in _TEXTS if name in first), None)
        entries, notes = read_table(table, {"path": "file_name"} | ({"text": text} if text else {}))
        return [replace(entry, path=str(folder / entry.path)) for entry in entries], notes
    entries = []
    for where, row in json_lines(table):
        text = next((name for name in _TEXTS if name in row), "text")
        entries.append(_entry(row, str(folder / (word(row, "file_name", where=where) or "")), text, where))
    return entries, []


def write_audio_folder(folder: Path, manifest: Manifest) -> None:
    """Write `metadata.jsonl` into a folder that holds the audio.

    Raises:
        ManifestError: audio outside of the folder, which `datasets` would not read, or in an archive or at a URL; an
            utterance that is a part of a file.
    """
    base, root = folder.resolve(), manifest.root.resolve()
    lines = []
    for row in manifest.utterances:
        if row.file_samples is not None:
            raise ManifestError(
                f"{row.id}: is a part of {row.path}, and an audio folder lists whole files; export to `dataset`, which "
                "holds parts as files of their own"
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


def read_saved_dataset(folder: Path, root: Path) -> list[Entry]:
    """Read a dataset saved to disk, and write the audio in its tables to files below `root`.

    A file is named after the utterance's id, or keeps its name (`datasets` saves no folders) where there is none; one
    that is there already has to hold the same bytes.

    Raises:
        ManifestError: `datasets` is not installed, no saved dataset, no column of audio, or a name that leaves `root`.
    """
    audio_of, dataset = _open(folder)
    text_of = next((name for name in _TEXTS if name in dataset.column_names), "text")
    entries = []
    for number, row in enumerate(dataset):
        where = f"{folder}, row {number}"
        sound = row[audio_of]
        name, key = str(sound.get("path") or f"{number}.wav"), word(row, "id", where=where)
        written = name if key is None else f"{key}{PurePosixPath(name).suffix}"
        if sound.get("bytes") is not None:
            _unpack(sound["bytes"], written, root, where)
        entries.append(_entry(row, written, text_of, where))
    return entries


def write_saved_dataset(folder: Path, manifest: Manifest) -> list[str]:
    """Write a dataset to disk by `datasets`, the audio inside it; return notes on what it cannot hold.

    Raises:
        ManifestError: `datasets` is not installed, or audio is in an archive or at a URL.
        AudioError: a recording cannot be read where an utterance is a part of it.
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
        made.cast_column("audio", datasets.Audio()).save_to_disk(str(folder))  # which takes in the files' bytes
    parts = sum(row.file_samples is not None for row in manifest.utterances)
    notes = [f"{parts} parts of recordings are files of their own in the dataset"] if parts else []
    return notes + lost_columns(manifest, tuple(columns), by="a dataset")


def _own_file(manifest: Manifest, row: Utterance, stem: Path) -> str:
    """Return the file of an utterance; a part of one is cut out to `stem` with a suffix, its samples as they are."""
    source, part = file_of(manifest, row, by="a dataset"), row.segment
    if part is None:
        return source
    header = read_header(Path(source))
    if header.num_samples != row.file_samples:
        raise ManifestError(
            f"{source}: holds {header.num_samples} samples, the manifest says {row.file_samples}; build it again"
        )
    try:
        subtype = soundfile.info(source).subtype
        is_integer = subtype in ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24")
        samples, rate = soundfile.read(
            source, frames=part.num_samples, start=part.start, dtype="int32" if is_integer else "float32"
        )
    except soundfile.LibsndfileError as error:  # ffmpeg's formats among them
        raise ManifestError(f"{source}: libsndfile cannot cut a part out of it ({error}); convert it first") from error
    target = stem.with_suffix(".flac" if is_integer else ".wav")
    depth = "PCM_24" if subtype == "PCM_24" else "PCM_16"
    soundfile.write(target, samples, rate, subtype=depth if is_integer else "FLOAT")
    return str(target)


def _entry(row: dict[str, Any], path: str, text: str, where: str) -> Entry:
    return Entry(
        where=where,
        path=path,
        id=word(row, "id", where=where),
        text=word(row, text, where=where),
        speaker=word(row, "speaker", where=where),
        language=word(row, "language", where=where),
        split=word(row, "split", where=where),
    )


def _open(folder: Path) -> tuple[str, Any]:
    datasets = _datasets()
    try:
        dataset = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{folder}: no dataset that was saved to disk ({error})") from error
    if not hasattr(dataset, "features"):
        raise ManifestError(f"{folder}: holds the splits {', '.join(dataset)}; name the folder of one of them")
    audio = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Audio)]
    if len(audio) != 1:
        raise ManifestError(f"{folder}: expected one column of audio, found {', '.join(audio) or 'none'}")
    return audio[0], dataset.cast_column(audio[0], datasets.Audio(decode=False))


def _unpack(content: bytes, name: str, root: Path, where: str) -> None:
    """Write audio to a file of this name below `root`."""
    if not name or name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name or not is_utf8(name):
        raise ManifestError(f"{where}: the file name {name!r} leaves {root}, or is none; rename it in the dataset")
    target = root / name
    if not target.parent.resolve().is_relative_to(root.resolve()) or target.is_symlink():
        raise ManifestError(f"{where}: {target} is or lies behind a link that leaves {root}; name another --root")
    if target.exists():
        if not target.is_file() or target.read_bytes() != content:
            raise ManifestError(
                f"{where}: {target} is there with other bytes; name an empty folder with --root, and give the dataset "
                "a column `id` if its files share names"
            )
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{id_of(name)[:60]}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _datasets() -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise ManifestError("saved datasets need the package `datasets`: pip install 'speechssl[datasets]'") from error
