"""Utterances and manifests in memory, as objects and as columns; independent of file formats.

An `Utterance` is an audio file, or a part of one; a `Manifest` is utterances under one root. `Rows` holds millions of
utterances as columns: planning uses the lengths of all as one array, and an `Utterance` is created on access.
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

LONGEST = 2**48  # samples; longer claims of a manifest are capped, or 64-bit arithmetic on them would overflow

_BLOCK = 1 << 16  # rows per block when all rows are read


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One audio file, or a part of one, with its metadata."""

    id: str
    path: str  # relative to the manifest's root, with forward slashes; for archive members and URLs see `Place`
    num_samples: int  # at the file's own rate
    sample_rate: int
    channels: int
    start: int = 0  # first sample in the file, at its own rate
    file_samples: int | None = None  # samples of the whole file, where the utterance is a part of it
    channel: int | None = None  # channel that is used, counted from 0; None: the mean of all
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    split: str | None = None
    decoder: str | None = None  # `ffmpeg VERSION` that gave the length; None: libsndfile, or not known
    corpus: str | None = None  # the manifest that lists it, where several are joined; not a column of the file
    more: tuple[tuple[str, str], ...] = ()  # further columns of a text manifest that are not empty, such as emotion

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.num_samples / self.sample_rate

    @property
    def segment(self) -> Segment | None:
        """The part of the file; None for all of it."""
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
        """Seconds of audio of all utterances."""
        return Rows.of(self.utterances).duration_s

    def audio_path(self, utterance: Utterance) -> Path:
        """Return the path of the audio file of `utterance`; only meaningful for a local file."""
        return self.root / utterance.path

    def place(self, utterance: Utterance) -> Place:
        """Return the location of the bytes of `utterance`."""
        return Place.parse(utterance.path, self.root)

    def absolute_path(self, utterance: Utterance) -> str:
        """Return the absolute path of `utterance`; a URL unchanged."""
        return utterance.path if is_url(utterance.path) else str((self.root / utterance.path).resolve())


