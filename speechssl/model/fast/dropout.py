"""CPU kernel of `speechssl.model.dropout`: dropout with 16 random bits per element.

On CPUs, PyTorch draws a 32-bit number per element, one after the other, which takes a tenth of a training step.
Sixteen bits are enough: the probability is rounded to a multiple of 1/65,536, and kept elements are scaled by the exact
inverse of the rounded value, so that expectations are exact.
"""

import torch
from torch import Tensor

__all__ = ["draw_kept", "dropout", "keep", "kept_scale"]

_LEVELS = 1 << 16


def dropout(x: Tensor, probability: float) -> Tensor:
    """Drop elements of `x` with a probability between 0 and 1, both excluded, and scale the others."""
    return Masked.apply(x, draw_kept(x.shape, probability, x.device), kept_scale(probability))


def _dropped_levels(probability: float) -> int:
    return min(max(round(probability * _LEVELS), 1), _LEVELS - 1)


def kept_scale(probability: float) -> float:
    """Return the factor of kept elements: the inverse of the probability with which `draw_kept` keeps them."""
    return _LEVELS / (_LEVELS - _dropped_levels(probability))


def draw_kept(shape: torch.Size | tuple[int, ...], probability: float, device: torch.device) -> Tensor:
    """Draw which elements are kept, from torch's default generator of the device.

    Args:
        shape: shape of the mask.
        probability: probability that an element is dropped, between 0 and 1, both excluded.
        device: device of the mask.

    Returns:
        `shape` uint8, 1 where kept.
    """
    number = torch.Size(shape).numel()
    words = torch.empty(-(-number // 4), dtype=torch.int64, device=device)
    words.random_(torch.iinfo(torch.int64).min, None)  # all 64 bits
    last_dropped = (
        _dropped_levels(probability) - 1 - _LEVELS // 2
    )  # the largest int16 that drops; they start at -32,768
    kept = torch.empty(number, dtype=torch.uint8, device=device)
    return torch.gt(words.view(torch.int16)[:number], last_dropped, out=kept).view(shape)


def keep(x: Tensor, kept: Tensor) -> Tensor:
    """Return `x * kept`; converting `kept` to floats first is a third faster than a product of mixed types."""
    return torch.empty_like(x).copy_(kept).mul_(x)


class Masked(torch.autograd.Function):
    """`x * kept * scale`, which saves one byte per element for the backward pass."""

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
