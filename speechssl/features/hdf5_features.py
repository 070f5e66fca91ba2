"""HDF5: `STREAM.h5` has a dataset (rows, dim) per utterance, by external links into a file per part, `STREAM/00012.h5`.

Links are relative, so that a folder can move. Several processes cannot write a single file, and it is damaged if one of
them is killed; hence the parts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechssl.atomic import atomic
from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError, PackageError
from speechssl.features.description import Entry, FeaturesDescription, Stream, name_of_id
from speechssl.features.feature_format import Array, OpenFiles, Place

__all__ = ["Hdf5"]


class Hdf5:
    """The format `hdf5`."""

    def require(self) -> None:
        """Check that h5py is installed."""
        _h5py()

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> "_Part":
        """Start a part."""
        return _Part([folder / stream.name / f"{number:05d}.h5" for stream in description.streams])

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Write a file of links for each stream."""
        h5py = _h5py()
        for stream in description.streams:
            with (
                atomic(folder / f"{stream.name}.h5") as temporary,
                h5py.File(temporary, "w", libver="latest") as file,
            ):
                for entry in entries:
                    file[entry.place] = h5py.ExternalLink(f"{stream.name}/{entry.file}", entry.place)

    @contextmanager
    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> Iterator["_Reader"]:
        """Open one stream."""
        reader = _Reader(folder / stream.name)
        try:
            yield reader
        finally:
            reader.close()


class _Part(OpenFiles):
    def __init__(self, paths: Sequence[Path]) -> None:
        h5py = _h5py()
        super().__init__(paths, lambda path: h5py.File(path, "w", libver="latest", track_order=False))

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        name = name_of_id(key)
        for file, array in zip(self._files, arrays, strict=True):
            file.create_dataset(name, data=array, track_times=False)  # no time stamps, for reproducible files
        return self._paths[0].name, name


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._file: Any = None

    def read(self, entry: Entry) -> Array:
        path = self._folder / entry.file
        try:
            if self._name != entry.file:
                self.close()
                self._file = _h5py().File(path, "r")
                self._name = entry.file
            return self._file[entry.place][()]
        except (OSError, KeyError) as error:
            raise LabelError(f"{path}: {entry.place} cannot be read ({error}); extract the features again") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._name, self._file = "", None


def _h5py() -> Any:
    try:
        import h5py  # optional: the extra `hdf5`
    except ImportError as error:
        raise PackageError("features in HDF5 need h5py: pip install 'speechssl[hdf5]'") from error
    return h5py
