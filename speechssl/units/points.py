"""The interface `Points` for points to cluster, and its implementations for tensors and streams.

Blocks hold the same rows however the input was cut into batches or shards, so that the sums over them, and with them
the centroids, are the same. `speechssl.units.feature_shards` implements the interface for files.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from speechssl.errors import LabelError

__all__ = ["BLOCK", "Points", "StreamPoints", "TensorPoints", "as_points", "block_rows", "check_finite", "reblock"]

BLOCK = 16_384  # rows of a block; the last block has fewer
_GPU_BYTES = 2**30  # bytes of a block in GPU memory, where kernel launches would dominate for small blocks

Batches = Callable[[], Iterable[Tensor | np.ndarray]]


class Points(Protocol):
    """Rows of features that can be read in order, repeatedly, and gathered by index."""

    @property
    def dim(self) -> int:
        """Number of features per row."""
        ...

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def blocks(self) -> Iterator[Tensor]:
        """Yield all rows in order as (BLOCK, dim) tensors of any float type; the next block may overwrite a block.

        On a GPU, blocks may have more rows, see `block_rows`.
        """
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Return the (len(rows), dim) float32 rows with the given ascending indices."""
        ...


class TensorPoints:
    """Points in one tensor, on any device."""

    def __init__(self, features: Tensor) -> None:
        if features.ndim != 2:
            raise ValueError(f"expected features of shape (points, dim), found {tuple(features.shape)}")
        self.features = features
        self.dim = features.shape[1]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.features)

    def blocks(self) -> Iterator[Tensor]:
        """Yield views of the tensor."""
        yield from self.features.split(block_rows(self.features))

    def gather(self, rows: Tensor) -> Tensor:
        """Return rows as float32."""
        return self.features.index_select(0, rows.to(self.features.device)).float()  # faster than indexing by brackets


class StreamPoints:
    """Points from a stream of batches of any size, which can be opened repeatedly.

    Args:
        open_stream: returns the batches, the same at each call.
        num_points: number of rows; None to read the stream once and count.

    Raises:
        LabelError: the stream is empty.
    """

    def __init__(self, open_stream: Batches, num_points: int | None = None) -> None:
        self.open_stream = open_stream
        first = next(iter(open_stream()), None)
        if first is None:
            raise LabelError("the stream of features is empty; give at least one batch")
        self.dim = _two_dimensional(first).shape[1]
        self._length = sum(len(batch) for batch in open_stream()) if num_points is None else num_points

    def __len__(self) -> int:
        """Count the rows."""
        return self._length

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows of the batches in blocks.

        Raises:
            LabelError: a batch has another dimension, or the number of rows has changed.
        """
        seen = 0
        for block in reblock(map(_two_dimensional, self.open_stream()), self.dim, where="the stream of features"):
            seen += len(block)
            yield block
        if seen != len(self):
            raise LabelError(
                f"the stream of features gave {seen} points, expected {len(self)} as before; "
                "a stream has to give the same batches each time it is opened"
            )

    def gather(self, rows: Tensor) -> Tensor:
        """Return rows as float32, in one pass over the stream."""
        found, start = [], 0
        for block in self.blocks():
            first, last = torch.searchsorted(rows, torch.tensor([start, start + len(block)])).tolist()
            found.append(block[rows[first:last].to(block.device) - start].float())
            start += len(block)
        return torch.cat(found)


def as_points(features: "Tensor | np.ndarray | Batches | Points") -> Points:
    """Wrap a tensor, an array or a function that opens a stream; `Points` are returned unchanged."""
    if isinstance(features, np.ndarray):
        features = torch.from_numpy(features)
    if isinstance(features, Tensor):
        return TensorPoints(features)
    if callable(features):
        return StreamPoints(features)
    if not hasattr(features, "blocks"):
        raise LabelError(
            f"expected features of the shape (points, dim), found {type(features).__name__}; give a tensor or an "
            "array, as torch.cat makes of several"
        )
    return features


def reblock(batches: Iterable[Tensor], dim: int, *, where: str) -> Iterator[Tensor]:
    """Cut batches of any size into blocks of `BLOCK` rows.

    Raises:
        LabelError: a batch has another dimension.
    """
    waiting: list[Tensor] = []
    num_waiting = 0
    for batch in batches:
        if batch.shape[1] != dim:
            raise LabelError(
                f"{where}: features have {batch.shape[1]} dimensions, expected {dim} as in the first batch; "
                "give features of one kind only"
            )
        while num_waiting + len(batch) >= BLOCK:
            waiting.append(batch[: BLOCK - num_waiting])
            batch = batch[BLOCK - num_waiting :]
            yield waiting[0] if len(waiting) == 1 else torch.cat(waiting)
            waiting, num_waiting = [], 0
        if len(batch):
            waiting.append(batch)
            num_waiting += len(batch)
    if waiting:
        yield torch.cat(waiting)


def block_rows(features: Tensor) -> int:
    """Return how many rows of (points, dim) features to process at once on their device."""
    if features.device.type == "cpu":
        return BLOCK
    return max(1, _GPU_BYTES // (4 * features.shape[1] * BLOCK)) * BLOCK


def check_finite(block: Tensor) -> None:
    """Check that a block has no NaN or infinite values.

    Raises:
        LabelError: it has some.
    """
    if not bool(torch.isfinite(block.sum(dtype=torch.float32))) and not bool(torch.isfinite(block).all()):
        raise LabelError(
            "the features to cluster hold NaN or infinite values; check the audio with `speechssl manifest check`, "
            "and the model that made them"
        )


def _two_dimensional(batch: Tensor | np.ndarray) -> Tensor:
    batch = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
    if batch.ndim != 2:
        raise LabelError(f"a batch of features has shape {tuple(batch.shape)}, expected (points, dim)")
    return batch
