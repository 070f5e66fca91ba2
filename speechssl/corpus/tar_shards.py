"""Reads the recordings of one archive, with text, speaker and language from the members beside them.

As in WebDataset, members that share a stem form one sample: `0/17.flac`, `0/17.txt`, `0/17.json`.
"""

import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from speechssl.audio.ffmpeg import FFMPEG_SUFFIXES
from speechssl.audio.reading import AudioHeader
from speechssl.corpus.archives import members
from speechssl.errors import AudioError

__all__ = ["Recording", "Shard", "no_data", "read_shard", "suffix_of"]

_TEXTS = (".txt", ".lab", ".text", ".trn", ".transcript")  # in this order, if a sample has several
_TEXT_KEYS = ("text", "transcript", "transcription", "sentence")
_SPEAKER_KEYS = ("speaker", "speaker_id", "spk")
_LANGUAGE_KEYS = ("language", "lang", "locale")
_MAX_SIDE = 2**20  # most bytes of a text or JSON member


@dataclass(frozen=True, slots=True)
class Recording:
    """An audio member of an archive."""

    name: str  # path in the archive
    offset: int  # bytes
    size: int  # bytes
    header: AudioHeader
    text: str | None = None
    speaker: str | None = None
    language: str | None = None


@dataclass
class Shard:
    """The contents of an archive."""

    recordings: list[Recording] = field(default_factory=list)  # in the order of the archive
    errors: list[AudioError] = field(default_factory=list)  # members that cannot be used
    passed_over: Counter[str] = field(
        default_factory=Counter
    )  # suffix -> members that are neither audio nor of a sample


def suffix_of(name: str) -> str:
    """Return the suffix of a path in lower case, with its dot; "" if it has none."""
    return posixpath.splitext(name)[1].lower()


def no_data(name: str) -> str | None:
    """Return why a path cannot be data, whatever its suffix; None if it can be.

    macOS writes `._x.wav` beside x.wav, and `__MACOSX` into archives; hidden folders hold previews, caches, histories.

    Examples:
        >>> no_data("a/._x.wav"), no_data(".cache/x.wav"), no_data("a/.x.wav")
        ('of macOS, as ._x.wav', 'in hidden folders', None)
    """
    *folders, file = name.split("/")
    if file.startswith("._") or "__MACOSX" in folders:
        return "of macOS, as ._x.wav"
    return "in hidden folders" if any(each.startswith(".") and each not in (".", "..") for each in folders) else None


def read_shard(
    where: str,
    file: BinaryIO,
    suffixes: Sequence[str],
    read_header: Callable[[int, int], AudioHeader],
) -> Shard:
    """List an archive, and read the headers of its audio.

    Args:
        where: path or URL of the archive, for messages.
        file: the archive, seekable.
        suffixes: suffixes of audio, in lower case.
        read_header: reads the header of the audio at an offset and of a size, in bytes.
    """
    shard = Shard()
    sides: dict[str, bytes] = {}

    for member in members(file):
        suffix = suffix_of(member.name)
        if (reason := no_data(member.name)) is not None:
            shard.passed_over[reason] += 1
            continue
        if member.name and suffix not in suffixes:
            if suffix in (*_TEXTS, ".json") and member.problem is None and member.size <= _MAX_SIDE:
                file.seek(member.offset)
                sides[member.name] = file.read(member.size)
            else:
                shard.passed_over[suffix] += 1
        elif member.problem is not None:
            shard.errors.append(_error(where, member.name, member.problem))
        elif suffix in FFMPEG_SUFFIXES:
            reason = f"{suffix} needs ffmpeg, which reads whole files only; unpack it"
            shard.errors.append(_error(where, member.name, reason))
        else:
            try:
                header = read_header(member.offset, member.size)
            except AudioError as error:
                shard.errors.append(AudioError(f"{member.name!r:.300} in {error}"))
            else:
                shard.recordings.append(Recording(member.name, member.offset, member.size, header))
    _join(where, shard, sides)
    return shard


def _error(where: str, name: str, reason: str) -> AudioError:
    return AudioError(f"{where}: {name!r:.300}: {reason}" if name else f"{where}: {reason}")


def _join(where: str, shard: Shard, sides: dict[str, bytes]) -> None:
    """Add the texts and JSON members to the recordings of their samples, and count the others.

    A sample's stem ends at the last dot, or at the first if only one recording has that stem: `1.audio.flac` and
    `1.json`.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in sides:
        by_stem[posixpath.splitext(name)[0]].append(name)
    shared = Counter(_first_stem(recording.name) for recording in shard.recordings)
    columns: dict[str, dict[str, str]] = {}  # columns of the members that were used
    for i, recording in enumerate(shard.recordings):
        found = by_stem.get(posixpath.splitext(recording.name)[0])
        if found is None and shared[_first_stem(recording.name)] == 1:
            found = by_stem.get(_first_stem(recording.name))
        said: dict[str, str] = {}
        for name in sorted(found or (), key=_rank):
            if name not in columns:
                try:
                    columns[name] = _said(name, sides[name])
                except (ValueError, RecursionError) as error:
                    columns[name] = {}
                    shard.errors.append(_error(where, name, f"{error}; correct or remove it"))
            said = {**columns[name], **said}
        if said:
            shard.recordings[i] = replace(recording, **said)  # type: ignore[arg-type]
    shard.passed_over.update(suffix_of(name) for name in sides if name not in columns)


def _first_stem(name: str) -> str:
    folder, _, file = name.rpartition("/")
    stem = file.split(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _rank(name: str) -> int:
    suffix = suffix_of(name)
    return _TEXTS.index(suffix) if suffix in _TEXTS else len(_TEXTS)


def _said(name: str, content: bytes) -> dict[str, str]:
    """Return the columns in a member beside the audio.

    Raises:
        ValueError: the member is not UTF-8, not a JSON object, or a value is not a string.
    """
    try:
        written = content.decode("utf-8-sig")
        if not name.lower().endswith(".json"):
            return _columns({"text": written})
        values = json.loads(written)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, found {written[:60]!r}")
    keys = {"text": _TEXT_KEYS, "speaker": _SPEAKER_KEYS, "language": _LANGUAGE_KEYS}
    return _columns({name: _first(values, known) for name, known in keys.items()})


def _first(values: dict[str, object], keys: Sequence[str]) -> str | None:
    for key in keys:
        found = values.get(key)
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            return str(found)
        if found is not None:
            raise ValueError(f"{key} is {found!r:.60}, expected a string")
    return None


def _columns(values: Mapping[str, str | None]) -> dict[str, str]:
    """Return the non-empty values, each on one line, as a manifest holds no tabs or line breaks.

    Raises:
        ValueError: a string holds lone surrogates, as JSON may.
    """
    columns = {}
    for name, value in values.items():
        line = re.sub(r"[\t\n\r\0]+", " ", value or "").strip()
        if any("\ud800" <= sign <= "\udfff" for sign in line):
            raise ValueError(f"{name} is {line!r:.60}, which is not Unicode text")
        if line:
            columns[name] = line
    return columns
