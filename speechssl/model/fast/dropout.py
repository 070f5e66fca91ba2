"""Dropout whose random bits are cheap: of `speechssl.model.dropout`, on CPUs.

PyTorch's own draws one 32-bit number an element there, one after the other, which takes a tenth of a training step.
Sixteen bits an element are as good: the probability is a multiple of 1/65,536, and what is kept is scaled by its exact
inverse, so that expectations are right to the last bit.
"""

import torch
from torch import Tensor

__all__ = ["draw_kept", "dropout", "keep", "kept_scale"]

_LEVELS = 1 << 16


def dropout(x: Tensor, probability: float) -> Tensor:
    """Drop elements of `x`, each at a probability between 0 and 1, neither included, and scale the others."""
    return Masked.apply(x, draw_kept(x.shape, probability, x.device), kept_scale(probability))


def _dropped_levels(probability: float) -> int:
    return min(max(round(probability * _LEVELS), 1), _LEVELS - 1)


def kept_scale(probability: float) -> float:
    """Return what kept elements are multiplied by, the inverse of the probability at which `draw_kept` keeps them."""
    return _LEVELS / (_LEVELS - _dropped_levels(probability))


def draw_kept(shape: torch.Size | tuple[int, ...], probability: float, device: torch.device) -> Tensor:
    """Draw which elements are kept, from torch's default generator of the device.

    Args:
        shape: of the mask.
        probability: that an element is dropped, between 0 and 1, neither included.
        device: of the mask.

    Returns:
        `shape` uint8, 1 where kept.
    """
    number = torch.Size(shape).numel()
    words = torch.empty(-(-number // 4), dtype=torch.int64, device=device)
    words.random_(torch.iinfo(torch.int64).min, None)  # all 64 bits
    last_dropped = _dropped_levels(probability) - 1 - _LEVELS // 2  # of the int16, from -32,768 up
    kept = torch.empty(number, dtype=torch.uint8, device=device)
    return torch.gt(words.view(torch.int16)[:number], last_dropped, out=kept).view(shape)


def keep(x: Tensor, kept: Tensor) -> Tensor:
    """Return `x * kept`, a third faster than a product of two types: `kept` is written as floats, then multiplied."""
    return torch.empty_like(x).copy_(kept).mul_(x)


class Masked(torch.autograd.Function):
    """`x * kept * scale`, with one byte an element kept for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        """Map any shape to itself."""
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return keep(x, kept).mul_(scale)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        """Return the gradient of `x`."""
        (kept,) = ctx.saved_tensors
        return keep(gradient, kept).mul_(ctx.scale), None, None
