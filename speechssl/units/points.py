"""Points to cluster, wherever they lie: in memory, in a stream, in files. k-means knows only what `Points` promises.

Blocks hold the same rows however the input was cut into batches or shards, so that the sums over them, and with them
the centroids, are the same. Files are described in `speechssl.units.feature_shards`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from speechssl.errors import LabelError

__all__ = ["BLOCK", "Points", "StreamPoints", "TensorPoints", "as_points", "block_rows", "check_finite", "reblock"]

BLOCK = 16_384  # rows of a block; the last one has fewer
_GPU_BYTES = 2**30  # of a block in the memory of a GPU, where small ones would cost more to start than to work on

Batches = Callable[[], Iterable[Tensor | np.ndarray]]


class Points(Protocol):
    """Rows of features that can be read in order, again and again, and picked by number."""

    @property
    def dim(self) -> int:
        """Features of a row."""
        ...

    def __len__(self) -> int:
        """Count the rows."""
        ...

    def blocks(self) -> Iterator[Tensor]:
        """Yield all rows in order as (BLOCK, dim) tensors of any float type; a block may be overwritten by the next.

        On a GPU they may have more rows, as `block_rows` says.
        """
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """Return the (len(rows), dim) float32 rows of the given numbers, which ascend."""
        ...


class TensorPoints:
    """Points that lie in one tensor, on any device."""

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
        return self.features.index_select(0, rows.to(self.features.device)).float()  # faster than by brackets


class StreamPoints:
    """Points that come in batches of any size, from the start each time the stream is opened.

    Args:
        open_stream: gives the batches, the same at each call.
        num_points: how many rows there are; None to read the stream once and count.

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
        """Yield the batches, cut anew.

        Raises:
            LabelError: another dimension in the middle, or other rows than the first time.
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
    """Wrap a tensor, an array or a function that opens a stream; points are returned as they are."""
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
        LabelError: a batch of another dimension.
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
    """Return how many rows of (points, dim) features to take at once, where they lie."""
    if features.device.type == "cpu":
        return BLOCK
    return max(1, _GPU_BYTES // (4 * features.shape[1] * BLOCK)) * BLOCK


def check_finite(block: Tensor) -> None:
    """Refuse NaN and infinite values.

    Raises:
        LabelError: there are some.
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
