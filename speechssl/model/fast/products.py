"""CPU kernel of `speechssl.model.linear`: matrix products by oneDNN, where it is faster than torch's own library.

For float32 products torch calls MKL, which on other processors than Intel's does without their widest instructions;
oneDNN, which torch contains for convolutions, uses them everywhere. Intel's processors stay with MKL, as oneDNN reaches
0.85 to 1.05 times its speed there; on others both are timed once in a process.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.model.fast.timing import least_seconds
from speechssl.processor import chosen_kernels, is_intel

__all__ = ["Product", "has_onednn", "is_faster", "linear", "product"]

_MARGIN = 1.15  # times as fast: far from what noise does to the ratio
_ROWS, _DIM = 256, 768  # a quarter of a gigaflop: a few milliseconds


def has_onednn() -> bool:
    """Return whether torch was built with oneDNN's products and nobody turned it off."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_faster(x: Tensor) -> bool:
    """Return whether `linear` should run for the input `x`: in float32, where it is faster on this processor."""
    if x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not x.numel() or not has_onednn():
        return False
    return chosen_kernels() == "ours" or _onednn_wins()


@functools.cache
def _onednn_wins() -> bool:
    """Time both libraries, except on Intel's processors; cached, as it is a fact of the machine."""
    if is_intel():
        return False
    x, weight = torch.ones(_ROWS, _DIM), torch.ones(_DIM, _DIM)
    seconds = least_seconds({"MKL": lambda: functional.linear(x, weight), "oneDNN": lambda: product(x, weight)})
    return seconds["MKL"] > _MARGIN * seconds["oneDNN"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (..., in) to (..., out), like `functional.linear`."""
    return Product.apply(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply (..., in) by the transpose of (out, in) without gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class Product(torch.autograd.Function):
    """`x @ weight.T + bias`. The gradient of `weight` stays with torch, since oneDNN would copy both factors."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
        """Map (..., in) to (..., out)."""
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        """Return the gradients of the arguments."""
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            product(gradient.contiguous(), weight.T) if for_x else None,
            rows.T @ x.reshape(-1, x.shape[-1]) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )
