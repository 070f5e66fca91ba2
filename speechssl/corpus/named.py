"""Reads utterances from any input: a manifest, audio, a folder, an archive, a table, or another toolkit's list.

Every command and stage that takes a manifest uses `read_named`. A manifest is trusted; for any other input the audio
headers are read, and a line of output says how the input was interpreted.
"""

import codecs
import gzip
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from speechssl.audio.reading import read_header
from speechssl.audio.storage import Place, is_url
from speechssl.corpus.archives import ARCHIVE_SUFFIXES, COMPRESSED_SUFFIXES
from speechssl.corpus.building import ALL_SUFFIXES, build
from speechssl.corpus.entries import Entry, as_manifest, entries_of
from speechssl.corpus.formats.hf_datasets import read_audio_folder
from speechssl.corpus.formats.kaldi import read_kaldi
from speechssl.corpus.formats.lhotse_cuts import read_lhotse
from speechssl.corpus.formats.nemo import read_nemo
from speechssl.corpus.formats.tables import read_table, table_entries
from speechssl.data.manifest import PARQUET, read_manifest
from speechssl.data.utterances import Manifest, Utterance, id_of
from speechssl.errors import AudioError, ManifestError
from speechssl.text.fields import BLANKS, cells_of, first_field, lines_of, sign_of

__all__ = ["files_as_manifest", "is_manifest", "read_each", "read_named", "usual_columns"]

_REQUIRED = {"id", "path", "samples", "rate", "channels"}  # columns of a manifest
_USUAL = {  # our column -> its usual names in tables, in lower case; the first one present is used
    "path": (
        *("path", "audio_filepath", "audio_path", "wav_path", "file_path", "filepath", "file_name", "filename", "file"),
        *("wav_filename", "wav", "audio_file", "audio", "location"),
    ),
    "id": ("id", "utt_id", "utterance_id", "utt", "uttid", "key"),
    "text": ("text", "transcription", "transcript", "sentence", "wrd", "words"),
    "speaker": ("speaker", "speaker_id", "spk_id", "spk", "client_id"),
    "language": ("language", "lang", "locale"),
    "split": ("split", "subset"),
    "start_s": ("start_s", "offset"),
    "end_s": ("end_s",),
}
_ARCHIVES = (*ARCHIVE_SUFFIXES, *COMPRESSED_SUFFIXES)
_PEEK = 2**16  # bytes read to tell text from audio
_LHOTSE = r".*(cuts|recordings|supervisions).*\.jsonl(\.gz)?"


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def read_named(path: Path, *, root: Path | None = None, tell: Callable[[str], object] = _tell) -> Manifest:
    """Read the utterances of any input.

    Args:
        path: a manifest in our format or fairseq's; an audio file; a folder or archive of audio; a table of audio with
            or without a header (`path`, `path text`, `id path` or `id path text`, separated by tabs, commas in `.csv`,
            bars or blanks); JSON lines of NeMo, Lhotse or others that hold paths; a folder of Kaldi or Lhotse, or an
            audio folder of Hugging Face.
        root: folder that paths are relative to; None for the one that a manifest names, or its own. Paths in other
            lists may be relative to the working directory instead.
        tell: receives a line that says how an input other than a manifest was interpreted.

    Raises:
        ManifestError: the input is none of these, or does not parse.
        AudioError: an audio file cannot be read.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _read_folder(path, root, tell)
    if suffix in ALL_SUFFIXES:
        return files_as_manifest([path])
    if path.name.lower().endswith(_ARCHIVES) and path.exists():
        return _built(path, tell)
    if suffix == PARQUET or not path.exists():
        return read_manifest(path, root=root)
    head = _text_of(path, _PEEK)
    if head is None:
        return _read_sound(path)
    if is_manifest(path):
        return read_manifest(path, root=root)
    text = _text_of(path)
    if text is None:
        return _read_sound(path)
    if re.search(r"\.jsonl?(\.gz)?$", path.name.lower()):
        return _read_json(path, text, root, tell)
    if path.name == "wav.scp":
        return _imported(path.parent, partial(read_kaldi, path.parent), root, tell, what="as Kaldi's folder")
    return _read_table(path, lines_of(text), root, tell)


def read_each(
    paths: Sequence[Path], *, root: Path | None = None, tell: Callable[[str], object] = _tell
) -> list[Manifest]:
    """Read several inputs, each as by `read_named`.

    The ids of several audio files, folders or archives are made of paths below the folder that holds them all, so that
    files of the same name get different ids.
    """
    folders = {path: os.path.abspath(path if path.is_dir() else path.parent) for path in paths if _is_sound(path)}  # noqa: PTH100
    shared = os.path.commonpath(folders.values()) if folders else ""
    found = []
    for path in paths:
        manifest = read_named(path, root=root, tell=tell)
        below = os.path.relpath(folders[path], shared) if path in folders else "."
        if below != ".":
            prefix = below.replace("/", "-")
            rows = (replace(row, id=f"{prefix}-{row.id}") for row in manifest.utterances)
            manifest = replace(manifest, utterances=tuple(rows))
        found.append(manifest)
    return found


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest for `read_manifest`, or is empty.

    Raises:
        ManifestError: the file cannot be read.
    """
    if path.suffix.lower() == PARQUET:
        return True
    head = _text_of(path, _PEEK)
    lines = lines_of(head or "")[:2]
    header = {*lines[0].split("\t")} if lines else set[str]()
    is_fairseq = len(lines) > 1 and "\t" not in lines[0] and re.fullmatch(r"[^\t]+\t\d+", lines[1]) is not None
    return head is not None and (not lines or (header >= _REQUIRED and path.suffix.lower() != ".gz") or is_fairseq)


