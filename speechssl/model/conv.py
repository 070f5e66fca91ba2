"""Convolutional feature extractor: waveform to one frame every 20 ms (in general, every product of the strides).

Section 2 of wav2vec 2.0 (arXiv:2006.11477); HuBERT (arXiv:2106.07447) uses the same stack. Log-mel energies may take
the place of the first convolution. It does not handle masking or objectives. Padding never leaks: a valid frame depends
on real samples only, and the group norm takes its statistics over valid frames only, unless `padding_in_norm` is set.
"""

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.fast import convolution
from speechssl.model.fast.packed import PackedConv
from speechssl.model.frames import Stack, frame_count, hop_size, receptive_field, within
from speechssl.model.host import send
from speechssl.model.in_pieces import in_pieces
from speechssl.model.log_mel import LogMel
from speechssl.model.norm import ChannelNorm, TimeNorm

__all__ = ["ConvFeatureExtractor", "convolve"]


class ConvFeatureExtractor(nn.Module):
    """A stack of convolutions, each followed by GELU.

    With `norm="group"` (BASE) only layer 0 is normalised, each channel over time; with `norm="layer"` (LARGE) every
    layer is normalised over its channels. With `log_mel` layer 0 computes log-mel energies, and no GELU follows: either
    norm takes away the loudness, that over time the frequency response of the recording, too.
    """

    def __init__(
        self,
        stack: Stack,
        norm: Literal["group", "layer"],
        bias: bool,
        *,
        padding_in_norm: bool = False,
        log_mel: bool = False,
    ) -> None:
        """Build the stack.

        Args:
            stack: the convolutions, first to last.
            norm: "group" normalises over time in layer 0, "layer" over channels in every layer.
            bias: whether the convolutions have a bias.
            padding_in_norm: include the zeros of the padding in the statistics of the group norm, as the reference
                implementations do; an utterance's frames then depend on the padded length of its batch.
            log_mel: whether layer 0 of the stack is `LogMel`, with as many bins as the stack gives it channels.
        """
        super().__init__()
        self.stack = tuple(stack)
        self.norm = norm
        self.padding_in_norm = padding_in_norm
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        in_channels = 1
        for index, (channels, kernel, stride) in enumerate(self.stack):
            if log_mel and index == 0:
                self.convs.append(LogMel(channels))
            else:
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
            num_samples: (batch,) int64, real samples in each row, the rest is padding; on the host or on the device of
                `waveforms`.

        Returns:
            (batch, frames, channels); frames past `frame_count(num_samples, stack)` are undefined.
        """
        batch, time = waveforms.shape
        num_samples = send(num_samples, waveforms.device)
        waveforms = waveforms.masked_fill(~within(num_samples, time), 0)  # padding may hold NaN, and 0 * NaN is NaN
        counted = torch.full_like(num_samples, time) if self.padding_in_norm else num_samples
        if torch.compiler.is_exporting():
            return self._layer_by_layer(waveforms, counted)
        hop, frames = hop_size(self.stack), frame_count(time, self.stack)
        size = max(time, receptive_field(self.stack))
        waveforms = functional.pad(waveforms, (0, size + -size % hop - time))  # whole hops, one frame at least
        first = self._first_layer(waveforms, counted)
        if torch.is_grad_enabled() or not frames:
            return self.later_layers(first(slice(None), slice(None)))[:, :frames]
        return in_pieces(first, self.later_layers, batch, frames, self.stack)

    def _layer_by_layer(self, waveforms: Tensor, counted: Tensor) -> Tensor:
        """Extract the frames of (batch, time) without branches on lengths, for exported graphs."""
        return self.after_first_norm(self._first_norm(self.first_steps(waveforms), counted))

    def _first_layer(self, waveforms: Tensor, counted: Tensor) -> Callable[[slice, slice], Tensor]:
        """Return a function from rows and steps of the batch to the first layer's output: (rows, steps, channels)."""
        conv, norm = next(self._layers())
        if isinstance(conv, LogMel):
            with torch.autocast(waveforms.device.type, enabled=False):
                energies = self._first_norm(self.first_steps(waveforms), counted)
            return lambda rows, steps: energies[rows, steps]
        samples = waveforms.unflatten(1, (-1, conv.stride[0]))  # (batch, steps, stride)
        if isinstance(norm, TimeNorm):
            is_counted = within(frame_count(counted, self.stack[:1]), samples.shape[1])  # (batch, steps)
            return norm.folded_into(conv, waveforms, is_counted, gelu=True)
        return lambda rows, steps: functional.gelu(norm(convolve(samples[rows, steps].flatten(1)[..., None], conv)))

    def _first_norm(self, x: Tensor, counted: Tensor) -> Tensor:
        """Normalise the first layer's output (batch, steps, channels); `counted` samples of a row are in statistics."""
        norm = self.norms[0]
        if isinstance(norm, TimeNorm):
            return norm(x, within(frame_count(counted, self.stack[:1]), x.shape[1]))
        return cast(Tensor, norm(x))

    def first_steps(self, waveforms: Tensor) -> Tensor:
        """Map (batch, time), whole hops, to the first layer's output before its norm: (batch, steps, channels).

        Steps whose window reaches past the end are missing or undefined.
        """
        first = self.convs[0]
        if not isinstance(first, LogMel):
            return convolve(waveforms[..., None], cast(nn.Conv1d, first))
        x = first(waveforms)
        return functional.pad(x, (0, 0, 0, waveforms.shape[1] // self.stack[0][2] - x.shape[1]))

    def after_first_norm(self, x: Tensor) -> Tensor:
        """Map the first layer's normalised output (batch, steps, channels) to (batch, frames, channels)."""
        return self.later_layers(x if isinstance(self.convs[0], LogMel) else functional.gelu(x))

    def later_layers(self, x: Tensor) -> Tensor:
        """Map the first layer's output (batch, steps, channels), GELU applied, to (batch, frames, channels)."""
        for conv, norm in list(self._layers())[1:]:
            is_last = isinstance(norm, nn.Identity)  # then GELU follows at once
            x = convolve(x, conv, gelu=is_last)  # (batch, steps, channels)
            x = x if is_last else functional.gelu(norm(x))
        return x

    def _layers(self) -> Iterator[tuple[nn.Conv1d, nn.Module]]:
        """Yield each convolution, which may be a `PackedConv`, with the norm that follows it, or `nn.Identity`."""
        for conv, norm in zip_longest(self.convs, self.norms, fillvalue=nn.Identity()):
            yield cast(nn.Conv1d, conv), norm


def convolve(x: Tensor, conv: nn.Conv1d | PackedConv, *, gelu: bool = False) -> Tensor:
    """Convolve (batch, steps, in_channels), steps a multiple of the stride: (batch, steps / stride, out_channels).

    Outputs whose kernel would reach past the end are missing or undefined. With `gelu`, GELU is applied to the others.
    """
    if isinstance(conv, PackedConv):
        return conv(x, gelu=gelu)
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    in_16_bits = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    x = x if in_16_bits else x.to(conv.weight.dtype)  # a packed layer before this one returns 16 bits
    if fast.applies(x) and x.shape[1] >= kernel and convolution.suits_onednn(x, conv):
        return convolution.convolve_for_inference(x, conv.weight, conv.bias, stride, gelu=gelu)
    if fast.applies(x):
        x = convolution.convolve(x, conv.weight, conv.bias, stride)
    elif in_16_bits and convolution.is_narrow(conv):
        with torch.autocast("cpu", enabled=False):
            x = conv(x.float().transpose(1, 2)).transpose(1, 2).contiguous()
        x = x.to(torch.get_autocast_dtype("cpu"))
    else:
        x = conv(x.transpose(1, 2)).transpose(1, 2)
        x = x.contiguous()  # torch 2.15 cannot export an elementwise operation on a transposed axis of free length
    return functional.gelu(x) if gelu else x
