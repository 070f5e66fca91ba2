"""Converts entries of other toolkits' lists to utterances, with safe paths and headers that agree.

Imported lists are not trusted: a path must be a regular file below the root after resolving links, and length, rate
and channels are read from the audio and must agree with the list.

Most formats state parts of recordings in seconds. A time is read as the nearest sample (halves up, as in Lhotse), and
written so that both rounding and truncating readers get the same sample, so parts survive a round trip exactly. The
default id of a part is made of its file and times, and does not depend on other entries.
"""

import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.audio.reading import AudioHeader, Segment, read_header
from speechssl.audio.storage import Place, is_url
from speechssl.data.utterances import Manifest, Utterance, id_of, part_id_of
from speechssl.errors import ManifestError

__all__ = [
    "Entry",
    "Progress",
    "account",
    "as_manifest",
    "entries_of",
    "file_of",
    "id_of",
    "json_lines",
    "lost_columns",
    "part_id",
    "place",
    "recording_ids",
    "seconds_of",
    "text_lines",
    "word",
]

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps an iterable, given its length

_TOLERANCE_S = 0.05  # stated durations are rounded, and mp3 decoders differ by a frame or two
_LONGEST_S = 1e9
_DECIMALS = 6  # decimals to which seconds times rate is rounded, to remove rounding errors of the times
_COLUMNS = ("text", "speaker", "language", "split")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One utterance as an imported list states it; None where it states nothing."""

    where: str  # file and line, for messages
    path: str  # as written
    id: str | None = None
    num_samples: int | None = None  # samples of the whole file
    sample_rate: int | None = None
    start_s: float | None = None  # start in the file; None: the utterance is the whole file
    duration_s: float | None = None  # with a start, this or `end_s` is given, or neither for the rest of the file
    end_s: float | None = None  # end in the file
    part: Segment | None = None  # the part in samples, instead of seconds
    channel: int | None = None  # channel that is used, counted from 0; None: all
    is_channel_of_source: bool = False  # the channel is that of the file's source; a mono file holds only this one
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None


def as_manifest(
    entries: Sequence[Entry], root: Path, *, progress: Progress = lambda items, _: items, workers: int | None = None
) -> Manifest:
    """Read the headers of all audio and build a manifest.

    Args:
        entries: one per utterance, in the order of the result.
        root: folder that paths are relative to, and may not leave.
        progress: wraps the iterable of files, given their number.
        workers: threads that read headers; None for one per core.

    Raises:
        ManifestError: there are no entries, a path leaves the root or is no regular file, two utterances have the same
            id, a length or rate differs from the audio's, a part leaves its recording, or a text has a tab or line
            break.
        AudioError: a file cannot be read.
    """
    if not entries:
        raise ManifestError("lists no utterances; name a file that does")
    firsts = list({entry.path: entry for entry in reversed(entries)}.values())[::-1]  # first of each file
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        headers = pool.map(lambda entry: _header(entry, root), firsts)
        found = dict(zip((entry.path for entry in progress(firsts, len(firsts))), headers, strict=True))
    utterances = [(entry, _utterance(entry, *found[entry.path])) for entry in entries]
    seen: dict[str, str] = {}
    for entry, utterance in utterances:
        if utterance.id in seen:
            raise ManifestError(
                f"{entry.where}: the id {utterance.id!r} was given before, at {seen[utterance.id]}; rename one of them"
            )
        seen[utterance.id] = entry.where
    return Manifest(root=root, utterances=tuple(utterance for _, utterance in utterances))


def place(written: str, root: Path, *, where: str) -> str:
    """Resolve a path of an imported list to a path below `root`, with forward slashes.

    Raises:
        ManifestError: the path leaves `root`, by name or by a link, is no regular file, or cannot be written in a
            manifest; or a member lies outside of its archive.
    """
    found = Place.parse(written, Path())
    if found.size is not None and not is_url(written):
        archive = place(found.path, root, where=where)
        if found.offset + found.size > (root / archive).stat().st_size:
            raise ManifestError(f"{where}: {written!r} ends after the end of the archive; correct it, or copy it again")
        return f"{archive}:{found.offset}:{found.size}"
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
        raise ManifestError(f"{where}: {path} is missing, or no regular file; correct it, or the root with --root")
    return (path.relative_to(base) if path.is_relative_to(base) else target.relative_to(real)).as_posix()


def is_utf8(text: str) -> bool:
    """Return whether `text` can be encoded; file names and JSON may hold lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def lost_columns(manifest: Manifest, held: Sequence[str], *, by: str) -> list[str]:
    """Return a note on columns in use that a format cannot hold, or no note."""
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
        ManifestError: the file cannot be read or is not UTF-8.
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
    """Yield `file:line` and its object, of a JSON lines file that may be gzipped; blank lines are skipped.

    Raises:
        ManifestError: the file cannot be read, or a line holds no JSON object.
    """
    for where, line in text_lines(path):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: not JSON ({error}): {line[:60]!r}") from error
        if not isinstance(found, dict):
            raise ManifestError(f"{where}: expected a JSON object, found {line[:60]!r}")
        yield where, found