def files_as_manifest(paths: Sequence[Path]) -> Manifest:
    """List audio files; ids are the names without suffix, or absolute paths where two share a name.

    Raises:
        AudioError: a file cannot be read.
        ManifestError: a file is given twice.
    """
    whole = [path.absolute() for path in paths]
    if len(set(whole)) < len(whole):
        doubled = next(path for path, count in Counter(whole).items() if count > 1)
        raise ManifestError(f"{doubled}: is given twice; name each file once")
    shared = {stem for stem, count in Counter(path.stem for path in whole).items() if count > 1}
    rows = []
    for path in whole:
        header = read_header(path)
        rows.append(
            Utterance(
                id=str(path) if path.stem in shared else path.stem,
                path=str(path),
                num_samples=header.num_samples,
                sample_rate=header.sample_rate,
                channels=header.channels,
            )
        )
    return Manifest(root=Path("/"), utterances=tuple(rows))


def _is_sound(path: Path) -> bool:
    """Return whether a path is audio, or a folder or archive of audio, and not a list."""
    if path.is_dir():
        return _list_in(path) is None
    return path.name.lower().endswith((*ALL_SUFFIXES, *_ARCHIVES)) and path.exists()


def _list_in(folder: Path) -> Literal["kaldi", "audiofolder", "dataset", "lhotse"] | None:
    """Return the kind of list that a folder holds, or None."""
    if (folder / "wav.scp").is_file():
        return "kaldi"
    tables = [folder / name for name in ("metadata.jsonl", "metadata.csv") if (folder / name).is_file()]
    if tables and "file_name" in (_text_of(tables[0]) or "").partition("\n")[0]:
        return "audiofolder"
    if (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file():
        return "dataset"
    return "lhotse" if any(re.fullmatch(_LHOTSE, each.name) for each in folder.iterdir()) else None


def _read_folder(path: Path, root: Path | None, tell: Callable[[str], object]) -> Manifest:
    match _list_in(path):
        case "kaldi":
            return _imported(path, partial(read_kaldi, path), root, tell, what="as Kaldi's folder")
        case "audiofolder":
            return _imported(path, partial(read_audio_folder, path, {}), root or path, tell, what="as an audio folder")
        case "lhotse":
            return _imported(path, partial(read_lhotse, path), root, tell, what="as Lhotse's")
        case "dataset":
            raise ManifestError(
                f"{path}: is a saved dataset, which holds its audio itself: `speechssl manifest import {path} --from "
                "dataset --root FOLDER -o MANIFEST` writes it out"
            )
    return _built(path, tell)


def _built(path: Path, tell: Callable[[str], object]) -> Manifest:
    manifest = build([str(path)]).manifest
    found = len(manifest.utterances)
    tell(f"{path}: the headers of {found} recordings were read; `speechssl manifest build {path} -o FILE` keeps them")
    return manifest


def _text_of(path: Path, most: int = -1) -> str | None:
    """Return the text of a file, decompressed, or of its first `most` bytes; None if it is not text."""
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read(most)
            return None if b"\0" in content else codecs.getincrementaldecoder("utf-8-sig")().decode(content, most < 0)
    except UnicodeDecodeError:
        return None
    except (OSError, EOFError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); name an existing, whole file") from error


def _read_sound(path: Path) -> Manifest:
    """Read a file that is not text as audio, whatever its suffix."""
    try:
        return files_as_manifest([path])
    except AudioError as error:
        raise ManifestError(
            f"{path}: is neither readable audio nor text in UTF-8; save a list as UTF-8, or name audio, a "
            "folder of it or a manifest"
        ) from error


def _read_json(path: Path, text: str, root: Path | None, tell: Callable[[str], object]) -> Manifest:
    first = next((line for line in text.split("\n") if line.strip()), "")
    try:
        row = json.loads(first)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ManifestError(f"{path}:1: expected a JSON object on each line, found {first[:60]!r}")
    if {"recording", "sources", "recording_id"} & {*row}:
        return _imported(path, partial(read_lhotse, path), root, tell, what="as Lhotse's")
    if {"audio_filepath", "audio_filename", "audio_file"} & {*row}:
        return _imported(path, partial(read_nemo, path, {}), root, tell, what="as NeMo's")
    usual = usual_columns(list(row))
    if "path" not in usual:
        raise ManifestError(f"{path}:1: names no audio: expected a key such as audio_filepath, found {', '.join(row)}")
    lines = ((f"{path}:{i}", json.loads(line)) for i, line in enumerate(text.split("\n"), 1) if line.strip())
    return _imported(path, lambda: entries_of(path, lines, usual, {}), root, tell, what="as JSON lines")


def _read_table(path: Path, lines: Sequence[str], root: Path | None, tell: Callable[[str], object]) -> Manifest:
    is_csv = path.suffix.lower() == ".csv"
    sign = sign_of(lines[0], is_csv=is_csv)
    names = cells_of(lines[0], sign)
    usual = usual_columns(names)
    if "path" in usual and sign == ("," if is_csv else "\t"):
        return _imported(path, lambda: read_table(path, {}, usual), root, tell, what="as a table")
    if "path" in usual:
        rows = [
            (f"{path}:{i}", cells_of(line, sign, len(names))) for i, line in enumerate(lines[1:], 2) if line.strip()
        ]
        return _imported(path, lambda: table_entries(path, names, rows, {}, usual), root, tell, what="as a table")
    columns = _columns(path, names, lines[0], root, sign)
    rows = [
        (f"{path}:{i}", cells_of(line, sign, len(columns))) for i, line in enumerate(lines, 1) if line.strip(BLANKS)
    ]
    taken = f"as a table without a header: {', '.join(columns)}"
    return _imported(path, lambda: (table_entries(path, columns, rows, {})[0], list[str]()), root, tell, what=taken)


def _columns(path: Path, cells: Sequence[str], line: str, root: Path | None, sign: str | None) -> list[str]:
    """Return the columns of a table without a header, from the position of audio in its first line."""
    bases = [root] if root is not None else [path.parent, Path()]

    def is_audio(cell: str) -> bool:
        place = Place.parse(cell, Path())
        named = place.size is not None or cell.lower().endswith(ALL_SUFFIXES)
        return named or (bool(cell) and any((base / cell).is_file() for base in bases))

    if sign is None:  # blanks, which paths and texts may contain
        first, rest = first_field(line)
        second, said = first_field(rest)
        if any((base / line.strip(BLANKS)).is_file() for base in bases) or not rest:
            shape = ["path"] if is_audio(line.strip(BLANKS)) else []
        elif is_audio(second):
            shape = ["id", "path", "text"] if said else ["id", "path"]
        else:
            shape = ["path", "text"] if is_audio(first) else ["id", "path"] if is_audio(rest) else []
    else:
        place = next((index for index, cell in enumerate(cells) if is_audio(cell)), None)
        shape = [] if place is None or place > 1 or len(cells) > place + 2 else [*["id"][:place], "path", *["text"]]
        shape = shape[: len(cells)]
    if not shape:
        raise ManifestError(
            f"{path}:1: neither a manifest nor a table of audio: expected a header with a column `path`, or lines of "
            f"`path`, `path text`, `id path` or `id path text`, found {line[:80]!r}; `speechssl manifest import --from "
            "table --columns path=THEIRS` takes tables with other names"
        )
    return shape


def usual_columns(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return our columns -> their names in a header, ignoring case."""
    there = {name.lower(): name for name in reversed(names)}
    found = {ours: tuple(there[name] for name in known if name in there) for ours, known in _USUAL.items()}
    return {ours: known for ours, known in found.items() if known}


def _imported(
    path: Path,
    read: Callable[[], tuple[list[Entry], list[str]]],
    root: Path | None,
    tell: Callable[[str], object],
    *,
    what: str,
) -> Manifest:
    entries, notes = read()
    if not entries:
        raise ManifestError(f"{path}: lists no utterances; name a list that does")
    for note in notes:
        tell(note)
    manifest = _located(entries, [root] if root is not None else [path if path.is_dir() else path.parent, Path.cwd()])
    files = len({row.path for row in manifest.utterances})
    tell(
        f"{path}: read {what}, {len(entries)} utterances, with the headers of {files} files; "
        f"`speechssl manifest filter {path} -o FILE` keeps them"
    )
    return manifest


def _located(entries: Sequence[Entry], bases: Sequence[Path]) -> Manifest:
    """Read the headers, with paths relative to the first base that holds the first file.

    Paths and links may lead anywhere, unlike in a list that is imported.
    """
    first = next((entry.path for entry in entries if entry.path and not is_url(entry.path)), "")
    base = next((each for each in bases if Path(Place.parse(first, each).path).is_file()), bases[0])
    if _holds(base, [base / each.path for each in entries]):
        return as_manifest(entries, base)
    whole = {each.path: os.path.abspath(base / each.path) for each in entries if each.path}  # noqa: PTH100
    shared = os.path.commonpath([os.path.dirname(path) for path in whole.values()])  # noqa: PTH120
    found = []
    for entry in entries:
        relative = os.path.relpath(whole[entry.path], shared) if entry.path else ""
        is_whole = entry.start_s is None and entry.part is None and entry.channel is None
        key = id_of(relative) if entry.id is None and is_whole and relative else entry.id
        found.append(replace(entry, path=relative, id=key))
    if _holds(Path(shared), [Path(shared) / each.path for each in found]):
        return as_manifest(found, Path(shared))
    return as_manifest([replace(each, path=f"{shared}/{each.path}") for each in found], Path("/"))


def _holds(base: Path, paths: Sequence[Path]) -> bool:
    """Return whether all files lie below a folder after resolving links."""
    root = os.path.realpath(base)
    return all(Path(os.path.realpath(Place.parse(str(path), Path()).path)).is_relative_to(root) for path in paths)
