"""Convolutional feature extractor: waveform to one frame every 20 ms (or what the stack's strides multiply to).

Section 2 of wav2vec 2.0 (arXiv:2006.11477); HuBERT (arXiv:2106.07447) uses the same stack. Knows nothing about
masking or objectives. Padding never leaks: each convolution looks only at real samples for every valid frame, and the
statistics of the group norm are taken over valid frames alone, unless asked for otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.fast import convolution
from speechssl.model.host import send
from speechssl.model.norm import ChannelNorm, TimeNorm
from speechssl.model.pieces import in_pieces

__all__ = ["BASE_STACK", "ConvFeatureExtractor", "Stack", "frame_count", "hop_size", "receptive_field", "within"]

Stack = Sequence[tuple[int, int, int]]  # (channels, kernel, stride) of each convolution, first to last

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
    layer is, over its channels.
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
            conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=bias)
            nn.init.kaiming_normal_(conv.weight)
            self.convs.append(conv)
            if norm == "layer":
                self.norms.append(ChannelNorm(channels))
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
        if torch.compiler.is_exporting():  # a graph has no branch on lengths
            conv, norm = next(self._layers())
            x = convolve(waveforms[..., None], conv)  # (batch, steps, channels)
            if isinstance(norm, TimeNorm):
                x = norm(x, within(frame_count(counted, self.stack[:1]), x.shape[1]))
            else:
                x = normalised(x, norm)
            return self.later_layers(x)
        hop, window, frames = hop_size(self.stack), receptive_field(self.stack), frame_count(time, self.stack)
        size = max(time, window)
        waveforms = functional.pad(waveforms, (0, size + -size % hop - time))  # whole hops, one frame at least
        first = self._first_layer(waveforms, counted)
        if torch.is_grad_enabled() or not frames:
            return self.later_layers(first(slice(None), slice(None)))[:, :frames]
        channels, _, stride = self.stack[0]
        steps = hop // stride  # of the first layer, a frame
        beyond = -(-window // hop) - 1  # frames that a frame's last samples lie ahead
        return in_pieces(first, self.later_layers, (batch, frames), steps=steps, beyond=beyond, channels=channels)

    def _first_layer(self, waveforms: Tensor, counted: Tensor) -> Callable[[slice, slice], Tensor]:
        """Return what convolves and normalises some rows of the batch at some steps: (rows, steps, channels)."""
        conv, norm = next(self._layers())
        samples = waveforms.unflatten(1, (-1, conv.stride[0]))  # (batch, steps, stride)
        if isinstance(norm, TimeNorm):
            is_counted = within(frame_count(counted, self.stack[:1]), samples.shape[1])  # (batch, steps)
            return norm.folded_into(conv, waveforms, is_counted)
        return lambda rows, steps: normalised(convolve(samples[rows, steps].flatten(1)[..., None], conv), norm)

    def later_layers(self, x: Tensor) -> Tensor:
        """Map the first layer's (batch, steps, channels), before GELU, to (batch, frames, channels)."""
        x = functional.gelu(x)
        for conv, norm in list(self._layers())[1:]:
            x = functional.gelu(normalised(convolve(x, conv), norm))  # (batch, steps, channels)
        return x

    def _layers(self) -> Iterator[tuple[nn.Conv1d, nn.Module | None]]:
        """Give each convolution with the norm that follows it, if one does."""
        for conv, norm in zip_longest(self.convs, self.norms):
            assert isinstance(conv, nn.Conv1d)
            yield conv, norm


def convolve(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Convolve (batch, steps, in_channels), steps a multiple of the stride: (batch, steps / stride, out_channels).

    What a kernel would make that reaches past the end is missing, or holds garbage.
    """
    if fast.applies(x):
        return convolution.convolve(x, conv.weight, conv.bias, conv.stride[0])
    x = conv(x.transpose(1, 2)).transpose(1, 2)
    return x.contiguous()  # torch 2.15 cannot export an elementwise operation on a transposed axis of free length


def normalised(x: Tensor, norm: nn.Module | None) -> Tensor:
    """Normalise (batch, steps, channels), if there is a norm."""
    return x if norm is None else norm(x)
