"""Utterances and manifests of them: what is known of each, and of all as columns; knows no file format.

An `Utterance` is an audio file, or a part of one; a `Manifest` is utterances under one root. `Rows` are utterances as
columns, by the million: planning looks at the lengths of all as one array, and a row is made when it is looked at.
`data/manifest.py` reads and writes manifests. Nothing here reads samples.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.reading import SAMPLE_RATE, Segment
from speechssl.audio.storage import Place, is_url
from speechssl.errors import ManifestError

__all__ = [
    "LONGEST",
    "Chosen",
    "Column",
    "Ids",
    "Joined",
    "Listed",
    "Manifest",
    "Rows",
    "Strings",
    "Utterance",
    "hash_ids",
    "id_of",
    "part_id_of",
    "refuse_duplicate_ids",
    "refuse_repeated_ids",
]

Column = Literal["id", "path", "language", "corpus", "root"]
Strings = NDArray[np.object_]  # str, or None

LONGEST = 2**48  # samples; a manifest may claim more, arrays of 64 bits do not hold what follows from it

_BLOCK = 1 << 16  # rows at a time, where all are gone through


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One audio file, or a part of one, and what is known of it."""

    id: str
    path: str  # relative to the manifest's root, with forward slashes; bytes of an archive or a URL: `Place`
    num_samples: int  # in the file's own rate
    sample_rate: int
    channels: int
    start: int = 0  # first sample in the file, in its own rate
    file_samples: int | None = None  # of the whole file, where the utterance is a part of it
    channel: int | None = None  # the one of several that is heard, counted from 0; None: all, mixed
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    decoder: str | None = None  # `ffmpeg VERSION` that the length holds for; None: libsndfile, or not known
    corpus: str | None = None  # the manifest that lists it, where several are joined; no column

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.num_samples / self.sample_rate

    @property
    def segment(self) -> Segment | None:
        """What of the file it is; None for all of it."""
        is_all = self.file_samples is None and self.channel is None
        return None if is_all else Segment(self.start, self.num_samples, self.channel)

    @property
    def num_samples_16k(self) -> int:
        """Samples after resampling to 16 kHz, as torchaudio's resampler rounds them."""
        return -(-self.num_samples * SAMPLE_RATE // self.sample_rate)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Utterances under one root."""

    root: Path
    utterances: Sequence[Utterance]  # a tuple, or `Rows` where they are too many for one

    @property
    def duration_s(self) -> float:
        """Seconds of audio, of all utterances together."""
        return Rows.of(self.utterances).duration_s

    def audio_path(self, utterance: Utterance) -> Path:
        """Return the file that holds the audio of `utterance`, where it is one on this machine."""
        return self.root / utterance.path

    def place(self, utterance: Utterance) -> Place:
        """Return where the bytes of the audio of `utterance` lie."""
        return Place.parse(utterance.path, self.root)

    def absolute_path(self, utterance: Utterance) -> str:
        """Return the path of `utterance` as a manifest with the root `/` writes it; a URL as it is."""
        return utterance.path if is_url(utterance.path) else str((self.root / utterance.path).resolve())


class Rows(Sequence[Utterance], ABC):
    """Utterances as columns: arrays of all of them, and a row made when it is looked at; slices are views."""

    @staticmethod
    def of(utterances: Sequence[Utterance]) -> "Rows":
        """View any sequence of utterances as columns; `Rows` are returned as they are."""
        return utterances if isinstance(utterances, Rows) else Listed(utterances)

    @property
    @abstractmethod
    def lengths_16k(self) -> NDArray[np.int64]:
        """(rows,) samples at 16 kHz, as `Utterance.num_samples_16k` counts them."""

    @property
    @abstractmethod
    def duration_s(self) -> float:
        """Seconds of audio."""

    @abstractmethod
    def column(self, name: Column) -> Iterator[Strings]:
        """Yield the values of one column, many at a time, in the order of the rows."""

    @abstractmethod
    def row(self, index: int) -> Utterance:
        """Make the utterance with an index from 0 on."""

    def list_lengths(self, lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield a line `id<TAB>length` for each row where `is_wanted` holds, many lines at a time.

        Args:
            lengths: (rows,) int64.
            is_wanted: (rows,) bool.
        """
        begin = 0
        for ids in self.column("id"):
            block = slice(begin, begin + len(ids))
            begin = block.stop
            wanted = is_wanted[block]
            pairs = zip(ids[wanted].tolist(), lengths[block][wanted].tolist(), strict=True)
            yield "".join(map("%s\t%d\n".__mod__, pairs)).encode()

    @overload
    def __getitem__(self, place: int) -> Utterance: ...

    @overload
    def __getitem__(self, place: slice) -> "Rows": ...

    def __getitem__(self, place: int | slice) -> "Utterance | Rows":
        """Make an utterance, or view a part of the rows."""
        if isinstance(place, slice):
            return Chosen(self, np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return self.row(place % len(self))


class Listed(Rows):
    """Utterances that are in memory already."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        """Hold `utterances` as they are."""
        self._utterances = utterances

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self._utterances)

    @property
    def lengths_16k(self) -> NDArray[np.int64]:
        """(rows,) samples at 16 kHz."""
        lengths = (min(row.num_samples_16k, LONGEST) for row in self._utterances)
        return np.fromiter(lengths, np.int64, len(self))

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return sum(row.duration_s for row in self._utterances)

    def column(self, name: Column) -> Iterator[Strings]:
        """Yield the values of one column, many at a time."""
        rows = iter(self._utterances)
        while block := [getattr(row, name) for row in islice(rows, _BLOCK)]:
            yield np.array(block, object)

    def row(self, index: int) -> Utterance:
        """Return the utterance with an index from 0 on."""
        return self._utterances[index]


class Chosen(Rows):
    """Some rows of others."""

    def __init__(self, rows: Rows, indices: NDArray[np.int64]) -> None:
        """Choose `indices`, (chosen,) int64, in that order."""
        self._rows, self._indices = rows, indices

    def __len__(self) -> int:
        """Count the rows chosen."""
        return len(self._indices)

    @property
    def lengths_16k(self) -> NDArray[np.int64]:
        """(rows,) samples at 16 kHz."""
        return self._rows.lengths_16k[self._indices]

    @property
    def duration_s(self) -> float:
        """Seconds of audio; to the sample at 16 kHz for each row."""
        return float(self.lengths_16k.sum()) / 16_000

    def column(self, name: Column) -> Iterator[Strings]:
        """Yield the values of one column; those of all rows are in memory at once."""
        yield np.concatenate([*self._rows.column(name)])[self._indices]

    def row(self, index: int) -> Utterance:
        """Make the utterance with an index from 0 on."""
        return self._rows.row(int(self._indices[index]))


class Joined(Rows):
    """The rows of several manifests, with absolute paths; each row knows its manifest as its `corpus`."""

    def __init__(self, manifests: Sequence[Manifest], names: Sequence[str]) -> None:
        """Join `manifests`, called `names`, in their order.

        Raises:
            ManifestError: an id is in two of them.
        """
        self._manifests, self._names = tuple(manifests), tuple(names)
        self._first = np.cumsum([0, *(len(manifest.utterances) for manifest in manifests)])
        refuse_repeated_ids(self, [hash_ids(ids) for ids in self.column("id")], where=", ".join(names))

    @property
    def manifests(self) -> Sequence[Manifest]:
        """What was joined, in order."""
        return self._manifests

    def __len__(self) -> int:
        """Count the rows of all."""
        return int(self._first[-1])

    @property
    def lengths_16k(self) -> NDArray[np.int64]:
        """(rows,) samples at 16 kHz."""
        return np.concatenate([Rows.of(manifest.utterances).lengths_16k for manifest in self._manifests])

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return sum(manifest.duration_s for manifest in self._manifests)

    def column(self, name: Column) -> Iterator[Strings]:
        """Yield the values of one column; paths are those of the manifests, before they were joined."""
        for manifest, corpus in zip(self._manifests, self._names, strict=True):
            if name == "corpus":
                yield np.full(len(manifest.utterances), corpus, object)
            else:
                yield from Rows.of(manifest.utterances).column(name)

    def list_lengths(self, lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield `id<TAB>length` for each row that is wanted, as its manifest lists them."""
        for manifest, first, last in zip(self._manifests, self._first, self._first[1:], strict=False):
            yield from Rows.of(manifest.utterances).list_lengths(lengths[first:last], is_wanted[first:last])

    def row(self, index: int) -> Utterance:
        """Make the utterance with an index from 0 on."""
        part = int(self._first.searchsorted(index, side="right")) - 1
        manifest = self._manifests[part]
        row = manifest.utterances[index - int(self._first[part])]
        return dataclasses.replace(row, path=manifest.absolute_path(row), corpus=self._names[part])


class Ids(Sequence[str]):
    """The ids of some utterances, each looked up when it is asked for."""

    def __init__(self, utterances: Sequence[Utterance], indices: NDArray[np.int64]) -> None:
        """Give the ids of `utterances` at `indices`, (ids,) int64."""
        self._utterances, self._indices = utterances, indices

    def __len__(self) -> int:
        """Count them."""
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Look up one, or several."""
        if isinstance(place, slice):
            return [self._utterances[index].id for index in self._indices[place].tolist()]
        return self._utterances[int(self._indices[place])].id

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of ids."""
        return isinstance(other, Sequence) and self[:] == [*other]

    __hash__ = None  # type: ignore[assignment]


def id_of(path: str) -> str:
    """Return the id that audio gets where nothing gives it one: its path without suffix, `-` for `/`.

    Examples:
        >>> id_of("a/b.flac"), id_of("shards/0.tar:512:9000")
        ('a-b', 'shards-0-512')
    """
    found = Place.parse(path, Path())
    stem = Path(path if found.size is None else found.path).with_suffix("").as_posix().replace("/", "-")
    return stem if found.size is None else f"{stem}-{found.offset}"


def part_id_of(key: str, start_s: float, end_s: float) -> str:
    """Return the id that a part of a file gets where nothing gives it one: the file's, and its milliseconds.

    Examples:
        >>> part_id_of("calls-7", 2.5, 3.5)
        'calls-7-00002500-00003500'
    """
    start_ms, end_ms = (math.floor(round(1000 * at_s, 6)) for at_s in (start_s, end_s))
    return f"{key}-{start_ms:08d}-{end_ms:08d}"


def refuse_duplicate_ids(utterances: Iterable[Utterance], *, where: str) -> None:
    """Raise a ManifestError, which begins with `where`, unless every utterance has an id of its own."""
    seen: dict[str, str] = {}
    for utterance in utterances:
        if not utterance.id:
            raise ManifestError(f"{where}: {utterance.path} has the id ''; name it")
        if utterance.id in seen:
            raise ManifestError(
                f"{where}: the id {utterance.id!r} belongs to {seen[utterance.id]} and to {utterance.path}; "
                "rename one of them, or remove a row listed twice"
            )
        seen[utterance.id] = utterance.path


def hash_ids(ids: Strings) -> NDArray[np.int64]:
    """Return Python's hash of each id, (ids,) int64; of the same process alone."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def refuse_repeated_ids(utterances: Sequence[Utterance], hashes: Sequence[NDArray[np.int64]], *, where: str) -> None:
    """Compare all ids; only of those whose hashes are equal the utterances are looked at.

    Args:
        utterances: all.
        hashes: of their ids, by `hash_ids`, in order.
        where: they are listed.

    Raises:
        ManifestError: one is empty, or belongs to two utterances.
    """
    found = np.concatenate(hashes)
    ordered = np.sort(found)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    suspects = np.flatnonzero(np.isin(found, [*repeated.tolist(), hash("")]))
    refuse_duplicate_ids((utterances[index] for index in suspects.tolist()), where=where)
