"""Normalisation layers: over the channels of a frame, and of each channel over the valid steps.

They also work around torch's wrong results in 16 bits, on every device and in every graph.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.fast.convolution import convolve_for_inference
from speechssl.model.fast.products import has_onednn

__all__ = ["ChannelNorm", "LayerNorm", "TimeNorm"]


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that computes in float32 under autocast on the CPU too, as torch does on CUDA only.

    On the CPU, torch (2.9.1 to 2.15.0) keeps 16-bit inputs and accumulates the gradients of weight and bias in 16 bits,
    row after row: with one thread, half of the bias's gradient is lost after 8,000 frames, nine tenths after 128,000
    (`findings/torch_layer_norm_bfloat16_gradients.sh`).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        is_16_bit_on_cpu = input.device.type == "cpu" and input.dtype.is_floating_point and input.dtype.itemsize < 4
        return super().forward(input.to(self.weight.dtype) if is_16_bit_on_cpu else input)


class ChannelNorm(LayerNorm):
    """Layer norm whose output keeps the type of its input under autocast, as in the reference code.

    Autocast would write the extractor's outputs, the widest tensors of the model, in float32; GELU would read and write
    twice the bytes, and the next convolution would round to 16 bits again.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axis."""
        device = input.device.type
        is_rounded = not torch.is_grad_enabled() and input.dtype == torch.bfloat16  # then torch's sums are exact enough
        if (device == "cpu" or not torch.is_autocast_enabled(device)) and not is_rounded:
            return super().forward(input).to(input.dtype)
        return self.in_one_type(input)

    def in_one_type(self, input: Tensor) -> Tensor:
        """Normalise with a kernel that reads and writes the type of `input`; CUDA's computes in float32 internally."""
        weight, bias = (parameter.to(input.dtype) for parameter in (self.weight, self.bias))
        with torch.autocast(input.device.type, enabled=False):
            return functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class TimeNorm(nn.Module):
    """Group norm with one channel per group, over the valid steps only.

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
        share = is_counted.to(x.dtype) / is_counted.sum(1, keepdim=True).clamp(min=1)  # weights of the average
        share = share[:, None]  # (batch, 1, steps)
        mean = share @ x  # (batch, 1, channels)
        variance = share @ (x - mean).square()
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return torch.addcmul(self.bias - mean * scale, x, scale)

    def folded_into(
        self, conv: nn.Conv1d, waveforms: Tensor, is_counted: Tensor, *, gelu: bool = False
    ) -> Callable[[slice, slice], Tensor]:
        """Fold the norm into the convolution, so that both are one matrix product.

        Mean and variance of a channel follow from those of the windows that its kernel sees: with mean m and
        covariance C of the windows, they are w m and w C w. So the norm amounts to a different kernel and bias for
        each row of the batch, and the widest tensor of the model is written once and read only by the next layer.

        Args:
            conv: convolution with one input channel.
            waveforms: (batch, time), time a multiple of the stride.
            is_counted: (batch, time / stride) bool, steps included in the statistics.
            gelu: whether GELU is applied to the result.

        Returns:
            A function from a slice of rows and a slice of steps to the normalised (rows, steps, channels).
        """
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        time = waveforms.shape[1]
        surplus = max(kernel - stride, kernel - time, 0)
        windows = functional.pad(waveforms, (0, surplus)).unfold(1, kernel, stride)[:, : time // stride]
        windows = functional.pad(windows, (0, 1), value=1.0)  # (batch, steps, kernel + 1), last column for the bias
        with torch.autocast(waveforms.device.type, enabled=False):
            kernels = self._fold(windows, is_counted, conv.weight[:, 0].T, conv.bias)
        is_float32 = waveforms.dtype == conv.weight.dtype == torch.float32
        if fast.applies(waveforms) and is_float32 and not torch.is_grad_enabled() and has_onednn():
            padded = functional.pad(waveforms, (0, surplus))
            return lambda rows, steps: _convolve_rows(padded[rows], kernels[rows], steps, stride, gelu=gelu)
        if gelu:
            return lambda rows, steps: functional.gelu(_multiply(windows[rows, steps], kernels[rows]))
        return lambda rows, steps: _multiply(windows[rows, steps], kernels[rows])

    def _fold(self, windows: Tensor, is_counted: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the kernels, with their biases last, that convolve and normalise at once.

        This is done in float64, which costs little: a kernel that passes only weak components of speech has an output
        variance of a millionth of the windows' variance, which float32 would lose.

        Args:
            windows: (batch, steps, taps + 1), the samples under the kernel at each step, and 1.
            is_counted: (batch, steps) bool.
            kernel: (taps, channels).
            bias: (channels,) bias of the convolution, or None.

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
        mean = mean @ precise  # (batch, 1, channels), without the bias
        shift = self.bias - mean * scale if bias is None else self.bias + (bias - (mean + bias)) * scale
        return torch.cat([precise * scale, shift], 1).to(kernel.dtype)


def _convolve_rows(waveforms: Tensor, kernels: Tensor, steps: slice, stride: int, *, gelu: bool) -> Tensor:
    """Convolve each row with its own kernel and bias, without gradients.

    Args:
        waveforms: (rows, time), padded so that each step has all its samples.
        kernels: (rows, taps + 1, channels), the biases last.
        steps: the steps to compute.
        stride: samples from one step to the next.
        gelu: whether GELU follows.

    Returns:
        (rows, steps, channels); under autocast only the result is rounded.
    """
    taps = kernels.shape[1] - 1
    start, stop, _ = steps.indices((waveforms.shape[1] - taps) // stride + 1)
    samples = waveforms[:, start * stride : (stop - 1) * stride + taps, None]  # (rows, time, 1)
    with torch.autocast("cpu", enabled=False):
        parts = [
            convolve_for_inference(row[None], kernel[:-1].T[:, None], kernel[-1].contiguous(), stride, gelu=gelu)
            for row, kernel in zip(samples, kernels, strict=True)
        ]
    out = torch.cat(parts)
    return out.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else out


def _multiply(windows: Tensor, kernels: Tensor) -> Tensor:
    """Multiply (rows, steps, taps + 1) and (rows, taps + 1, channels); under autocast only the product is rounded."""
    device = windows.device.type
    with torch.autocast(device, enabled=False):  # the bias may cancel most of the product, too much for bfloat16
        out = windows @ kernels
    return out.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else out
