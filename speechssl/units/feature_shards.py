"""Features in files, for k-means on data larger than memory: shards of raw float16 or float32 rows and a header.

    folder/features.json    version, dimension, number type, and the name and rows of every shard
    folder/00000.rows       rows of the first shard, little-endian, one after the other

The header is written last, so that a half-written folder is not mistaken for a complete one. Reading maps the files
into memory and releases pages after use, so that the resident size stays small however large the files are.
"""

import json
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from speechssl.atomic import write_atomically
from speechssl.errors import LabelError
from speechssl.units.points import BLOCK, reblock

__all__ = ["HEADER", "ShardPoints", "write_shards"]

HEADER = "features.json"
VERSION = 1
_TYPES = {"float16": torch.float16, "float32": torch.float32}
_WINDOW = 2**26  # bytes of a shard that are resident at once, and read ahead
_GATHERED = 1024  # rows gathered before their pages are released; each row may have loaded 16 pages or more


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """A shard mapped into memory."""

    path: Path
    memory: mmap.mmap
    rows: Tensor  # (rows, dim) of the file's number type, a view of the mapped memory

    def let_go(self, first: int, last: int) -> None:
        """Release the pages of these bytes; they are loaded again when read."""
        first, last = first // mmap.PAGESIZE * mmap.PAGESIZE, min(last, len(self.memory))
        if last > first:
            self.memory.madvise(mmap.MADV_DONTNEED, first, last - first)

    def read_ahead(self, first: int) -> None:
        """Ask the system to load the window that starts at this byte."""
        first = first // mmap.PAGESIZE * mmap.PAGESIZE
        if first < len(self.memory):
            self.memory.madvise(mmap.MADV_WILLNEED, first, min(_WINDOW, len(self.memory) - first))


