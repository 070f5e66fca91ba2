"""One numpy file per utterance: `STREAM/ID.npy`, a (rows, dim) array for `numpy.load`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as numpy_format

from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError
from speechssl.features.description import Entry, FeaturesDescription, Stream, name_of_id
from speechssl.features.feature_format import Array, Place

__all__ = ["Npy"]


class Npy:
    """The format `npy`."""

    def require(self) -> None:
        """Do nothing: numpy is always installed."""

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> "_Part":
        """Start a part."""
        return _Part([folder / stream.name for stream in description.streams])

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Do nothing: the files are complete."""

    @contextmanager
    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> Iterator["_Reader"]:
        """Open one stream."""
        yield _Reader(folder / stream.name)


class _Part:
    """Writes files directly; the index lists the utterances whose files are complete."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        file = f"{name_of_id(key)}.npy"
        for folder, array in zip(self._folders, arrays, strict=True):
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as opened:
                numpy_format.write_array(opened, array, version=(1, 0), allow_pickle=False)
        return file, ""

    def close(self) -> None:
        pass

    def drop(self) -> None:
        pass


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, entry: Entry) -> Array:
        path = self._folder / entry.file
        try:
            with path.open("rb") as file:
                numpy_format.read_magic(file)
                shape, is_fortran, dtype = numpy_format.read_array_header_1_0(file)
                if is_fortran or len(shape) != 2 or dtype.hasobject:
                    raise ValueError(f"holds {dtype} of shape {shape}")
                return np.fromfile(file, dtype, shape[0] * shape[1]).reshape(shape)
        except (OSError, ValueError) as error:
            raise LabelError(f"{path}: cannot be read ({error}); extract the features again") from error