class Rows(Sequence[Utterance], ABC):
    """Utterances as columns. An `Utterance` is created on access; slices are views."""

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
        """Yield the values of one column in blocks, in the order of the rows."""

    @abstractmethod
    def row(self, index: int) -> Utterance:
        """Return the utterance with an index from 0 on."""

    def list_lengths(self, lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield a line `id<TAB>length` for each row where `is_wanted` holds, in blocks of lines.

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
        """Return an utterance, or a view of some rows."""
        if isinstance(place, slice):
            return Chosen(self, np.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return self.row(place % len(self))


class Listed(Rows):
    """Rows over a sequence of utterances in memory."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        """Wrap `utterances`."""
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
        """Yield the values of one column in blocks."""
        rows = iter(self._utterances)
        while block := [getattr(row, name) for row in islice(rows, _BLOCK)]:
            yield np.array(block, object)

    def row(self, index: int) -> Utterance:
        """Return the utterance with an index from 0 on."""
        return self._utterances[index]


class Chosen(Rows):
    """A selection of rows."""

    def __init__(self, rows: Rows, indices: NDArray[np.int64]) -> None:
        """Select the rows `indices`, (chosen,) int64, in that order."""
        self._rows, self._indices = rows, indices

    def __len__(self) -> int:
        """Return the number of rows selected."""
        return len(self._indices)

    @property
    def lengths_16k(self) -> NDArray[np.int64]:
        """(rows,) samples at 16 kHz."""
        return self._rows.lengths_16k[self._indices]

    @property
    def duration_s(self) -> float:
        """Seconds of audio, each row rounded to whole samples at 16 kHz."""
        return float(self.lengths_16k.sum()) / 16_000

    def column(self, name: Column) -> Iterator[Strings]:
        """Yield the values of one column in one block; needs the whole column in memory."""
        yield np.concatenate([*self._rows.column(name)])[self._indices]

    def row(self, index: int) -> Utterance:
        """Return the utterance with an index from 0 on."""
        return self._rows.row(int(self._indices[index]))


class Joined(Rows):
    """The rows of several manifests, with absolute paths; `corpus` names the manifest of a row."""

    def __init__(self, manifests: Sequence[Manifest], names: Sequence[str]) -> None:
        """Join `manifests` with `names` in order.

        Raises:
            ManifestError: two manifests share an id.
        """
        self._manifests, self._names = tuple(manifests), tuple(names)
        self._first = np.cumsum([0, *(len(manifest.utterances) for manifest in manifests)])
        refuse_repeated_ids(self, [hash_ids(ids) for ids in self.column("id")], where=", ".join(names))

    @property
    def manifests(self) -> Sequence[Manifest]:
        """The manifests, in order."""
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
        """Yield the values of one column in blocks; paths are relative, as in the manifests."""
        for manifest, corpus in zip(self._manifests, self._names, strict=True):
            if name == "corpus":
                yield np.full(len(manifest.utterances), corpus, object)
            else:
                yield from Rows.of(manifest.utterances).column(name)

    def list_lengths(self, lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield a line `id<TAB>length` for each row where `is_wanted` holds, in blocks of lines."""
        for manifest, first, last in zip(self._manifests, self._first, self._first[1:], strict=False):
            yield from Rows.of(manifest.utterances).list_lengths(lengths[first:last], is_wanted[first:last])

    def row(self, index: int) -> Utterance:
        """Return the utterance with an index from 0 on."""
        part = int(self._first.searchsorted(index, side="right")) - 1
        manifest = self._manifests[part]
        row = manifest.utterances[index - int(self._first[part])]
        return dataclasses.replace(row, path=manifest.absolute_path(row), corpus=self._names[part])


class Ids(Sequence[str]):
    """The ids of some utterances, looked up on access."""

    def __init__(self, utterances: Sequence[Utterance], indices: NDArray[np.int64]) -> None:
        """View the ids of `utterances` at `indices`, (ids,) int64."""
        self._utterances, self._indices = utterances, indices

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Return one id, or a list of several."""
        if isinstance(place, slice):
            return [self._utterances[index].id for index in self._indices[place].tolist()]
        return self._utterances[int(self._indices[place])].id

    def __eq__(self, other: object) -> bool:
        """Compare with any sequence of ids."""
        return isinstance(other, Sequence) and self[:] == [*other]

    __hash__ = None  # type: ignore[assignment]


def id_of(path: str) -> str:
    """Return the default id of a file: its path without suffix, `-` for `/`.

    Examples:
        >>> id_of("a/b.flac"), id_of("shards/0.tar:512:9000")
        ('a-b', 'shards-0-512')
    """
    found = Place.parse(path, Path())
    stem = Path(path if found.size is None else found.path).with_suffix("").as_posix().replace("/", "-")
    return stem if found.size is None else f"{stem}-{found.offset}"


def part_id_of(key: str, start_s: float, end_s: float) -> str:
    """Return the default id of a part of a file: the file's id, start and end in milliseconds.

    Examples:
        >>> part_id_of("calls-7", 2.5, 3.5)
        'calls-7-00002500-00003500'
    """
    start_ms, end_ms = (math.floor(round(1000 * at_s, 6)) for at_s in (start_s, end_s))
    return f"{key}-{start_ms:08d}-{end_ms:08d}"


def refuse_duplicate_ids(utterances: Iterable[Utterance], *, where: str) -> None:
    """Raise a ManifestError, which begins with `where`, unless every utterance has a unique id."""
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
    """Return Python's hash of each id, (ids,) int64; it differs between processes."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def refuse_repeated_ids(utterances: Sequence[Utterance], hashes: Sequence[NDArray[np.int64]], *, where: str) -> None:
    """Refuse repeated or empty ids, by hash: utterances are read only where two hashes are equal.

    Args:
        utterances: all utterances.
        hashes: `hash_ids` of their ids, in order.
        where: beginning of the error message, such as the manifest's path.

    Raises:
        ManifestError: an id is empty, or belongs to two utterances.
    """
    found = np.concatenate(hashes)
    ordered = np.sort(found)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    suspects = np.flatnonzero(np.isin(found, [*repeated.tolist(), hash("")]))
    refuse_duplicate_ids((utterances[index] for index in suspects.tolist()), where=where)
