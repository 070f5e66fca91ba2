"""Convolutions without gradients, a few seconds of audio at a time: their first output is by far the widest tensor."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechssl.model.frames import Stack, hop_size, receptive_field

__all__ = ["in_pieces"]

PIECE = 2**23  # numbers of the first layer's output that are computed at a time


def in_pieces(
    first: Callable[[slice, slice], Tensor], later: Callable[[Tensor], Tensor], batch: int, frames: int, stack: Stack
) -> Tensor:
    """Compute the frames of some rows, or of a part of one, after those of others.

    The whole batch takes the memory of a few seconds of the first layer. What the last frames of a piece see beyond it
    is computed once more for the next one.

    Args:
        first: from rows of the batch and steps of the first layer to its (rows, steps, channels).
        later: from these to (rows, frames, out_channels).
        batch: rows in all.
        frames: of each.
        stack: the convolutions, first to last.

    Returns:
        (batch, frames, out_channels).
    """
    hop, (channels, _, stride) = hop_size(stack), stack[0]
    steps = hop // stride  # of the first layer, a frame
    beyond = -(-receptive_field(stack) // hop) - 1  # frames that a frame's last samples lie ahead
    length = max(1, PIECE // (steps * channels))  # frames a piece
    num_rows = max(1, length // frames)
    pieces = []
    for row in range(0, batch, num_rows):
        parts = []
        for at in range(0, frames, length):
            x = first(slice(row, row + num_rows), slice(at * steps, (at + length + beyond) * steps))
            parts.append(later(x)[:, : min(length, frames - at)])
        pieces.append(torch.cat(parts, 1))
    return torch.cat(pieces)
