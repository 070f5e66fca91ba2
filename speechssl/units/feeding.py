"""Double-buffered copies of blocks of points to a GPU, which overlap with its computation."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle

import torch
from torch import Tensor

__all__ = ["merged", "on_device"]

_BYTES = 2**28  # bytes per copy; there are two such buffers on the host and two on the GPU


def on_device(blocks: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield blocks on a GPU, copying ahead of its computation.

    Args:
        blocks: (any, dim) each, of any float type. Blocks on a GPU are yielded one by one; blocks on the host are
            merged into larger ones.
        device: the GPU.

    Yields:
        (any, dim) blocks; each may be overwritten when the next but one is requested.
    """
    remaining = iter(blocks)
    first = next(remaining, None)
    if first is None:
        return
    blocks = chain([first], remaining)
    if first.device.type != "cpu":
        yield from (block.to(device) for block in blocks)
        return
    rows, dim = max(1, _BYTES // (4 * first.shape[1])), first.shape[1]
    lanes = [_Lane(rows, dim, device), _Lane(rows, dim, device)]
    to_fill, copies = cycle(lanes), torch.cuda.Stream(device)
    for lane, full in zip(cycle(lanes), merged(blocks, rows, lambda dtype: next(to_fill).empty(dtype)), strict=False):
        yield lane.copy(full, copies)
        lane.used.record(torch.cuda.current_stream(device))


def merged(blocks: Iterable[Tensor], rows: int, empty: Callable[[torch.dtype], Tensor]) -> Iterator[Tensor]:
    """Merge blocks into larger ones, which depend on the rows only, not on how they were cut into blocks.

    Args:
        blocks: (any, dim) each.
        rows: rows of each larger block; fewer in the last one and before a change of the number type.
        empty: returns a (rows, dim) buffer of a number type; called again after the buffer was yielded.

    Yields:
        (at most `rows`, dim), the filled part of a buffer.
    """
    buffer, held = None, 0
    for block in blocks:
        while len(block):
            if buffer is not None and (held == rows or buffer.dtype != block.dtype):
                yield buffer[:held]
                buffer = None
            if buffer is None:
                buffer, held = empty(block.dtype), 0
            part = block[: rows - held]
            buffer[held : held + len(part)].copy_(part)
            held += len(part)
            block = block[len(part) :]
    if buffer is not None:
        yield buffer[:held]


class _Lane:
    """A pair of buffers on host and GPU, with events for the end of the copy and of the computation."""

    def __init__(self, rows: int, dim: int, device: torch.device) -> None:
        self.shape, self.device = (rows, dim), device
        self.here, self.there = torch.empty(0), torch.empty(0)
        self.copied, self.used = torch.cuda.Event(), torch.cuda.Event()

    def empty(self, dtype: torch.dtype) -> Tensor:
        """Return the host buffer, after its last copy is done."""
        self.copied.synchronize()
        if self.here.shape != self.shape or self.here.dtype != dtype:
            self.here = torch.empty(self.shape, dtype=dtype, pin_memory=True)
            self.there = torch.empty(self.shape, dtype=dtype, device=self.device)
            self.used.record(torch.cuda.current_stream(self.device))  # wait for earlier users of this memory
        return self.here

    def copy(self, full: Tensor, copies: torch.cuda.Stream) -> Tensor:
        """Copy the filled part of the host buffer, after the GPU has finished with the previous content."""
        copies.wait_event(self.used)
        with torch.cuda.stream(copies):
            self.there[: len(full)].copy_(full, non_blocking=True)
        self.copied.record(copies)
        torch.cuda.current_stream(self.device).wait_event(self.copied)
        return self.there[: len(full)]
