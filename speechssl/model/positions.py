"""Relative positions by a wide grouped convolution over frames: wav2vec 2.0 (arXiv:2006.11477), section 2."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from speechssl.model import fast
from speechssl.model.fast.convolution import is_narrow
from speechssl.model.fast.positions import correlate, is_faster

__all__ = ["PositionalConv"]


class PositionalConv(nn.Module):
    """A grouped convolution with weight norm over its kernel positions, followed by GELU."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=(4 / (kernel * dim)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, frames, dim) to be added to `x` (batch, frames, dim)."""
        if not self._is_wrong_in_16_bits(x):
            return functional.gelu(self._convolve(x))
        with torch.autocast("cpu", enabled=False):
            return functional.gelu(self._convolve(x.to(self.conv.bias.dtype)))

    def _convolve(self, x: Tensor) -> Tensor:
        """Convolve (batch, frames, dim) to the same shape."""
        conv, frames, (kernel,) = self.conv, x.shape[1], self.conv.kernel_size
        if fast.applies(x) and not torch.is_autocast_enabled("cpu") and is_faster(x, kernel):
            return correlate(x.to(conv.bias.dtype), conv.weight, conv.groups) + conv.bias
        if self._is_wrong_in_16_bits(x):  # the parameters themselves are in 16 bits
            weight, bias = conv.weight.float(), conv.bias.float()
            x = functional.conv1d(x.mT.float(), weight, bias, padding=kernel // 2, groups=conv.groups).to(x.dtype)
        else:
            x = conv(x.transpose(1, 2))
        x = x.transpose(1, 2)
        x = x if kernel % 2 else x[:, :frames]  # an even kernel gives one frame too many
        return x.contiguous()  # for export with torch 2.15, as in conv.py

    def _is_wrong_in_16_bits(self, x: Tensor) -> bool:
        """Return whether torch's convolution may be wrong for `x`, see `is_narrow`; we use float32 there."""
        in_16_bits = torch.is_autocast_enabled("cpu") or x.dtype.itemsize < 4
        return x.device.type == "cpu" and in_16_bits and is_narrow(self.conv)