class ShardPoints:
    """Points in a folder written by `write_shards`, or in this rank's part of its shards.

    Args:
        folder: folder with the header.
        rank: which of `world_size` parts of the shards to read.
        world_size: number of parts.

    Raises:
        LabelError: the header is missing or has another version, a shard is missing or its length differs from the
            header, or there are fewer shards than processes.
    """

    def __init__(self, folder: Path, *, rank: int = 0, world_size: int = 1) -> None:
        header = _read_header(folder)
        self.dim: int = header["dim"]
        dtype = _TYPES[header["dtype"]]
        self._row_bytes = self.dim * dtype.itemsize
        listed = [shard for shard in header["shards"] if shard["rows"]]
        first, last = (len(listed) * (rank + i) // world_size for i in (0, 1))
        if first == last:
            raise LabelError(
                f"{folder}: {len(listed)} shards with rows cannot be shared by {world_size} processes; "
                "write smaller shards or start fewer processes"
            )
        self._shards = [self._open(folder / each["name"], each["rows"], dtype) for each in listed[first:last]]
        self._starts = torch.tensor([0, *(len(shard.rows) for shard in self._shards)]).cumsum(0)

    def __len__(self) -> int:
        """Count the rows."""
        return int(self._starts[-1])

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows of all shards in order; blocks are views of the mapped files where possible."""
        yield from reblock(self._windows(), self.dim, where="the shards")

    def gather(self, rows: Tensor) -> Tensor:
        """Return rows as float32."""
        found = torch.empty(len(rows), self.dim)
        edges = torch.searchsorted(rows, self._starts).tolist()
        for shard, start, first, last in zip(self._shards, self._starts.tolist(), edges, edges[1:], strict=False):
            shard.memory.madvise(mmap.MADV_RANDOM)
            for begin in range(first, last, _GATHERED):
                local = rows[begin : min(begin + _GATHERED, last)] - start
                found[begin : begin + len(local)] = shard.rows[local].float()
                shard.let_go(int(local[0]) * self._row_bytes, (int(local[-1]) + 1) * self._row_bytes)
            shard.memory.madvise(mmap.MADV_NORMAL)
        return found

    def _windows(self) -> Iterator[Tensor]:
        """Yield the shards in pieces, releasing each piece when the next but one is requested."""
        step = max(1, _WINDOW // (self._row_bytes * BLOCK)) * BLOCK  # a multiple of BLOCK, to avoid copies
        for shard in self._shards:
            shard.read_ahead(0)
            for start in range(0, len(shard.rows), step):
                shard.read_ahead((start + step) * self._row_bytes)
                yield shard.rows[start : start + step]
                shard.let_go(max(0, start - step) * self._row_bytes, start * self._row_bytes)
            shard.let_go(0, len(shard.memory))

    def _open(self, path: Path, num_rows: int, dtype: torch.dtype) -> _Shard:
        expected = num_rows * self._row_bytes
        if not path.exists():
            raise LabelError(f"{path}: the shard is missing; write the features again")
        found = path.stat().st_size
        if found != expected:
            middle = f", and ends in the middle of row {found // self._row_bytes}" if found % self._row_bytes else ""
            raise LabelError(
                f"{path}: the shard has {found} bytes, expected {expected} ({num_rows} rows of {self._row_bytes})"
                f"{middle}; write the features again"
            )
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # writable for torch, never written
        return _Shard(path=path, memory=memory, rows=torch.frombuffer(memory, dtype=dtype).view(num_rows, self.dim))


def write_shards(
    folder: Path,
    batches: Iterable[Tensor | np.ndarray],
    *,
    dtype: Literal["float16", "float32"] = "float16",
    rows_per_shard: int = 2**20,
) -> int:
    """Write features into a folder shard by shard, and then the header.

    Args:
        folder: folder without features; created if missing.
        batches: (points, dim) each, of any size; a batch may be split over shards.
        dtype: number type in the files.
        rows_per_shard: rows of each shard except the last.

    Returns:
        The number of rows written.

    Raises:
        LabelError: the folder already holds features, there is nothing to write, batches have different dimensions, or
            numbers are not finite or too large for float16.
    """
    if (folder / HEADER).exists():
        raise LabelError(f"{folder}: holds features already; name another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, str | int]] = []
    dim = 0
    for batch in batches:
        rows = torch.as_tensor(batch).to("cpu", _TYPES[dtype])
        dim = dim or rows.shape[1]
        if rows.shape[1] != dim:
            raise LabelError(
                f"{folder}: features have {rows.shape[1]} dimensions, expected {dim} as in the first batch"
            )
        if not bool(torch.isfinite(rows).all()):
            raise LabelError(f"{folder}: features hold NaN, infinite values or some too large for {dtype}")
        while len(rows):
            if not shards or shards[-1]["rows"] == rows_per_shard:
                shards.append({"name": f"{len(shards):05d}.rows", "rows": 0})
                (folder / str(shards[-1]["name"])).write_bytes(b"")
            part = rows[: rows_per_shard - int(shards[-1]["rows"])]
            with (folder / str(shards[-1]["name"])).open("ab") as file:
                file.write(part.contiguous().numpy().tobytes())
            shards[-1]["rows"] = int(shards[-1]["rows"]) + len(part)
            rows = rows[len(part) :]
    if not shards:
        raise LabelError(f"{folder}: no features to write; give at least one row")
    header = {"version": VERSION, "dim": dim, "dtype": dtype, "shards": shards}
    write_atomically(folder / HEADER, json.dumps(header, indent=1) + "\n")
    return sum(int(shard["rows"]) for shard in shards)


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        found = header["version"]
        if found == VERSION and header["dtype"] in _TYPES and header["dim"] > 0 and header["shards"]:
            return header
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{path}: cannot read the header of features ({error}); write the features again") from error
    raise LabelError(
        f"{path}: expected version {VERSION}, float16 or float32 and some shards, found version {found}, "
        f"{header['dtype']}, {len(header['shards'])} shards; write the features again"
    )
