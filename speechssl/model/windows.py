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

from speechssl.model.encoder import SpeechEncoder
from speechssl.model.first_input import first_inputs

__all__ = ["Window", "encode_windows", "place_windows"]


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
        layers: layers to return, counted from 1; 0 is the input of the first.
        size: frames of a window.
        overlap: minimum number of frames that neighbours share.

    Yields:
        len(layers) x (frames, dim) on the encoder's device for each window; concatenated, the frames of the waveform.
    """
    extract = encoder.local_frames(waveform)
    num_frames = int(encoder.count_frames(torch.tensor(len(waveform))))
    for window in place_windows(num_frames, size, overlap):
        start = window.start - window.start % encoder.config.transformer.group  # for the groups of the whole
        with first_inputs(encoder.transformer) as inputs:
            outputs = encoder.contextual_layers(extract(start, window.stop)[None], max(layers))
        kept = slice(window.keep_from - start, window.keep_to - start)
        yield [(outputs[layer - 1] if layer else inputs[0])[0, kept] for layer in layers]
