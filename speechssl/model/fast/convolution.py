"""CPU kernel of `speechssl.model.conv`: strided convolution along time as matrix products without unfolding."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ShiftedProducts", "convolve"]


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
        out = rows[:, : len(first)] @ first
        for shift, part in enumerate(taps[inner:].split(inner), 1):
            out[:-shift].addmm_(rows[shift:, : len(part)], part)
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
            rows_gradient = functional.pad(gradient @ taps.T, (0, inner - len(taps)))
        else:
            rows_gradient = gradient @ taps[:inner].T
        for shift, part in enumerate(taps[inner:].split(inner), 1):
            rows_gradient[shift:, : len(part)].addmm_(gradient[:-shift], part.T)
        return rows_gradient, taps_gradient
