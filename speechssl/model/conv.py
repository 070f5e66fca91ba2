"""Convolutional feature extractor: waveform to one frame every 20 ms (or what the stack's strides multiply to).

Section 2 of wav2vec 2.0 (arXiv:2006.11477); HuBERT (arXiv:2106.07447) uses the same stack. Knows nothing about
masking or objectives. Padding never leaks: each convolution looks only at real samples for every valid frame, and the
statistics of the group norm are taken over valid frames alone, unless asked for otherwise.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.host import send

__all__ = ["BASE_STACK", "ConvFeatureExtractor", "Stack", "frame_count", "hop_size", "receptive_field", "within"]

Stack = Sequence[tuple[int, int, int]]  # (channels, kernel, stride) of each convolution, first to last

PIECE = 2**23  # numbers of the first layer's output that are computed at a time where no gradients are asked for

BASE_STACK: tuple[tuple[int, int, int], ...] = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)


@overload
def frame_count(num_samples: int, stack: Stack) -> int: ...
@overload
def frame_count(num_samples: Tensor, stack: Stack) -> Tensor: ...
def frame_count(num_samples: int | Tensor, stack: Stack) -> int | Tensor:
    """Count the frames that `stack` makes from waveforms of the given lengths.

    Args:
        num_samples: (batch,) int64, real samples in each waveform at 16 kHz; or those of one waveform.
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
    """Return the samples from one frame to the next.

    Examples:
        >>> hop_size(BASE_STACK)
        320
    """
    hop = 1
    for _, _, stride in stack:
        hop *= stride
    return hop


