"""Convolutions without gradients in pieces of a few seconds, to bound the memory of the first layer's output."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechssl.model.frames import Stack, hop_size, receptive_field

__all__ = ["in_pieces"]

PIECE = 2**22  # elements of the first layer's output that are computed at a time; more of them leave the cache


def in_pieces(
    first: Callable[[slice, slice], Tensor], later: Callable[[Tensor], Tensor], batch: int, frames: int, stack: Stack
) -> Tensor:
    """Compute the frames of a batch piece by piece: some rows at a time, or a part of one row.

    The first layer's output then takes the memory of a few seconds of audio, whatever the size of the batch. The
    overlap that the last frames of a piece depend on is computed again for the next piece.

    Args:
        first: maps a slice of rows and a slice of first-layer steps to (rows, steps, channels).
        later: maps (rows, steps, channels) to (rows, frames, out_channels).
        batch: number of rows.
        frames: number of frames of each row.
        stack: the convolutions, first to last.

    Returns:
        (batch, frames, out_channels).
    """
    hop, (channels, _, stride) = hop_size(stack), stack[0]
    steps = hop // stride  # first-layer steps per frame
    beyond = -(-receptive_field(stack) // hop) - 1  # look-ahead of a frame, in frames
    length = max(1, PIECE // (steps * channels))  # frames per piece
    num_rows = max(1, length // frames)
    pieces = []
    for row in range(0, batch, num_rows):
        parts = []
        for at in range(0, frames, length):
            x = first(slice(row, row + num_rows), slice(at * steps, (at + length + beyond) * steps))
            parts.append(later(x)[:, : min(length, frames - at)])
        pieces.append(torch.cat(parts, 1))
    return torch.cat(pieces)