def word(row: dict[str, Any], name: str, *, where: str) -> str | None:
    """Return a value of a JSON object as a string; None if it is missing or null.

    Raises:
        ManifestError: the value is neither string nor number.
    """
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, str | int | float | None):
        raise ManifestError(f"{where}: {name} is {found!r:.60}, expected a string")
    return found if found is None or isinstance(found, str) else str(found)


def entries_of(
    source: Path,
    rows: Iterable[tuple[str, dict[str, Any]]],
    known: Mapping[str, Sequence[str]],
    columns: Mapping[str, str],
) -> tuple[list[Entry], list[str]]:
    """Convert objects whose keys have other names to entries.

    Args:
        source: the file, for messages.
        rows: location of each object, for messages, and the object; a missing value is the same as null.
        known: field of `Entry` -> its possible names, the usual one first.
        columns: field of `Entry` -> its name, as given by the user.

    Returns:
        The entries, and a note on the names that were used and those that were not.

    Raises:
        ManifestError: `columns` has an unknown field or a name that no row has, or a value has the wrong type.
    """
    listed = [*rows]
    found = dict.fromkeys(name for _, row in listed for name in row)
    unknown = [f"{ours}={theirs}" for ours, theirs in columns.items() if ours not in known or theirs not in found]
    if unknown:
        raise ManifestError(
            f"{source}: columns: expected any of {', '.join(known)}, each = one of {', '.join(found)}, found "
            f"{', '.join(unknown)}"
        )
    usual = {ours: next((name for name in names if name in found), None) for ours, names in known.items()}
    taken = {ours: name for ours, name in {**usual, **columns}.items() if name is not None}
    entries = []
    for where, row in listed:
        said: dict[str, Any] = {}
        for ours, name in taken.items():
            match ours:
                case "start_s" | "end_s" | "duration_s":
                    said[ours] = _seconds(row, name, where=where)
                case "channel":
                    said[ours] = _channel_number(row, name, where=where)
                case _:
                    said[ours] = word(row, name, where=where)
        entries.append(Entry(where=where, **{**said, "path": said.get("path") or ""}))
    return entries, [account(source, taken, [name for name in found if name not in taken.values()])]


def account(source: Path, taken: Mapping[str, str], left: Sequence[str]) -> str:
    """Describe which columns of an imported file were used (ours -> theirs) and which were not.

    Examples:
        >>> account(Path("m.json"), {"path": "audio_filepath", "text": "text"}, ["pred_text"])
        'm.json: taken: path from audio_filepath, text; not taken: pred_text'
    """
    names = ", ".join(ours if ours == theirs else f"{ours} from {theirs}" for ours, theirs in taken.items())
    return f"{source}: taken: {names}" + (f"; not taken: {', '.join(left)}" if left else "")


def seconds_of(samples: int, rate: int) -> float:
    """Convert a sample to seconds, so that both rounding and truncation give the sample back.

    Examples:
        >>> int(1001 / 16_000 * 16_000), int(seconds_of(1001, 16_000) * 16_000)
        (1000, 1001)
    """
    seconds = samples / rate
    while seconds * rate < samples:
        seconds = math.nextafter(seconds, math.inf)
    return seconds


def file_of(manifest: Manifest, row: Utterance, *, by: str) -> str:
    """Return the absolute path of the audio file of `row`.

    Raises:
        ManifestError: the audio is in an archive or at a URL, which the toolkit `by` does not read.
    """
    found = manifest.place(row)
    if not found.is_plain_file:
        raise ManifestError(f"{row.id}: {found} is in an archive or at a URL, and {by} lists files: write it to one")
    return str(manifest.root.resolve() / row.path)


def part_id(path: str, part: Segment, sample_rate: int) -> str:
    """Return the default id of a part of a file: the file's id, start and end in milliseconds, and the channel.

    Examples:
        >>> part_id("calls/7.wav", Segment(20_000, 8_000, channel=1), 8_000)
        'calls-7-00002500-00003500-channel1'
    """
    channel = "" if part.channel is None else f"-channel{part.channel}"
    end = part.start + part.num_samples
    return f"{part_id_of(id_of(path), part.start / sample_rate, end / sample_rate)}{channel}"


def recording_ids(manifest: Manifest) -> dict[str, str]:
    """Return an id without blanks for every file: that of its whole-file utterance, or one made of its path."""
    ids = {row.path: row.id for row in reversed(manifest.utterances) if row.file_samples is None}
    taken = set(ids.values())
    for row in manifest.utterances:
        if row.path not in ids:
            key = stem = re.sub(r"\s", "_", id_of(row.path))
            number = 1
            while key in taken:
                number += 1
                key = f"{stem}-{number}"
            ids[row.path] = key
            taken.add(key)
    return ids


