"""Reads and writes manifests in Parquet, for millions of rows, with the columns of the text format.

pyarrow reads and writes. An open manifest keeps only the lengths in memory; a row is read with its row group of 2048,
which takes about half a millisecond. zstd makes a manifest a tenth of the size, and reading a row takes as long.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.atomic import atomic
from speechssl.data.utterances import LONGEST, Column, Rows, Strings, Utterance, hash_ids, refuse_repeated_ids
from speechssl.errors import ManifestError

__all__ = ["ParquetRows", "pyarrow_package", "write_parquet"]

_NAMES = ("id", "path")
_NUMBERS = ("samples", "rate", "channels")
_PART = ("start", "file_samples")
_CHANNEL = "channel"
_TEXTS = ("text", "speaker", "language", "split", "decoder")
_ROOT: Literal["root"] = "root"  # the same in every row
_ATTRIBUTES = {"samples": "num_samples", "rate": "sample_rate"}  # columns named otherwise in `Utterance`

_GROUP = 2048  # rows in a row group, which is read for any one of them
_BLOCK = 1 << 16  # rows per block when all rows are read
_FASTEST = 2**31  # highest sample rate, in Hz


class ParquetRows(Rows):
    """The utterances of a Parquet file, in order."""

    _group: tuple[int, Any]  # index of the row group read last, and its table

    def __init__(self, path: Path) -> None:
        """Open and check a file.

        Raises:
            ManifestError: the file is missing, not Parquet, lacks required columns, or has a row that is invalid in
                the text format too.
        """
        self._path = path
        self._lock = Lock()
        self._open()
        columns = self._file.schema_arrow.names
        missing = [name for name in _NAMES + _NUMBERS if name not in columns]
        unknown = [name for name in columns if name not in (*_NAMES, *_NUMBERS, *_PART, _CHANNEL, *_TEXTS, _ROOT)]
        if missing or unknown or len(set(columns)) < len(columns):
            raise ManifestError(
                f"{path}: expected the columns {' '.join(_NAMES + _NUMBERS)} and any of "
                f"{' '.join((*_PART, _CHANNEL, *_TEXTS, _ROOT))}, found {' '.join(columns)}; write it with "
                "`speechssl manifest convert`"
            )
        self._columns = columns
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._first = np.cumsum([0, *counts])
        if not len(self):
            raise ManifestError(f"{path}: lists no utterances; build it again from a folder that holds audio")
        self._lengths_16k, self._duration_s = self._check_rows()
        self.root = self._one_root()

    def __len__(self) -> int:
        """Count the rows."""
        return int(self._first[-1])

    def __iter__(self) -> Iterator[Utterance]:
        """Iterate over the rows, reading them in blocks."""
        for batch in self._batches(self._columns):
            values = batch.to_pydict()
            yield from (
                _utterance(dict(zip(values, cells, strict=True))) for cells in zip(*values.values(), strict=True)
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file, which another process opens itself."""
        return {key: value for key, value in vars(self).items() if key not in ("_file", "_lock", "_group")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again."""
        vars(self).update(state)
        self._lock = Lock()
        self._open()

    @property
    def lengths_16k(self) -> NDArray[np.int64]:
        """(rows,) samples at 16 kHz."""
        return self._lengths_16k

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self._duration_s

    def column(self, name: Column) -> Iterator[Strings]:
        """Yield the values of one column in blocks."""
        if name not in self._columns:
            yield np.full(len(self), None, object)
            return
        for batch in self._batches([name]):
            yield batch.column(0).to_numpy(zero_copy_only=False)

    def list_lengths(self, lengths: NDArray[np.int64], is_wanted: NDArray[np.bool_]) -> Iterator[bytes]:
        """Yield the lines, formatted by pyarrow in a quarter of the time that Python takes."""
        pa = pyarrow_package()
        begin = 0
        for batch in self._batches(["id"]):
            wanted = is_wanted[begin : begin + batch.num_rows]
            ids = batch.column(0).cast(pa.string()).filter(pa.array(wanted))
            numbers = pa.array(lengths[begin : begin + batch.num_rows][wanted]).cast(pa.string())
            lines = pa.compute.binary_join_element_wise(ids, numbers, "\t")
            joined = pa.compute.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")
            yield joined[0].as_py().encode() + b"\n" if len(lines) else b""
            begin += batch.num_rows

    def row(self, index: int) -> Utterance:
        """Read the utterance with an index from 0 on."""
        number = int(self._first.searchsorted(index, side="right")) - 1
        held, group = self._group
        if held != number:
            with self._lock:
                group = self._file.read_row_group(number, use_threads=False)
                self._group = (number, group)
        cells = group.slice(index - int(self._first[number]), 1).to_pydict()
        return _utterance({name: values[0] for name, values in cells.items()})

    def _open(self) -> None:
        parquet = pyarrow_package().parquet
        try:
            self._file = parquet.ParquetFile(self._path, memory_map=True)
        except OSError as error:
            raise ManifestError(f"{self._path}: cannot read the manifest ({error}); name an existing file") from error
        except pyarrow_package().ArrowInvalid as error:
            raise ManifestError(f"{self._path}: not a Parquet file ({error}); build the manifest again") from error
        self._group = (-1, None)

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        """Read columns in blocks; in this thread, as processes are forked from this one later."""
        try:
            yield from self._file.iter_batches(_BLOCK, columns=columns, use_threads=False)
        except (OSError, pyarrow_package().ArrowInvalid) as error:
            raise ManifestError(f"{self._path}: damaged ({error}); copy it again, or build it again") from error

    def _check_rows(self) -> tuple[NDArray[np.int64], float]:
        """Check all rows, and return their lengths at 16 kHz and their duration in seconds."""
        if len({*_PART} & {*self._columns}) == 1:
            raise ManifestError(f"{self._path}: has only one of the columns {' and '.join(_PART)}; write both")
        lengths, hashes, seconds, begin = [], [], 0.0, 0
        for batch in self._batches(self._columns):
            columns = {name: batch.column(name) for name in self._columns}
            for name in (name for name in _NAMES + _TEXTS if name in columns):
                columns[name] = _strings(columns[name], f"{self._path}: {name}", begin)
                if name in _NAMES and columns[name].null_count:
                    raise ManifestError(f"{self._path}: {name} is missing in some rows; every utterance needs one")
            numbers = {name: _integers(columns[name], f"{self._path}: {name}") for name in self._numbers()}
            _check_numbers(numbers, str(self._path), begin)
            lengths.append(-(-np.minimum(numbers["samples"], LONGEST) * 16_000 // numbers["rate"]))
            seconds += float((numbers["samples"] / numbers["rate"]).sum())
            hashes.append(hash_ids(columns["id"].to_numpy(zero_copy_only=False)))
            begin += batch.num_rows
        refuse_repeated_ids(self, hashes, where=str(self._path))
        return np.concatenate(lengths), seconds

    def _one_root(self) -> str:
        """Return the value of the column `root`, empty if there is none."""
        found = {value or "" for block in self.column(_ROOT) for value in block} if _ROOT in self._columns else {""}
        if len(found) > 1:
            raise ManifestError(
                f"{self._path}: {len(found)} different roots, {', '.join(sorted(found)[:3])}; join the manifests with "
                "`speechssl manifest merge`, which makes it one"
            )
        return found.pop()

    def _numbers(self) -> list[str]:
        return [name for name in (*_NUMBERS, *_PART, _CHANNEL) if name in self._columns]


def write_parquet(path: Path, utterances: Iterable[Utterance], *, root: str = "") -> None:
    """Write a manifest in Parquet, atomically and without holding all rows at once.

    Args:
        path: the file.
        utterances: its rows.
        root: value of the column `root`, from `manifest.root_from`; empty for none.

    Raises:
        ManifestError: a name or text holds a tab, a line break or invalid Unicode, or a row has further columns.
    """
    pa = pyarrow_package()
    names = (*_NAMES, *_NUMBERS, *_PART, _CHANNEL, *_TEXTS)
    schema = pa.schema([(name, pa.string() if name in _NAMES + _TEXTS else pa.int64()) for name in names])
    schema = schema.append(pa.field(_ROOT, pa.string())) if root else schema
    rows = iter(utterances)
    repeated = ["speaker", "language", "split", "decoder", _ROOT]  # columns of few values, stored as dictionaries
    with (
        atomic(path) as temporary,
        pa.parquet.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=repeated) as writer,
    ):
        while block := [*islice(rows, _BLOCK)]:
            if further := next((row for row in block if row.more), None):
                raise ManifestError(
                    f"{path}: {further.id} has the further column {further.more[0][0]}, which Parquet does not hold; "
                    "keep the text form, or keep the column in a table of its own"
                )
            arrays = [_array(name, block, schema.field(name).type, path) for name in names]
            arrays += [pa.array([root] * len(block))] if root else []
            writer.write_batch(pa.record_batch(arrays, schema=schema), row_group_size=_GROUP)


def _array(name: str, rows: list[Utterance], kind: Any, path: Path) -> Any:
    """Return one column of some utterances; cells that are empty in the text format are null."""
    values = [getattr(row, _ATTRIBUTES.get(name, name)) for row in rows]
    if name == "start":
        values = [None if row.file_samples is None else row.start for row in rows]
    elif name in _TEXTS:
        values = [value or None for value in values]
    try:
        array = pyarrow_package().array(values, kind)
    except UnicodeEncodeError as error:
        raise ManifestError(f"{path}: {error.object!r} in {name} is not UTF-8; rename the file") from error
    return _strings(array, f"{path}: {name}", 0) if name in _NAMES + _TEXTS else array


def _utterance(cells: dict[str, Any]) -> Utterance:
    file_samples, channel = cells.get("file_samples"), cells.get(_CHANNEL)
    texts: dict[str, Any] = {name: cells.get(name) or None for name in _TEXTS}
    return Utterance(
        id=cells["id"],
        path=cells["path"],
        num_samples=cells["samples"],
        sample_rate=cells["rate"],
        channels=cells["channels"],
        start=cells.get("start") or 0,
        file_samples=file_samples,
        channel=None if channel == -1 else channel,
        **texts,
    )


def _integers(column: Any, where: str) -> NDArray[np.int64]:
    """Return a column as int64, nulls as -1."""
    pa = pyarrow_package()
    try:
        return column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"{where} holds {column.type}, expected whole numbers ({error})") from error


def _check_numbers(columns: dict[str, NDArray[np.int64]], where: str, begin: int) -> None:
    samples, rate, channels = (columns[name] for name in _NUMBERS)
    is_wrong = (samples <= 0) | (rate <= 0) | (rate > _FASTEST) | (channels <= 0)
    if _CHANNEL in columns:
        is_wrong |= (columns[_CHANNEL] < -1) | (columns[_CHANNEL] >= channels)  # -1: no channel named
    if _PART[0] in columns:
        start, whole = (columns[name] for name in _PART)
        is_part = whole >= 0
        is_wrong |= (is_part != (start >= 0)) | (is_part & (start + samples > whole))
    if is_wrong.any():
        index = int(is_wrong.argmax())
        found = {name: int(values[index]) for name, values in columns.items()}
        raise ManifestError(
            f"{where}: row {begin + index + 1} has {found}; expected positive whole numbers, a part that lies "
            "within its file, and a channel that it has"
        )


def _strings(column: Any, where: str, begin: int) -> Any:
    """Return a column as checked strings."""
    pa = pyarrow_package()
    try:
        column = column.cast(pa.string())
        column.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"{where} holds {column.type}, expected text in UTF-8 ({error})") from error
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(column.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    if (content < 0x0E).any():  # searching every row takes fifteen times as long
        is_wrong = pa.compute.match_substring_regex(column, "[\t\n\r]").fill_null(False).to_numpy(zero_copy_only=False)
        if is_wrong.any():
            index = int(is_wrong.argmax())
            raise ManifestError(f"{where}: row {begin + index + 1} has a tab or line break: {column[index].as_py()!r}")
    return column


def pyarrow_package() -> Any:
    """Import pyarrow with the submodules used here.

    Raises:
        ManifestError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ManifestError("a manifest in Parquet needs pyarrow: pip install 'speechssl[parquet]'") from error
    return pyarrow
