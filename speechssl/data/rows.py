"""Utterances by the million: what planning has to know of all of them as arrays, a row when it is looked at.

`Rows` is what a manifest holds that is no list in memory. The functions take any sequence of utterances.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from speechssl.data.manifest import Manifest, Utterance, refuse_duplicate_ids

__all__ = [
    "Chosen",
    "Ids",
    "Joined",
    "Rows",
    "column",
    "hash_ids",
    "lengths_16k",
    "list_lengths",
    "refuse_repeated_ids",
]

Column = Literal["id", "path", "language", "corpus", "root"]
Strings = NDArray[np.object_]  # str, or None

_BLOCK = 1 << 16  # rows at a time, where all are gone through
_LONGEST = 2**48  # samples; a manifest may claim more, arrays of 64 bits do not hold what follows from it


class Rows(Sequence[Utterance], ABC):
    """Utterances that are made when they are looked at; slices are views."""

    @property
    @abstractmethod
    def lengths_16k(self) -> NDArray[np.int64]:
        """(rows,) samples at 16 kHz."""

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
        """Yield what the function of this name does."""
        yield from _list_lengths(self.column("id"), lengths, is_wanted)

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
        return np.concatenate([lengths_16k(manifest.utterances) for manifest in self._manifests])

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
                yield from column(manifest.utterances, name)

    def list_lengths(self, lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield what the function of this name does."""
        for manifest, first, last in zip(self._manifests, self._first, self._first[1:], strict=False):
            yield from list_lengths(manifest.utterances, lengths[first:last], is_wanted[first:last])

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


def lengths_16k(utterances: Sequence[Utterance]) -> NDArray[np.int64]:
    """Return (utterances,) samples at 16 kHz, as `Utterance.num_samples_16k` counts them."""
    if isinstance(utterances, Rows):
        return utterances.lengths_16k
    return np.fromiter((min(row.num_samples_16k, _LONGEST) for row in utterances), np.int64, len(utterances))


def column(utterances: Sequence[Utterance], name: Column) -> Iterator[Strings]:
    """Yield the values of one column, many at a time, in order."""
    if isinstance(utterances, Rows):
        yield from utterances.column(name)
        return
    rows = iter(utterances)
    while block := [getattr(row, name) for row in islice(rows, _BLOCK)]:
        yield np.array(block, object)


def list_lengths(
    utterances: Sequence[Utterance], lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]
) -> Iterator[bytes]:
    """Yield a line `id<TAB>length` for each utterance where `is_wanted` holds, many lines at a time.

    Args:
        utterances: their ids are listed.
        lengths: (utterances,) int64.
        is_wanted: (utterances,) bool.
    """
    if isinstance(utterances, Rows):
        yield from utterances.list_lengths(lengths, is_wanted)
    else:
        yield from _list_lengths(column(utterances, "id"), lengths, is_wanted)


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


def _list_lengths(ids: Iterator[Strings], lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]) -> Iterator[bytes]:
    for block, place in _blocks(ids):
        wanted = is_wanted[place]
        pairs = zip(block[wanted].tolist(), lengths[place][wanted].tolist(), strict=True)
        yield "".join(map("%s\t%d\n".__mod__, pairs)).encode()


def _blocks(columns: Iterator[Strings]) -> Iterator[tuple[Strings, slice]]:
    """Yield values, and where they stand among all."""
    begin = 0
    for values in columns:
        yield values, slice(begin, begin + len(values))
        begin += len(values)