def _header(entry: Entry, root: Path) -> tuple[str, AudioHeader]:
    path = place(entry.path, root, where=entry.where)
    return path, read_header(Place.parse(path, root))


def _utterance(entry: Entry, path: str, header: AudioHeader) -> Utterance:
    if entry.sample_rate not in (None, header.sample_rate):
        raise ManifestError(
            f"{entry.where}: states {entry.sample_rate} Hz, {path} has {header.sample_rate}; correct one of them"
        )
    _check_length(entry, path, header)
    part = _part(entry, path, header)
    key = entry.id
    if key is None:
        key = id_of(path) if part is None else part_id(path, part, header.sample_rate)
    for value in (key, entry.text, entry.speaker, entry.language, entry.split):
        if value is not None and (any(control in value for control in "\t\n\r") or not is_utf8(value)):
            raise ManifestError(f"{entry.where}: {value!r} has a tab or line break, or is not UTF-8; remove it")
    if not key:
        raise ManifestError(f"{entry.where}: the id is empty; name the utterance")
    is_whole = part is None or part.num_samples == header.num_samples
    return Utterance(
        id=key,
        path=path,
        num_samples=part.num_samples if part else header.num_samples,
        sample_rate=header.sample_rate,
        channels=header.channels,
        start=part.start if part else 0,
        file_samples=None if is_whole else header.num_samples,
        channel=part.channel if part else None,
        text=entry.text or None,
        speaker=entry.speaker or None,
        language=entry.language or None,
        split=entry.split or None,
        decoder=header.decoder,
    )


def _seconds(row: dict[str, Any], name: str, *, where: str) -> float | None:
    found = row.get(name)
    if found is None or (isinstance(found, int | float) and not isinstance(found, bool)):
        return found
    raise ManifestError(f"{where}: {name} is {found!r}, expected seconds")


def _channel_number(row: dict[str, Any], name: str, *, where: str) -> int | None:
    """Return a channel, counted from 0; None for all, which NeMo calls `average`."""
    found = row.get(name)
    if found is None or found == "average":
        return None
    if isinstance(found, str) and found.isdecimal():
        return int(found)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ManifestError(f"{where}: {name} is {found!r}, expected the number of one channel, counted from 0")
    return found


def _check_length(entry: Entry, path: str, header: AudioHeader) -> None:
    """Raise unless the file is as long as the entry states."""
    whole_s = None if entry.num_samples is None else entry.num_samples / header.sample_rate
    is_whole = entry.start_s is None and entry.part is None
    for said_s in (whole_s, entry.duration_s if is_whole else None):
        if said_s is not None and not abs(said_s - header.duration_s) <= _TOLERANCE_S:
            raise ManifestError(
                f"{entry.where}: states {said_s:g} s, {path} lasts {header.duration_s:g} s; it was changed or truncated"
            )


def _part(entry: Entry, path: str, header: AudioHeader) -> Segment | None:
    """Return the part of the file that is the utterance, None for the whole file."""
    rate, lasts = header.sample_rate, f"{path} lasts {header.duration_s:g} s"
    if entry.part is not None:
        start, end = entry.part.start, entry.part.start + entry.part.num_samples
        said, overhang = f"has the samples {start} to {end}", 0
    elif entry.start_s is not None:
        start, end = _nearest(entry.start_s, rate), header.num_samples
        said, overhang = f"starts at {entry.start_s:g} s", round(_TOLERANCE_S * rate)
        if entry.end_s is not None:
            end, said = _nearest(entry.end_s, rate), f"{said} and ends at {entry.end_s:g} s"
        elif entry.duration_s is not None:
            end, said = start + _nearest(entry.duration_s, rate), f"{said} and lasts {entry.duration_s:g} s"
    else:
        start, end, said, overhang = 0, header.num_samples, "", 0
    if not 0 <= start < min(end, header.num_samples) or end > header.num_samples + overhang:
        raise ManifestError(f"{entry.where}: {said}, {lasts}: not a part of it; correct one of them")
    end = min(end, header.num_samples)
    channel = _channel(entry, path, header)
    is_all = (start, end) == (0, header.num_samples) and channel is None
    return None if is_all else Segment(start, end - start, channel)


def _channel(entry: Entry, path: str, header: AudioHeader) -> int | None:
    """Return which of several channels is used; None for all, or if there is only one."""
    found = entry.channel
    if found is None or (header.channels == 1 and (found == 0 or entry.is_channel_of_source)):
        return None
    if not 0 <= found < header.channels:
        raise ManifestError(
            f"{entry.where}: names the channel {found}, counted from 0; {path} has {header.channels}: correct it"
        )
    return found


def _nearest(seconds: float, rate: int) -> int:
    """Return the sample nearest to a time, halves up; -1 for an invalid time."""
    return math.floor(round(seconds * rate, _DECIMALS) + 0.5) if abs(seconds) < _LONGEST_S else -1
