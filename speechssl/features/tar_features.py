"""Shards of raw rows, which k-means reads without loading them: `STREAM/00012.rows` holds only the rows of a part.

Each stream is a folder in the format of `speechssl.units.feature_shards`, for `ShardPoints`. Files are memory-mapped.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from speechssl.atomic import write_atomically
from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError
from speechssl.features.description import Entry, FeaturesDescription, Stream
from speechssl.features.feature_format import Array, OpenFiles, Place
from speechssl.units.feature_shards import HEADER, VERSION

__all__ = ["Shards"]


class Shards:
    """The format `shards`."""

    def require(self) -> None:
        """Do nothing: numpy is always installed."""

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> "_Part":
        """Start a part."""
        return _Part([folder / stream.name / f"{number:05d}.rows" for stream in description.streams])

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Write the header of each stream."""
        rows: dict[str, int] = {}
        for entry in entries:
            rows[entry.file] = rows.get(entry.file, 0) + entry.rows
        shards = [{"name": name, "rows": count} for name, count in rows.items()]
        for stream in description.streams:
            header = {"version": VERSION, "dim": stream.dim, "dtype": description.dtype, "shards": shards}
            write_atomically(folder / stream.name / HEADER, json.dumps(header, indent=1) + "\n")

    @contextmanager
    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> Iterator["_Reader"]:
        """Open one stream."""
        yield _Reader(folder / stream.name, stream.dim, np.dtype(description.dtype))


class _Part(OpenFiles):
    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths, lambda path: path.open("wb"))
        self._rows = 0

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        first = self._rows
        for file, array in zip(self._files, arrays, strict=True):
            file.write(array.data)
        self._rows += len(arrays[0])
        return self._paths[0].name, str(first)


class _Reader:
    def __init__(self, folder: Path, dim: int, dtype: np.dtype[np.floating]) -> None:
        self._folder, self._dim, self._dtype = folder, dim, dtype
        self._open: tuple[str, Array] | None = None

    def read(self, entry: Entry) -> Array:
        if self._open is None or self._open[0] != entry.file:
            path = self._folder / entry.file
            try:
                self._open = entry.file, np.memmap(path, self._dtype, "r").reshape(-1, self._dim)
            except (OSError, ValueError) as error:
                raise LabelError(f"{path}: cannot be read ({error}); extract the features again") from error
        first = int(entry.place)
        return self._open[1][first : first + entry.rows]
