"""Blocks of points from memory or files to a GPU, copied while it works on those before them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle

import torch
from torch import Tensor

__all__ = ["merged", "on_device"]

_BYTES = 2**28  # copied at once; two such buffers lie on either side


def on_device(blocks: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield blocks on a GPU, without waiting for it to have worked on them.

    Args:
        blocks: (any, dim) each, of any float type. Those that lie on a GPU are yielded one by one; those that lie on
            the host are put together to larger ones.
        device: the GPU.

    Yields:
        (any, dim) blocks, of which each may be overwritten once the next but one is asked for.
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
    """Put blocks together to larger ones, which depend on their rows only, not on where they were cut.

    Args:
        blocks: (any, dim) each.
        rows: of the larger ones, but for the last and where the number type changes.
        empty: gives (rows, dim) memory of a number type to fill; called again when what it gave was yielded.

    Yields:
        (at most `rows`, dim), the beginning of the memory that was filled.
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
    """Memory on either side, and how far it is in use: filled by the host, copied, worked on."""

    def __init__(self, rows: int, dim: int, device: torch.device) -> None:
        self.shape, self.device = (rows, dim), device
        self.here, self.there = torch.empty(0), torch.empty(0)
        self.copied, self.used = torch.cuda.Event(), torch.cuda.Event()

    def empty(self, dtype: torch.dtype) -> Tensor:
        """Return the memory of the host, once it is copied."""
        self.copied.synchronize()
        if self.here.shape != self.shape or self.here.dtype != dtype:
            self.here = torch.empty(self.shape, dtype=dtype, pin_memory=True)
            self.there = torch.empty(self.shape, dtype=dtype, device=self.device)
            self.used.record(torch.cuda.current_stream(self.device))  # whoever had this memory before
        return self.here

    def copy(self, full: Tensor, copies: torch.cuda.Stream) -> Tensor:
        """Copy the beginning of the memory, once the GPU has worked on what it had there."""
        copies.wait_event(self.used)
        with torch.cuda.stream(copies):
            self.there[: len(full)].copy_(full, non_blocking=True)
        self.copied.record(copies)
        torch.cuda.current_stream(self.device).wait_event(self.copied)
        return self.there[: len(full)]
