"""CPU kernels of `speechssl.model.precision`: weights in 16 or 8 bits, laid out for oneDNN once, for inference only.

A bfloat16 product has factors of 16 bits and sums of 32. An int8 product has weights with a scale for each output and
inputs with a scale for each frame, so that a frame's output does not depend on what else is in the batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.fast.convolution import convolve_for_inference

__all__ = ["Bfloat16Linear", "Int8Linear", "PackedConv", "PackedPositions"]

_EXAMPLE_ROWS = 512  # rows for which the layout of weights is chosen
_MIDDLE = 128  # unsigned zero point of the inputs, as oneDNN multiplies unsigned inputs and signed weights
_LARGEST = 127  # of a signed 8-bit number, symmetric
_TINY = 1e-30  # below every number that matters, and its inverse is finite
_ROWS_AT_ONCE = 512  # frames that are quantised together, so that they stay in the cache


class Bfloat16Linear(nn.Module):
    """A linear layer that returns bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        """Round and lay out the weights of `linear`."""
        super().__init__()
        weight = linear.weight.detach().bfloat16()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _EXAMPLE_ROWS)
        self.bias = linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, self.bias, "none", [], "")

    def activated(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out) and apply GELU."""
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.packed, self.bias, "gelu", [], "none")


class Int8Linear(nn.Module):
    """A linear layer with 8-bit factors that returns float32."""

    def __init__(self, linear: nn.Linear) -> None:
        """Quantise and lay out the weights of `linear`."""
        super().__init__()
        weight = linear.weight.detach()
        self.scales = weight.abs().amax(1).clamp_(min=_TINY) / _LARGEST  # (out,)
        quantised = (weight / self.scales[:, None]).round_().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(quantised, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = linear.bias.detach().clone()
        self.half_up = torch.tensor(_MIDDLE + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= _ROWS_AT_ONCE:
            return self._multiply(rows).view(*x.shape[:-1], -1)
        return torch.cat([self._multiply(part) for part in rows.split(_ROWS_AT_ONCE)]).view(*x.shape[:-1], -1)

    def activated(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out) and apply GELU."""
        return functional.gelu(self(x))

    def _multiply(self, rows: Tensor) -> Tensor:
        """Map (rows, in) to (rows, out)."""
        largest = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_()).clamp_(min=_TINY)
        scale = 1 / _LARGEST
        quantised = torch.addcmul(self.half_up, rows, _LARGEST / largest).to(torch.uint8)  # which rounds down
        of_inputs, of_weights = (quantised, scale, _MIDDLE), (self.packed, self.scales, self.zeros)
        of_outputs = (1.0, 0, torch.float32)  # not quantised
        nothing: list[float] = []
        out = torch.ops.onednn.qlinear_pointwise(*of_inputs, *of_weights, None, *of_outputs, "none", nothing, "")
        return torch.addcmul(self.bias, out, largest)


class PackedConv(nn.Module):
    """A strided convolution along time in bfloat16."""

    def __init__(self, conv: nn.Conv1d) -> None:
        """Round and lay out the weights of `conv`."""
        super().__init__()
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        weight = conv.weight.detach().bfloat16()[:, :, None]
        example = [1, conv.in_channels, 1, _EXAMPLE_ROWS * conv.stride[0]]
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(), [0, 0], [1, conv.stride[0]], [1, 1], 1, example
        )
        self.bias = None if conv.bias is None else conv.bias.detach().bfloat16()

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """Map (batch, steps, in_channels) to (batch, steps', out_channels) in bfloat16, and apply GELU if asked."""
        return convolve_for_inference(x.bfloat16(), self.packed, self.bias, self.stride[0], gelu=gelu)


class PackedPositions(nn.Module):
    """The positional convolution and its GELU, with the weight norm applied once."""

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype) -> None:
        """Lay out the weights of `conv`.

        Args:
            conv: grouped convolution with a padding of half a kernel.
            dtype: float32, or bfloat16 for the factors.
        """
        super().__init__()
        self.dtype, self.groups, self.padding = dtype, conv.groups, int(conv.padding[0])
        weight = conv.weight.detach().to(dtype)[:, :, None]
        example = [1, conv.in_channels, 1, _EXAMPLE_ROWS]
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(), [0, self.padding], [1, 1], [1, 1], self.groups, example
        )
        assert conv.bias is not None
        self.bias = conv.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, frames, dim) to be added to `x` (batch, frames, dim)."""
        image = x.to(self.dtype).transpose(1, 2)[:, :, None]
        out = torch.ops.mkldnn._convolution_pointwise(
            image, self.packed, self.bias, [0, self.padding], [1, 1], [1, 1], self.groups, "gelu", [], "none"
        )
        return out[:, :, 0].transpose(1, 2)[:, : x.shape[1]]  # an even kernel gives one frame too many
