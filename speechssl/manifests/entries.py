"""From what another toolkit's file says of one recording to an utterance: a safe path, a header that agrees.

What a file from elsewhere names is not trusted: a path must lie below the root, also after links are followed, and be
a regular file; its length, rate and channels are read from the audio itself, and have to agree with what was said.
"""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.data.audio import AudioHeader, read_header
from speechssl.data.manifest import Manifest, Utterance
from speechssl.errors import ManifestError

__all__ = ["Entry", "Progress", "as_manifest", "id_of", "json_lines", "lost_columns", "place", "text_lines", "word"]

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps items, given their number

_TOLERANCE_S = 0.05  # written durations are rounded, and decoders of mp3 differ by a frame or two
_COLUMNS = ("text", "speaker", "language", "split")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a file from elsewhere says of one recording. None: it says nothing."""

    where: str  # file and line, for messages
    path: str  # as written
    id: str | None = None
    num_samples: int | None = None  # of the whole file
    sample_rate: int | None = None
    start_s: float | None = None  # where in the file the utterance begins
    duration_s: float | None = None  # of the utterance
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None


def as_manifest(
    entries: Sequence[Entry], root: Path, *, progress: Progress = lambda items, _: items, workers: int | None = None
) -> Manifest:
    """Read the headers of all audio named and make a manifest of it.

    Args:
        entries: one for each utterance, in the order of the result.
        root: folder that relative paths start from, and that no path may leave.
        progress: shows how far it is.
        workers: threads that read headers; None for one a core.

    Raises:
        ManifestError: no entries, a path that leaves the root or is no regular file, two utterances with one id, a
            length or rate that the audio does not have, a part of a recording, a text with a tab or line break.
        AudioError: a file cannot be read.
    """
    if not entries:
        raise ManifestError("lists no utterances; name a file that does")
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found = pool.map(lambda entry: _utterance(entry, root), entries)
        pairs = zip(progress(entries, len(entries)), found, strict=True)
        utterances = [(entry, utterance) for entry, utterance in pairs]
    seen: dict[str, str] = {}
    for entry, utterance in utterances:
        if utterance.id in seen:
            raise ManifestError(
                f"{entry.where}: the id {utterance.id!r} was given before, at {seen[utterance.id]}; rename one of them"
            )
        seen[utterance.id] = entry.where
    return Manifest(root=root, utterances=tuple(utterance for _, utterance in utterances))


def place(written: str, root: Path, *, where: str) -> str:
    """Return the path below `root`, with forward slashes, of the audio that was written as `written`.

    Raises:
        ManifestError: it leaves `root`, by name or by a link, is no regular file, or has a name a manifest cannot hold.
    """
    if not written or any(control in written for control in "\0\t\n\r"):
        raise ManifestError(f"{where}: the path {written!r} is empty or has a tab or line break; rename the file")
    if not is_utf8(written):
        raise ManifestError(f"{where}: the path {written!r} is not UTF-8; rename the file")
    base = root.absolute()
    path = Path(os.path.normpath(base / written))
    try:
        target, real = path.resolve(), base.resolve()
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links
        raise ManifestError(f"{where}: {written!r} cannot be followed ({error}); correct it") from error
    if not target.is_relative_to(real):
        link = f", by a link to {target}" if path.is_relative_to(base) else ""
        raise ManifestError(
            f"{where}: {written!r} leaves the root {root}{link}; if that is meant, name a folder that holds all audio "
            "with --root"
        )
    if not is_file:
        raise ManifestError(f"{where}: {path} is not there, or no regular file; correct it, or the root with --root")
    return (path.relative_to(base) if path.is_relative_to(base) else target.relative_to(real)).as_posix()


def id_of(path: str) -> str:
    """Return the id that an audio file gets where nothing gives it one: its path without suffix, `-` for `/`."""
    return Path(path).with_suffix("").as_posix().replace("/", "-")


def is_utf8(text: str) -> bool:
    """Tell whether `text` can be written: names of files and JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def lost_columns(manifest: Manifest, held: Sequence[str], *, by: str) -> list[str]:
    """Return a note on the columns that are filled and that a format has no place for, or none."""
    lost = [
        name
        for name in _COLUMNS
        if name not in held and any(getattr(row, name) is not None for row in manifest.utterances)
    ]
    if "id" not in held and any(row.id != id_of(row.path) for row in manifest.utterances):
        lost.insert(0, "id")
    return [f"{by} has no place for {', '.join(lost)}: left out"] if lost else []


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield `file:line` and the line, of a UTF-8 file that may be gzipped.

    Raises:
        ManifestError: it cannot be read or is not UTF-8.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}:{number}", line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.object!r:.60}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); name an existing, whole file") from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `file:line` and the object on it, of a JSON lines file that may be gzipped; blank lines are passed over.

    Raises:
        ManifestError: it cannot be read, or a line holds no JSON object.
    """
    for where, line in text_lines(path):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: no JSON ({error}): {line[:60]!r}") from error
        if not isinstance(found, dict):
            raise ManifestError(f"{where}: expected a JSON object, found {line[:60]!r}")
        yield where, found


def word(row: dict[str, Any], name: str, *, where: str) -> str | None:
    """Return a string of a JSON object, a number turned into one; None if it is not there or null.

    Raises:
        ManifestError: it is something else.
    """
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, str | int | float | None):
        raise ManifestError(f"{where}: {name} is {found!r:.60}, expected a string")
    return found if found is None or isinstance(found, str) else str(found)


def _utterance(entry: Entry, root: Path) -> Utterance:
    path = place(entry.path, root, where=entry.where)
    key = entry.id if entry.id is not None else id_of(path)
    for value in (key, entry.text, entry.speaker, entry.language, entry.split):
        if value is not None and (any(control in value for control in "\t\n\r") or not is_utf8(value)):
            raise ManifestError(f"{entry.where}: {value!r} has a tab or line break, or is not UTF-8; take it out")
    if not key:
        raise ManifestError(f"{entry.where}: the id is empty; name the utterance")
    header = read_header(root / path)
    if entry.sample_rate not in (None, header.sample_rate):
        raise ManifestError(
            f"{entry.where}: says {entry.sample_rate} Hz, {path} has {header.sample_rate}; correct the one or the other"
        )
    _check_length(entry, path, header)
    return Utterance(
        id=key,
        path=path,
        num_samples=header.num_samples,
        sample_rate=header.sample_rate,
        channels=header.channels,
        text=entry.text or None,
        speaker=entry.speaker or None,
        language=entry.language or None,
        split=entry.split or None,
    )


def _check_length(entry: Entry, path: str, header: AudioHeader) -> None:
    """Raise unless the utterance is the whole file, as long as was said."""
    whole_s = None if entry.num_samples is None else entry.num_samples / header.sample_rate
    lasts = f"{path} lasts {header.duration_s:g} s"
    for said_s in (whole_s, entry.duration_s if entry.start_s is None else None):
        if said_s is not None and not abs(said_s - header.duration_s) <= _TOLERANCE_S:
            raise ManifestError(f"{entry.where}: says {said_s:g} s, {lasts}; the file was changed or cut")
    part_s = header.duration_s if entry.duration_s is None else entry.duration_s
    if entry.start_s is not None and not (entry.start_s == 0 and abs(part_s - header.duration_s) <= _TOLERANCE_S):
        raise ManifestError(
            f"{entry.where}: starts at {entry.start_s:g} s and lasts {part_s:g} s, {lasts}; a manifest lists whole "
            "files: cut the recording into one file for each part"
        )