def receptive_field(stack: Stack) -> int:
    """Return the samples one frame looks at.

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


class ConvFeatureExtractor(nn.Module):
    """The stack of convolutions, each with GELU.

    With `norm="group"` (BASE) only layer 0 is normalised, each channel over time; with `norm="layer"` (LARGE) every
    layer is, over its channels. The whole batch runs as one sequence of rows (steps, channels), see `strided_conv`.
    """

    def __init__(
        self, stack: Stack, norm: Literal["group", "layer"], bias: bool, *, padding_in_norm: bool = False
    ) -> None:
        """Build the stack.

        Args:
            stack: the convolutions, first to last.
            norm: over time in layer 0, or over channels in every layer.
            bias: of the convolutions.
            padding_in_norm: take the statistics of the group norm over the zeros of the padding too, as the reference
                implementations do; an utterance's frames then depend on the length of its batch.
        """
        super().__init__()
        self.stack = tuple(stack)
        self.norm = norm
        self.padding_in_norm = padding_in_norm
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        in_channels = 1
        for index, (channels, kernel, stride) in enumerate(self.stack):
            conv = nn.Conv1d(
                in_channels, channels, kernel, stride, bias=bias
            )  # holds the parameters, by their usual names
            nn.init.kaiming_normal_(conv.weight)
            self.convs.append(conv)
            if norm == "layer":
                self.norms.append(nn.LayerNorm(channels))
            elif index == 0:
                self.norms.append(TimeNorm(channels))
            in_channels = channels

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Extract frames.

        Args:
            waveforms: (batch, time) float, 16 kHz.
            num_samples: (batch,) int64, on the host or with `waveforms`, real samples in each row; what follows them
                is padding.

        Returns:
            (batch, frames, channels); frames past `frame_count(num_samples, stack)` hold garbage.
        """
        batch, time = waveforms.shape
        num_samples = send(num_samples, waveforms.device)
        waveforms = waveforms.masked_fill(~within(num_samples, time), 0)  # zero weights do not stop infinities and NaN
        counted = torch.full_like(num_samples, time) if self.padding_in_norm else num_samples
        if torch.compiler.is_exporting():
            return self._forward_by_rows(waveforms, counted)
        waveforms = functional.pad(waveforms, (0, -time % hop_size(self.stack)))  # rows end on whole hops
        first = self._first_layer(waveforms, counted)
        frames = frame_count(time, self.stack)
        if torch.is_grad_enabled() or not frames:
            return self.later_layers(first(slice(batch), slice(None)))[:, :frames]
        return self._in_pieces(first, batch, frames)

    def _first_layer(self, waveforms: Tensor, counted: Tensor) -> Callable[[slice, slice], Tensor]:
        """Return what convolves and normalises some rows of the batch at some steps: (rows, steps, channels)."""
        conv, norm = next(self._layers())
        stride = self.stack[0][2]
        if isinstance(norm, TimeNorm):
            windows, taps = normalised_kernel(waveforms, frame_count(counted, self.stack[:1]), conv, norm, stride)
            return lambda rows, steps: convolved(windows[rows, steps], taps[rows])

        def layer(rows: slice, steps: slice) -> Tensor:
            samples = waveforms.unflatten(1, (-1, stride))[rows, steps]  # (rows, steps, stride)
            x = strided_conv(samples.reshape(-1, 1), conv.weight, conv.bias, stride)
            return normalised(x, norm).unflatten(0, samples.shape[:2])

        return layer

    def later_layers(self, x: Tensor) -> Tensor:
        """Map (batch, steps, channels) of the first convolution to (batch, steps / their strides, channels)."""
        batch = len(x)
        x = functional.gelu(x.flatten(0, 1))
        for (conv, norm), (_, _, stride) in zip(list(self._layers())[1:], self.stack[1:], strict=True):
            x = strided_conv(x, conv.weight, conv.bias, stride)  # (batch * steps, channels)
            x = functional.gelu(normalised(x, norm))
        return x.unflatten(0, (batch, -1))

    def _in_pieces(self, first: Callable[[slice, slice], Tensor], batch: int, frames: int) -> Tensor:
        """Extract (batch, frames, channels) without gradients, some rows or a part of one at a time.

        The first layer's output is by far the widest; so the whole batch takes the memory of a few seconds of it. What
        the last frames of a piece see beyond it is computed once more for the next one.
        """
        hop, stride = hop_size(self.stack), self.stack[0][2]
        steps = hop // stride  # of the first layer, a frame
        beyond = math.ceil(receptive_field(self.stack) / hop) - 1  # frames that a frame's last samples lie ahead
        length = max(1, PIECE // (steps * self.stack[0][0]))  # frames a piece
        num_rows = max(1, length // frames)
        pieces = []
        for row in range(0, batch, num_rows):
            parts = []
            for at in range(0, frames, length):
                x = first(slice(row, row + num_rows), slice(at * steps, (at + length + beyond) * steps))
                parts.append(self.later_layers(x)[:, : min(length, frames - at)])
            pieces.append(torch.cat(parts, 1))
        return torch.cat(pieces)

    def _forward_by_rows(self, waveforms: Tensor, counted: Tensor) -> Tensor:
        """Convolve each row for itself: for exported graphs, which have no operator for `ShiftedProducts`."""
        x = waveforms[..., None]  # (batch, time, 1)
        for conv, norm in self._layers():
            x = conv(x.transpose(1, 2)).transpose(1, 2)  # (batch, steps, channels)
            x = x.contiguous()  # torch 2.15 cannot export an elementwise operation on a transposed axis of free length
            if isinstance(norm, TimeNorm):
                x = norm(x, frame_count(counted, self.stack[:1]))
            else:
                x = x if norm is None else norm(x)
            x = functional.gelu(x)
        return x

    def _layers(self) -> Iterator[tuple[nn.Conv1d, nn.Module | None]]:
        """Give each convolution with the norm that follows it, if one does."""
        for conv, norm in zip_longest(self.convs, self.norms):
            assert isinstance(conv, nn.Conv1d)
            yield conv, norm


def strided_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolve along the rows of `x`, as matrix products over the memory as it lies.

    `stride` successive rows are one row of `stride * in_channels` numbers, so a kernel of one stride is a single
    product and a longer kernel adds the product of the following rows. Nothing is unfolded, copied or transposed, and
    utterances may lie end to end: only outputs whose kernel reaches past the utterance see its neighbour, and those
    are not valid frames anyway.

    Args:
        x: (steps, in_channels), steps a multiple of `stride`.
        weight: (out_channels, in_channels, kernel), as in `nn.Conv1d`.
        bias: (out_channels,) or None.
        stride: rows from one output to the next.

    Returns:
        (steps / stride, out_channels); outputs whose kernel reaches past the last row lack its contribution.
    """
    out_channels, in_channels, kernel = weight.shape
    taps = weight.permute(2, 1, 0).reshape(kernel * in_channels, out_channels)
    rows = x.reshape(-1, stride * in_channels)
    if torch.is_autocast_enabled(x.device.type):
        rows, taps = (tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in (rows, taps))
    out = ShiftedProducts.apply(rows, taps)
    return out if bias is None else out + bias.to(out.dtype)


def normalised(x: Tensor, norm: nn.Module | None) -> Tensor:
    """Normalise each row of (steps, channels), under autocast too in the type of `x`, as the reference code does.

    Autocast would write the widest tensors there are in float32, for GELU to read and write as many bytes, and for
    the next convolution to round.
    """
    if not isinstance(norm, nn.LayerNorm) or not torch.is_autocast_enabled(x.device.type):
        return x if norm is None else norm(x)
    if x.device.type == "cpu":  # whose kernel would add up the weight's gradient in bfloat16: 15 % off after 10 s
        return norm(x.float()).to(x.dtype)
    return _normalised_in_one_type(x, norm)


def _normalised_in_one_type(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise (steps, channels) by a kernel that reads and writes the type of `x`; CUDA's computes in float32."""
    weight, bias = (parameter.to(x.dtype) for parameter in (norm.weight, norm.bias))
    with torch.autocast(x.device.type, enabled=False):
        return functional.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


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
        if len(taps) < inner:  # a stride longer than the kernel leaves samples out
            rows_gradient = functional.pad(gradient @ taps.T, (0, inner - len(taps)))
        else:
            rows_gradient = gradient @ taps[:inner].T
        for shift, part in enumerate(taps[inner:].split(inner), 1):
            rows_gradient[shift:, : len(part)].addmm_(gradient[:-shift], part.T)
        return rows_gradient, taps_gradient


def normalised_kernel(
    waveforms: Tensor, counts: Tensor, conv: nn.Conv1d, norm: "TimeNorm", stride: int
) -> tuple[Tensor, Tensor]:
    """Prepare to convolve waveforms and normalise each channel over time in one product.

    Mean and variance of a channel follow from those of the windows that its kernel sees: with mean m and covariance C
    of the windows, they are w m and w C w. So the norm becomes another kernel and another bias for each row of the
    batch, and the widest output of the extractor is written once, and read by nothing but what follows.

    Args:
        waveforms: (batch, time), time a multiple of `stride`.
        counts: (batch,) int64, steps of each row that the statistics are taken over.
        conv: one channel in.
        norm: of its output.
        stride: samples from one window to the next.

    Returns:
        (batch, time / stride, taps) windows and (batch, taps, channels) kernels for `convolved`, the last tap the bias.
    """
    kernel = conv.kernel_size[0]
    time = waveforms.shape[1]
    surplus = max(kernel - stride, kernel - time, 0)
    windows = functional.pad(waveforms, (0, surplus)).unfold(1, kernel, stride)[:, : time // stride]
    windows = functional.pad(windows, (0, 1), value=1.0)  # (batch, steps, kernel + 1)
    with torch.autocast(waveforms.device.type, enabled=False):
        return windows, norm.into_kernel(windows, counts, conv.weight[:, 0].T, conv.bias)


def convolved(windows: Tensor, taps: Tensor) -> Tensor:
    """Multiply what `normalised_kernel` gave, or the same part of both: `norm(conv(...), counts)`."""
    device = windows.device.type
    with torch.autocast(device, enabled=False):  # the bias may take off far more than it leaves: no case for bfloat16
        out = windows @ taps
    return out.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else out


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

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Normalise (batch, steps, channels) by the statistics of the first `counts` (batch,) steps of each row."""
        x = x.float()
        is_valid = within(counts, x.shape[1])[..., None]  # (batch, steps, 1)
        share = is_valid.to(x.dtype) / counts.clamp(min=1)[:, None, None]  # averages over the valid steps
        mean = share.transpose(1, 2) @ x  # (batch, 1, channels)
        variance = share.transpose(1, 2) @ (x - mean).square()
        scale = torch.rsqrt(variance + self.eps) * self.weight  # (batch, 1, channels)
        return torch.addcmul(self.bias - mean * scale, x, scale)

    def into_kernel(self, windows: Tensor, counts: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Return the kernels, their biases last, that convolve and normalise at once.

        In float64, for next to no time: a kernel that passes only what is weak in speech has a variance of a
        millionth of the windows', which float32 would lose.

        Args:
            windows: (batch, steps, taps + 1), what the kernel sees at each step, and 1.
            counts: (batch,) int64, valid steps.
            kernel: (taps, channels).
            bias: (channels,) of the convolution, or None.

        Returns:
            (batch, taps + 1, channels) in the type of `kernel`.
        """
        precise = kernel.double()
        is_valid = within(counts, windows.shape[1])[..., None]  # (batch, steps, 1)
        valid = windows.double() * is_valid
        moments = valid.transpose(1, 2) @ valid / counts.clamp(min=1)[:, None, None]  # (batch, taps + 1, taps + 1)
        mean = moments[:, -1:, :-1]  # (batch, 1, taps)
        covariance = moments[:, :-1, :-1] - mean.transpose(1, 2) * mean
        variance = ((covariance @ precise) * precise).sum(1, keepdim=True)  # (batch, 1, channels)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        mean = mean @ precise  # (batch, 1, channels); the bias is part of the output and of its mean
        shift = self.bias - mean * scale if bias is None else self.bias + (bias - (mean + bias)) * scale
        return torch.cat([precise * scale, shift], 1).to(kernel.dtype)
