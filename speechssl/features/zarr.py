"""Zarr 3: the folder is a store, and `zarr.open(FOLDER)["STREAM/ID"]` the (rows, dim) array of an utterance."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechssl.data.manifest import Manifest
from speechssl.errors import LabelError, PackageError
from speechssl.features.description import Entry, FeaturesDescription, Stream
from speechssl.features.format import Array, Place
from speechssl.features.naming import name_of_id

__all__ = ["Zarr"]

_CHUNK = "c/0/0"  # file of the only one of an array


class Zarr:
    """The format `zarr`."""

    def require(self) -> None:
        """Look whether zarr is there."""
        _zarr()

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> "_Part":
        """Begin a part."""
        return _Part(folder, [stream.name for stream in description.streams])

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Add nothing: groups were made with the arrays in them."""

    @contextmanager
    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> Iterator["_Reader"]:
        """Open one stream."""
        yield _Reader(folder / stream.name)


class _Part:
    """Arrays written at once, uncompressed and in one chunk: the index says which are whole."""

    def __init__(self, folder: Path, streams: Sequence[str]) -> None:
        self._folder, self._streams = folder, streams

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        zarr, name = _zarr(), name_of_id(key)
        for stream, array in zip(self._streams, arrays, strict=True):
            zarr.create_array(
                self._folder,
                name=f"{stream}/{name}",
                data=array,
                chunks=array.shape,
                compressors=None,
                overwrite=True,
                config={"write_empty_chunks": True},  # also of zeros: a chunk that is missing is then a loss
            )
        return "", name

    def close(self) -> None:
        pass

    def drop(self) -> None:
        pass


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, entry: Entry) -> Array:
        path = self._folder / entry.place
        if not (path / _CHUNK).exists():  # zarr would give zeros
            raise LabelError(f"{path}: {_CHUNK} is missing; extract the features again")
        try:
            return _zarr().open_array(path, mode="r")[:]
        except (OSError, ValueError, KeyError) as error:
            raise LabelError(f"{path}: cannot be read ({error}); extract the features again") from error


def _zarr() -> Any:
    try:
        import zarr  # optional: the extra `zarr`
    except ImportError as error:
        raise PackageError("features in Zarr need zarr: pip install 'speechssl[zarr]'") from error
    return zarr
