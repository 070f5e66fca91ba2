"""Frame arithmetic of strided convolutions: numbers of frames, hop, receptive field, and which frames are valid."""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

__all__ = ["BASE_STACK", "Stack", "frame_count", "hop_size", "receptive_field", "within"]

Stack = Sequence[tuple[int, int, int]]  # (channels, kernel, stride) of each convolution, first to last

BASE_STACK: tuple[tuple[int, int, int], ...] = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)


@overload
def frame_count(num_samples: int, stack: Stack) -> int: ...
@overload
def frame_count(num_samples: Tensor, stack: Stack) -> Tensor: ...
def frame_count(num_samples: int | Tensor, stack: Stack) -> int | Tensor:
    """Count the frames that `stack` makes from waveforms of the given lengths.

    Args:
        num_samples: (batch,) int64, real samples in each waveform at 16 kHz; or one number for one waveform.
        stack: the convolutions, first to last.

    Returns:
        (batch,) int64, or one number; 0 for a waveform shorter than the receptive field (400 samples for
        `BASE_STACK`).

    Examples:
        >>> frame_count(torch.tensor([16_000, 400, 399]), BASE_STACK)
        tensor([49,  1,  0])
        >>> frame_count(16_000, BASE_STACK)
        49
    """
    for _, kernel, stride in stack:
        num_samples = (num_samples - kernel) // stride + 1
    return num_samples.clamp(min=0) if isinstance(num_samples, Tensor) else max(num_samples, 0)


def hop_size(stack: Stack) -> int:
    """Return the number of samples from one frame to the next.

    Examples:
        >>> hop_size(BASE_STACK)
        320
    """
    hop = 1
    for _, _, stride in stack:
        hop *= stride
    return hop


def receptive_field(stack: Stack) -> int:
    """Return the number of samples that one frame depends on.

    Examples:
        >>> receptive_field(BASE_STACK)
        400
    """
    field = 1
    for _, kernel, stride in reversed(stack):
        field = (field - 1) * stride + kernel
    return field


def within(counts: Tensor, size: int) -> Tensor:
    """Return (batch, size) bool, True at positions before each row's count."""
    return torch.arange(size, device=counts.device) < counts[:, None]
