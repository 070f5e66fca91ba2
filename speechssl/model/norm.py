"""Norms: over the channels of a frame, and of each channel over the valid steps.

What torch computes wrongly in 16 bits is mended here, for every device and in every graph.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ChannelNorm", "LayerNorm", "TimeNorm"]


class LayerNorm(nn.LayerNorm):
    """As `nn.LayerNorm`, which on CUDA computes in float32 under autocast; here on the CPU too.

    There, torch (2.9.1 to 2.15.0) takes 16 bits as they come and adds up the gradients of weight and bias in them, row
    after row: with one thread, half of the bias's is lost after 8,000 frames, nine tenths after 128,000
    (`findings/torch_layer_norm_bfloat16_gradients.sh`).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        return super().forward(input.to(self.weight.dtype) if _is_added_up_in_16_bits(input) else input)


class ChannelNorm(LayerNorm):
    """Layer norm whose output has the type of its input under autocast too, as in the reference code.

    Autocast would write the extractor's outputs, the widest tensors there are, in float32, for GELU to read and write
    as many bytes, and for the next convolution to round.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        device = input.device.type
        if device == "cpu" or not torch.is_autocast_enabled(device):
            return super().forward(input).to(input.dtype)
        return self.in_one_type(input)

    def in_one_type(self, input: Tensor) -> Tensor:
        """Normalise by a kernel that reads and writes the type of `input`; CUDA's computes in float32."""
        weight, bias = (parameter.to(input.dtype) for parameter in (self.weight, self.bias))
        with torch.autocast(input.device.type, enabled=False):
            return functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class TimeNorm(nn.Module):
    """Group norm with one channel a group, over the valid steps only.

    Equal to `nn.GroupNorm(channels, channels)` on a row without padding. The reference implementations include the
    padding in mean and variance, which makes an utterance's features depend on the batch it came in;
    `EncoderConfig.padding_in_norm` does the same.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, is_counted: Tensor) -> Tensor:
        """Normalise (batch, steps, channels) by the statistics of the steps where `is_counted`, (batch, steps) bool."""
        x = x.float()
        share = is_counted.to(x.dtype) / is_counted.sum(1, keepdim=True).clamp(min=1)  # averages what counts
        share = share[:, None]  # (batch, 1, steps)
        mean = share @ x  # (batch, 1, channels)
        variance = share @ (x - mean).square()
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return torch.addcmul(self.bias - mean * scale, x, scale)

    def folded_into(self, conv: nn.Conv1d, waveforms: Tensor, is_counted: Tensor) -> Callable[[slice, slice], Tensor]:
        """Prepare to convolve waveforms and normalise the result in one product.

        Mean and variance of a channel follow from those of the windows that its kernel sees: with mean m and
        covariance C of the windows, they are w m and w C w. So the norm becomes another kernel and another bias for
        each row of the batch, and the widest output there is is written once, and read by nothing but what follows.

        Args:
            conv: one channel in.
            waveforms: (batch, time), time a multiple of the stride.
            is_counted: (batch, time / stride) bool, steps that the statistics are taken over.

        Returns:
            From rows of the batch and steps to (rows, steps, channels), what the norm of the convolution is there.
        """
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        time = waveforms.shape[1]
        surplus = max(kernel - stride, kernel - time, 0)
        windows = functional.pad(waveforms, (0, surplus)).unfold(1, kernel, stride)[:, : time // stride]
        windows = functional.pad(windows, (0, 1), value=1.0)  # (batch, steps, kernel + 1), the last for the bias
        with torch.autocast(waveforms.device.type, enabled=False):
            kernels = self._fold(windows, is_counted, conv.weight[:, 0].T, conv.bias)
        return lambda rows, steps: _multiply(windows[rows, steps], kernels[rows])

    def _fold(self, windows: Tensor, is_counted: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Return the kernels, their biases last, that convolve and normalise at once.

        In float64, for next to no time: a kernel that passes only what is weak in speech has a variance of a
        millionth of the windows', which float32 would lose.

        Args:
            windows: (batch, steps, taps + 1), what the kernel sees at each step, and 1.
            is_counted: (batch, steps) bool.
            kernel: (taps, channels).
            bias: (channels,) of the convolution, or None.

        Returns:
            (batch, taps + 1, channels) in the type of `kernel`.
        """
        precise = kernel.double()
        counted = windows.double() * is_counted[..., None]
        counts = is_counted.sum(1)[:, None, None].clamp(min=1)
        moments = counted.transpose(1, 2) @ counted / counts  # (batch, taps + 1, taps + 1)
        mean = moments[:, -1:, :-1]  # (batch, 1, taps)
        covariance = moments[:, :-1, :-1] - mean.transpose(1, 2) * mean
        variance = ((covariance @ precise) * precise).sum(1, keepdim=True)  # (batch, 1, channels)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        mean = mean @ precise  # (batch, 1, channels); the bias is part of the output and of its mean
        shift = self.bias - mean * scale if bias is None else self.bias + (bias - (mean + bias)) * scale
        return torch.cat([precise * scale, shift], 1).to(kernel.dtype)


def _multiply(windows: Tensor, kernels: Tensor) -> Tensor:
    """Multiply (rows, steps, taps + 1) and (rows, taps + 1, channels), under autocast rounding the product alone."""
    device = windows.device.type
    with torch.autocast(device, enabled=False):  # the bias may take off far more than it leaves: no case for bfloat16
        out = windows @ kernels
    return out.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else out


def _is_added_up_in_16_bits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype.is_floating_point and x.dtype.itemsize < 4
