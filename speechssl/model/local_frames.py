"""Extraction of any part of a waveform, equal to that part of the extraction of the whole waveform.

The convolutions are local except for the group norm, whose statistics are computed over the whole waveform first,
without holding its frames.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.model.conv import ConvFeatureExtractor
from speechssl.model.frames import frame_count, hop_size, receptive_field
from speechssl.model.norm import TimeNorm

__all__ = ["extract_part", "local_extractor"]

_AT_ONCE = 2**15  # steps of the first convolution held at a time while its statistics are computed


def local_extractor(conv: ConvFeatureExtractor, waveform: Tensor) -> Callable[[int, int], Tensor]:
    """Prepare the extraction of parts of a waveform.

    Args:
        conv: the extractor, in evaluation mode.
        waveform: (time,) float32 at 16 kHz, at least one frame, on any device.

    Returns:
        A function that maps a range of frames, start and stop, to (frames, channels) on the extractor's device.
    """
    device = next(conv.parameters()).device
    norm, hop, window = _whole_norm(conv, waveform, device), hop_size(conv.stack), receptive_field(conv.stack)

    def extract(start: int, stop: int) -> Tensor:
        return extract_part(conv, waveform[start * hop : (stop - 1) * hop + window].to(device), norm)

    return extract


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
        x = conv.first_steps(functional.pad(part, (0, -len(part) % stride))[None])[0, : stop - start].double()
        moments += torch.stack([x.sum(0), x.square().sum(0)])
    mean, square = moments / steps
    scale = (square - mean.square()).clamp(min=0).add(norm.eps).rsqrt() * norm.weight
    return (norm.bias - mean * scale).float(), scale.float()


def extract_part(conv: ConvFeatureExtractor, waveform: Tensor, norm: tuple[Tensor, Tensor] | None) -> Tensor:
    """Extract the frames of a part of a waveform.

    Args:
        conv: the extractor, in evaluation mode.
        waveform: (time,) float32 at 16 kHz, at least one frame, on the extractor's device.
        norm: shift and scale, (channels,) each, that the group norm amounts to; None with layer norm.

    Returns:
        (frames, channels).
    """
    x = conv.first_steps(functional.pad(waveform, (0, -len(waveform) % hop_size(conv.stack)))[None])  # whole hops
    x = conv.norms[0](x) if norm is None else torch.addcmul(norm[0], x, norm[1])
    return conv.after_first_norm(x)[0, : frame_count(len(waveform), conv.stack)]
