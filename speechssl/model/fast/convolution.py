"""CPU kernels of `speechssl.model.conv`: strided convolution along time, of frames that lie one after the other.

Inference calls oneDNN's convolution, which reads (batch, steps, channels) as it is. Training uses matrix products
without unfolding: oneDNN's gradients of a strided convolution take twice their time.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.fast import products

__all__ = ["ShiftedProducts", "convolve", "convolve_for_inference", "is_narrow", "suits_onednn"]

_NARROW = 32  # input channels of a group


def is_narrow(conv: nn.Conv1d) -> bool:
    """Return whether torch's convolution may be wrong in 16 bits on a CPU.

    With 4 to 31 input channels per group and a kernel of 4 or more, oneDNN's 16-bit convolution on processors with AMX
    returns unrelated numbers for many sizes and strides (torch 2.9.1 to 2.15.0), in training and inference.
    """
    return conv.in_channels // conv.groups < _NARROW


def suits_onednn(x: Tensor, conv: nn.Conv1d) -> bool:
    """Return whether `convolve_for_inference` can run on `x`: without gradients, in a type that oneDNN has here."""
    if torch.is_grad_enabled() or not products.has_onednn():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and not is_narrow(conv)
    return dtype == torch.float32


def convolve_for_inference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, *, gelu: bool = False
) -> Tensor:
    """Convolve each row of the batch without gradients, and apply GELU to the result if asked.

    Args:
        x: (batch, steps, in_channels).
        weight: (out_channels, in_channels, kernel), as in `nn.Conv1d`, or laid out by `PackedConv`.
        bias: (out_channels,) or None.
        stride: steps from one output to the next.
        gelu: whether GELU follows.

    Returns:
        (batch, (steps - kernel) / stride + 1, out_channels).
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if weight.ndim == 3:
        weight = weight[:, :, None].contiguous(memory_format=torch.channels_last)
    activation: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
    image = x.transpose(1, 2)[:, :, None]  # (batch, channels, 1, steps), channels last in memory
    out = torch.ops.mkldnn._convolution_pointwise(image, weight, bias, [0, 0], [1, stride], [1, 1], 1, *activation)
    return out[:, :, 0].transpose(1, 2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve each row of the batch.

    `stride` successive steps form one row of `stride * in_channels` numbers, so a kernel of length `stride` is a single
    matrix product, and a longer kernel adds products with the following rows. Nothing is unfolded, copied or
    transposed. Utterances lie end to end; only outputs whose kernel reaches past an utterance see the next one.

    Args:
        x: (batch, steps, in_channels), steps a multiple of `stride`.
        weight: (out_channels, in_channels, kernel), as in `nn.Conv1d`.
        bias: (out_channels,) or None.
        stride: steps from one output to the next.

    Returns:
        (batch, steps / stride, out_channels); outputs whose kernel reaches past the last step are undefined.
    """
    out_channels, in_channels, kernel = weight.shape
    taps = weight.permute(2, 1, 0).reshape(kernel * in_channels, out_channels)
    rows = x.reshape(-1, stride * in_channels)
    if torch.is_autocast_enabled(x.device.type):
        rows, taps = (tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in (rows, taps))
    out = ShiftedProducts.apply(rows, taps)
    out = out if bias is None else out + bias.to(out.dtype)
    return out.view(len(x), x.shape[1] // stride, out_channels)


class ShiftedProducts(torch.autograd.Function):
    """Sum over i of `rows[i:] @ taps[i * inner :][:inner]`, accumulated in place; the last taps may be fewer."""

    @staticmethod
    def forward(ctx, rows: Tensor, taps: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """Map (steps, inner), (taps, out) to (steps, out)."""
        ctx.save_for_backward(rows, taps)
        inner = rows.shape[1]
        first = taps[:inner]
        out = _multiply(rows[:, : len(first)], first)
        for shift, part in enumerate(taps[inner:].split(inner), 1):
            _add_product(out[:-shift], rows[shift:, : len(part)], part)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor]:  # type: ignore[no-untyped-def]
        """Return the gradients of both arguments."""
        rows, taps = ctx.saved_tensors
        inner = rows.shape[1]
        gradient = gradient.contiguous()
        taps_gradient = torch.empty_like(taps)
        for shift, part in enumerate(taps_gradient.split(inner)):
            torch.mm(rows[shift:, : len(part)].T, gradient[: len(gradient) - shift], out=part)
        if not ctx.needs_input_grad[0]:
            return None, taps_gradient
        if len(taps) < inner:  # the stride is longer than the kernel
            rows_gradient = functional.pad(_multiply(gradient, taps.T), (0, inner - len(taps)))
        else:
            rows_gradient = _multiply(gradient, taps[:inner].T)
        for shift, part in enumerate(taps[inner:].split(inner), 1):
            _add_product(rows_gradient[shift:, : len(part)], gradient[:-shift], part.T)
        return rows_gradient, taps_gradient


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Multiply (steps, inner) and (inner, out)."""
    return products.product(left, right.T) if products.is_faster(left) else left @ right


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of (steps, inner) and (inner, out) to (steps, out) in place."""
    if products.is_faster(left):
        total.add_(products.product(left, right.T))
    else:
        total.addmm_(left, right)
