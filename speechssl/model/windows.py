"""Encoding of audio of any length in overlapping windows, of which the middles are kept.

The convolutions are local except for the group norm; its statistics are computed over the whole waveform first, so that
the convolutional frames equal those of the whole waveform. Attention is not local: a frame does not see beyond its
window. With windows of 60 s and at least a second of overlap, the features of a trained small model differ by 2.6 % of
their standard deviation, and 1.4 % of frames get another of 100 units; agreement with phones is the same
(`recipes/README.md`).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.model.conv import ConvFeatureExtractor, convolve
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.frames import frame_count, hop_size
from speechssl.model.norm import TimeNorm

__all__ = ["Window", "encode_windows", "place_windows"]

_AT_ONCE = 2**15  # steps of the first convolution held at a time while its statistics are computed


@dataclass(frozen=True)
class Window:
    """A range of frames that are computed together, and the range of them that is kept."""

    start: int
    stop: int
    keep_from: int
    keep_to: int


def place_windows(num_frames: int, size: int, overlap: int) -> list[Window]:
    """Cover frames with evenly spaced windows of equal size, and keep each frame from the nearest window.

    Args:
        num_frames: number of frames to cover.
        size: frames of a window.
        overlap: minimum number of frames that neighbours share; less than `size`.

    Examples:
        >>> [(w.start, w.stop, w.keep_from, w.keep_to) for w in place_windows(100, 60, 10)]
        [(0, 60, 0, 50), (40, 100, 50, 100)]
        >>> place_windows(50, 60, 10)
        [Window(start=0, stop=50, keep_from=0, keep_to=50)]
    """
    if num_frames <= size:
        return [Window(0, num_frames, 0, num_frames)]
    steps = -(-(num_frames - size) // (size - overlap))  # from the first window to the last
    starts = [step * (num_frames - size) // steps for step in range(steps + 1)]
    cuts = [0, *((start + size + after) // 2 for start, after in itertools.pairwise(starts)), num_frames]
    return [Window(start, start + size, *cuts[i : i + 2]) for i, start in enumerate(starts)]


@torch.no_grad()
def encode_windows(
    encoder: SpeechEncoder, waveform: Tensor, layers: Sequence[int], *, size: int, overlap: int
) -> Iterator[list[Tensor]]:
    """Encode one waveform, one window at a time.

    Args:
        encoder: the encoder, in evaluation mode.
        waveform: (time,) float32 at 16 kHz, at least one frame, on any device.
        layers: layers to return, counted from 1.
        size: frames of a window.
        overlap: minimum number of frames that neighbours share.

    Yields:
        len(layers) x (frames, dim) on the encoder's device for each window; concatenated, the frames of the waveform.
    """
    config, device = encoder.config, encoder.mask_vector.device
    norm = _whole_norm(encoder.conv, waveform, device)
    for window in place_windows(frame_count(len(waveform), config.conv), size, overlap):
        part = waveform[window.start * config.hop : (window.stop - 1) * config.hop + config.window]
        conv = _convolve(encoder.conv, part.to(device), norm)[None]  # (1, frames, channels)
        is_valid = torch.ones(conv.shape[:2], dtype=torch.bool)  # on the host, to avoid a synchronisation
        outputs = encoder.transformer(encoder.project(encoder.norm(conv)), is_valid, max(layers))
        kept = slice(window.keep_from - window.start, window.keep_to - window.start)
        yield [outputs[layer - 1][0, kept] for layer in layers]


def _whole_norm(conv: ConvFeatureExtractor, waveform: Tensor, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Return shift and scale, (channels,) each, of the group norm over a whole waveform; None with layer norm."""
    if conv.norm == "layer":
        return None
    _, kernel, stride = conv.stack[0]
    norm, steps = conv.norms[0], frame_count(len(waveform), conv.stack[:1])
    assert isinstance(norm, TimeNorm)
    moments = torch.zeros(2, len(norm.weight), dtype=torch.float64, device=device)
    for start in range(0, steps, _AT_ONCE):
        stop = min(start + _AT_ONCE, steps)
        part = waveform[start * stride : (stop - 1) * stride + kernel].to(device)
        x = _convolve_first(conv, functional.pad(part, (0, -len(part) % stride)))[: stop - start].double()
        moments += torch.stack([x.sum(0), x.square().sum(0)])
    mean, square = moments / steps
    scale = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt() * norm.weight
    return (norm.bias - mean * scale).float(), scale.float()


def _convolve(conv: ConvFeatureExtractor, waveform: Tensor, norm: tuple[Tensor, Tensor] | None) -> Tensor:
    """Extract (frames, channels) from a part of a waveform, with shift and scale of the whole waveform's group norm."""
    x = _convolve_first(conv, functional.pad(waveform, (0, -len(waveform) % hop_size(conv.stack))))  # whole hops
    x = conv.norms[0](x) if norm is None else torch.addcmul(norm[0], x, norm[1])
    return conv.later_layers(x[None])[0, : frame_count(len(waveform), conv.stack)]


def _convolve_first(conv: ConvFeatureExtractor, waveform: Tensor) -> Tensor:
    """Map (time,) through the first convolution, as `ConvFeatureExtractor` does: (steps, channels)."""
    layer = conv.convs[0]
    assert isinstance(layer, torch.nn.Conv1d)
    return convolve(waveform[None, :, None], layer)[0]
