"""Convolutions without gradients, a few seconds of audio at a time: their first output is by far the widest tensor."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["in_pieces"]

PIECE = 2**23  # numbers of the first layer's output that are computed at a time


def in_pieces(
    first: Callable[[slice, slice], Tensor],
    later: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    *,
    steps: int,
    beyond: int,
    channels: int,
) -> Tensor:
    """Compute the frames of some rows, or of a part of one, after those of others.

    The whole batch takes the memory of a few seconds of the first layer. What the last frames of a piece see beyond it
    is computed once more for the next one.

    Args:
        first: from rows of the batch and steps of the first layer to its (rows, steps, channels).
        later: from these to (rows, frames, out_channels).
        size: batch and frames.
        steps: of the first layer, from one frame to the next.
        beyond: frames whose samples the last frame of a piece sees, too.
        channels: of the first layer.

    Returns:
        (batch, frames, out_channels).
    """
    batch, frames = size
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
