"""Zarr 3: the folder is a store, and `zarr.open(FOLDER)["STREAM/ID"]` is the (rows, dim) array of an utterance.

Each array is a small JSON file and one uncompressed chunk, written by the specification
(https://zarr-specs.readthedocs.io, core version 3) without the package zarr, which takes 4 ms per array, as long as a
small model takes for a second of speech.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError
from speechssl.features.description import Entry, FeaturesDescription, Stream, name_of_id
from speechssl.features.feature_format import Array, Place

__all__ = ["Zarr"]

_METADATA = "zarr.json"
_CHUNK = "c/0/0"  # file of the only chunk of an array
_GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}


class Zarr:
    """The format `zarr`."""

    def require(self) -> None:
        """Do nothing: numpy is always installed."""

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> "_Part":
        """Start a part."""
        return _Part([folder / stream.name for stream in description.streams], description.dtype)

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Write group metadata for the folder, each stream, and the folders in names of long ids."""
        below = {parent for entry in entries for parent in Path(entry.place).parents}
        streams = {folder / stream.name / parent for stream in description.streams for parent in below}
        for group in (folder, *sorted(streams)):
            (group / _METADATA).write_text(json.dumps(_GROUP, indent=1), encoding="utf-8")

    @contextmanager
    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> Iterator["_Reader"]:
        """Open one stream."""
        yield _Reader(folder / stream.name, stream.dim, np.dtype(description.dtype).newbyteorder("<"))


class _Part:
    """Writes arrays directly; the index lists those that are complete."""

    def __init__(self, folders: Sequence[Path], dtype: str) -> None:
        self._folders, self._dtype = folders, dtype

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        name = name_of_id(key)
        for folder, array in zip(self._folders, arrays, strict=True):
            chunk = folder / name / _CHUNK
            chunk.parent.mkdir(parents=True, exist_ok=True)
            chunk.write_bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
            metadata = json.dumps(_array(array.shape, self._dtype), indent=1)
            (folder / name / _METADATA).write_text(metadata, encoding="utf-8")
        return "", name

    def close(self) -> None:
        pass

    def drop(self) -> None:
        pass


def _array(shape: tuple[int, int], dtype: str) -> dict[str, object]:
    """Return the metadata of an array in one chunk."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }


class _Reader:
    def __init__(self, folder: Path, dim: int, dtype: np.dtype[np.floating]) -> None:
        self._folder, self._dim, self._dtype = folder, dim, dtype

    def read(self, entry: Entry) -> Array:
        path = self._folder / entry.place / _CHUNK
        try:
            return np.fromfile(path, self._dtype).reshape(-1, self._dim)
        except (OSError, ValueError) as error:
            raise LabelError(f"{path}: cannot be read ({error}); extract the features again") from error
