"""Parquet, as loaded by `datasets`: `data/00012.parquet` has a row per utterance, with its id and a column per stream.

A cell is a list of rows, each a list of `dim` numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.atomic import Draft
from speechssl.data.utterances import Manifest
from speechssl.errors import LabelError, PackageError
from speechssl.features.description import Entry, FeaturesDescription, Stream
from speechssl.features.feature_format import Array, Place

__all__ = ["Parquet"]

_GROUP_BYTES = 2**24  # bytes of features in a row group, which is read at once


class Parquet:
    """The format `parquet`."""

    def require(self) -> None:
        """Check that pyarrow is installed."""
        _pyarrow()

    def part(self, folder: Path, number: int, description: FeaturesDescription) -> "_Part":
        """Start a part."""
        return _Part(folder / "data" / f"{number:05d}.parquet", description)

    def finish(
        self, folder: Path, description: FeaturesDescription, entries: Sequence[Entry], manifest: Manifest
    ) -> None:
        """Do nothing: the parts are complete."""

    @contextmanager
    def reader(self, folder: Path, stream: Stream, description: FeaturesDescription) -> Iterator["_Reader"]:
        """Open one stream."""
        yield _Reader(folder / "data", stream)


class _Part:
    def __init__(self, path: Path, description: FeaturesDescription) -> None:
        pa = _pyarrow()
        self._draft = Draft(path)
        kind = pa.from_numpy_dtype(np.dtype(description.dtype))
        columns = [(each.name, pa.list_(pa.list_(kind, each.dim))) for each in description.streams]
        self._schema = pa.schema([("id", pa.string()), *columns])
        self._writer = pa.parquet.ParquetWriter(
            self._draft.temporary, self._schema, compression="none", use_dictionary=False, write_statistics=False
        )
        self._held: list[tuple[str, Sequence[Array]]] = []
        self._bytes = self._count = 0

    def add(self, key: str, arrays: Sequence[Array]) -> Place:
        self._held.append((key, arrays))
        self._count += 1
        self._bytes += sum(array.nbytes for array in arrays)
        if self._bytes >= _GROUP_BYTES:
            self._flush()
        return self._draft.path.name, str(self._count - 1)

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._draft.publish()

    def drop(self) -> None:
        self._writer.close()
        self._draft.drop()

    def _flush(self) -> None:
        if not self._held:
            return
        pa = _pyarrow()
        columns = [pa.array([key for key, _ in self._held], pa.string())]
        for number in range(len(self._held[0][1])):
            arrays = [utterance[number] for _, utterance in self._held]
            offsets = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
            values = pa.array(np.concatenate(arrays).ravel())
            rows = pa.FixedSizeListArray.from_arrays(values, arrays[0].shape[1])
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), rows))
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=len(self._held))
        self._held, self._bytes = [], 0


class _Reader:
    def __init__(self, folder: Path, stream: Stream) -> None:
        self._folder, self._stream = folder, stream
        self._name = ""
        self._file: Any = None
        self._firsts: list[int] = []  # index of the first utterance of each row group
        self._group: tuple[int, Any] | None = None

    def read(self, entry: Entry) -> Array:
        path, row = self._folder / entry.file, int(entry.place)
        pa = _pyarrow()
        try:
            if self._name != entry.file:
                self._file, self._name, self._group = pa.parquet.ParquetFile(path), entry.file, None
                sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
                self._firsts = np.cumsum([0, *sizes]).tolist()
            group = int(np.searchsorted(self._firsts, row, side="right")) - 1
            if self._group is None or self._group[0] != group:
                table = self._file.read_row_group(group, columns=[self._stream.name], use_threads=False)
                self._group = group, table.column(0).combine_chunks()
            cell = self._group[1][row - self._firsts[group]].values  # (rows) of lists
            return cell.flatten().to_numpy(zero_copy_only=False).reshape(-1, self._stream.dim)
        except (OSError, pa.ArrowInvalid, IndexError) as error:
            raise LabelError(f"{path}: utterance {row} cannot be read ({error}); extract the features again") from error


def _pyarrow() -> Any:
    try:
        import pyarrow  # optional: the extra `parquet`
        import pyarrow.parquet
    except ImportError as error:
        raise PackageError("features in Parquet need pyarrow: pip install 'speechssl[parquet]'") from error
    return pyarrow
