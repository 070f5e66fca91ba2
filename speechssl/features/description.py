"""The description and the index of a folder of features.

    folder/features.json    a `FeaturesDescription`: model, audio, settings, and what was left out and why
    folder/index.tsv        a line per utterance: id, file, place in it, rows, frames, samples, first sample

The description is written last, so that an incomplete folder is recognised. The format defines `folder/STREAM/FILE`; a
stream is a layer, or `weighted`, `mfcc`, `log_mel`.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from speechssl.atomic import atomic, write_atomically
from speechssl.config import configuration, from_dict, to_dict
from speechssl.errors import ConfigError, LabelError

__all__ = [
    "DESCRIPTION",
    "INDEX",
    "Entry",
    "FeaturesDescription",
    "FormatName",
    "NumberType",
    "Pool",
    "Stream",
    "id_of_name",
    "name_of_id",
    "read_description",
    "read_index",
    "write_description",
    "write_index",
]

DESCRIPTION = "features.json"
INDEX = "index.tsv"
VERSION = 2  # version of the description; a `features.json` of version 1 is the header of one stream of shards

FormatName = Literal["npy", "safetensors", "shards", "hdf5", "zarr", "parquet", "lhotse"]
NumberType = Literal["float32", "float16"]
Pool = Literal["none", "mean", "segments"]

_COLUMNS = ("id", "file", "place", "rows", "frames", "samples", "first_sample", "segments")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One kind of features of every utterance: a layer, a weighted sum of layers, or a front end."""

    name: str  # name of its folder or column: "layer_6", "weighted", "mfcc", "log_mel"
    title: str  # for people
    layer: int  # counted from 1; 0 if the stream is not a layer
    dim: int
    settings: dict[str, Any]  # settings that identify the features, as in k-means and label files


@configuration
class FeaturesDescription:
    """Origin of the features, and what was written or left out."""

    version: int = VERSION
    format: FormatName
    dtype: NumberType
    pool: Pool
    streams: tuple[Stream, ...]
    hop: int  # samples at 16 kHz from one frame to the next
    window: int  # receptive field of a frame, in samples at 16 kHz
    model: str  # name, or the front end
    fingerprint: str | None  # hash of the model's parameters; None for a front end
    settings: dict[str, Any]  # windows, batches, audio, parts, the labels of segments
    manifest: dict[str, Any]  # paths, a hash of their contents, utterances, hours
    versions: dict[str, str]  # versions of the software
    commit: str | None  # commit of the sources, if they are in a checkout
    utterances: int = 0  # utterances written
    frames: int = 0  # frames of these utterances
    rows: int = 0  # rows written: frames, or means over frames
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)  # id -> reason


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An utterance in the index."""

    id: str
    file: str  # path below the folder of each stream
    place: str  # key in the file, or index of the first row, or of the utterance; empty if it has its own file
    rows: int
    frames: int  # frames of the audio; the same as rows, unless these are means
    samples: int  # at 16 kHz
    first_sample: int  # start of the first frame in the audio file, at 16 kHz
    segments: tuple[
        tuple[int, int], ...
    ] = ()  # unit and number of frames of each row, where rows are means over segments


def write_description(folder: Path, description: FeaturesDescription, *, name: str = DESCRIPTION) -> None:
    """Write the description of a folder, atomically."""
    write_atomically(folder / name, json.dumps(to_dict(description), indent=1, ensure_ascii=False) + "\n")


def read_description(folder: Path, *, name: str = DESCRIPTION) -> FeaturesDescription:
    """Read the description of a folder.

    Raises:
        LabelError: the description is missing, of another version, or invalid.
    """
    path = folder / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values["version"]
        if found == VERSION:
            return from_dict(values, FeaturesDescription, where=str(path))
    except FileNotFoundError as error:
        raise LabelError(
            f"{folder}: not a folder of features, as it holds no {name}; make one with `speechssl extract MODEL "
            f"MANIFEST -o {folder}`, or let the command that started it finish"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise LabelError(f"{path}: cannot be read ({error}); extract the features again") from error
    hint = ": it is one stream of a folder of features, name the folder above" if found == 1 else ""
    raise LabelError(f"{path}: is of version {found}, expected {VERSION}{hint}")


def write_index(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the index line by line, atomically."""
    with atomic(folder / INDEX) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(_COLUMNS) + "\n")
        for entry in entries:
            segments = " ".join(f"{unit}:{count}" for unit, count in entry.segments)
            cells = [str(getattr(entry, name)) for name in _COLUMNS[:-1]]
            file.write("\t".join([*cells, segments]) + "\n")


def read_index(folder: Path) -> dict[str, Entry]:
    """Read the index: entries by id, in the order of the manifest.

    Raises:
        LabelError: the index is missing, or a line does not parse.
    """
    path = folder / INDEX
    entries: dict[str, Entry] = {}
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            if next(file, "").rstrip("\n").split("\t") != [*_COLUMNS]:
                raise LabelError(f"{path}:1: expected the columns {' '.join(_COLUMNS)}; extract the features again")
            for number, line in enumerate(file, start=2):
                entry = _entry(line.rstrip("\n").split("\t"), where=f"{path}:{number}")
                entries[entry.id] = entry
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read ({error}); extract the features again") from error
    return entries


def _entry(cells: list[str], *, where: str) -> Entry:
    try:
        key, file, place, *numbers, segments = cells
        rows, frames, samples, first_sample = map(int, numbers)
        pairs = [pair.split(":") for pair in segments.split()]
        return Entry(
            id=key,
            file=file,
            place=place,
            rows=rows,
            frames=frames,
            samples=samples,
            first_sample=first_sample,
            segments=tuple((int(unit), int(count)) for unit, count in pairs),
        )
    except ValueError as error:
        raise LabelError(
            f"{where}: expected {len(_COLUMNS)} columns, found {cells!r:.80}; extract the features again"
        ) from error


_LONGEST = 200  # most bytes of a name without suffix; most file systems allow 255 with it
_RESERVED = {".": "%2E", "__": "%5F_"}


def name_of_id(key: str) -> str:
    """Encode an id as a relative path without suffix, of safe characters.

    Examples:
        >>> name_of_id("84-121123-0003"), name_of_id("a b/c"), name_of_id("..")
        ('84-121123-0003', 'a%20b%2Fc', '%2E.')
    """
    name = quote(key, safe="") or "%"
    pieces = [name[start : start + _LONGEST] for start in range(0, len(name), _LONGEST)]
    for begin, written in _RESERVED.items():
        pieces = [written + piece[len(begin) :] if piece.startswith(begin) else piece for piece in pieces]
    return "%/".join(pieces)


def id_of_name(name: str) -> str:
    """Decode the id from a name of `name_of_id`.

    Examples:
        >>> id_of_name("a%20b%2Fc")
        'a b/c'
    """
    return unquote(name.replace("%/", "").removesuffix("%"))
