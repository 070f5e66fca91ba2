"""Encoding of a stream with work and memory that do not grow: what is settled is kept, not computed again.

Each frame is extracted once. The Transformer encodes the frames that are not settled; they attend to each other and to
the keys and values that each layer keeps of the settled ones, as they were when they were settled.
"""

import torch
from torch import Tensor

from speechssl.model.earlier_frames import EarlierFrames
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.hourglass import FrameGroups
from speechssl.model.incremental_frames import IncrementalFrames

__all__ = ["IncrementalEncoder"]


class IncrementalEncoder:
    """A stream of samples and its encoded frames."""

    def __init__(self, encoder: SpeechEncoder, *, normalize: bool, context: int) -> None:
        """Begin a stream.

        Args:
            encoder: the encoder, in evaluation mode.
            normalize: bring the waveform to zero mean and unit variance.
            context: number of frames that attend to each other, settled ones counted.
        """
        self.frames = IncrementalFrames(encoder.conv, normalize=normalize, horizon=context * encoder.config.hop)
        self.settled = 0  # number of settled frames
        self._encoder, self._context = encoder, context
        self._earlier = [EarlierFrames() for _ in encoder.transformer.layers]
        device = next(encoder.parameters()).device
        # (frames, dim), projected: those that are not settled, after the settled ones that the positions depend on
        self._features = torch.zeros(0, encoder.dim, device=device)
        self._before = 0  # number of settled frames in `_features`

    @torch.no_grad()
    def settle(self, until: int) -> Tensor:
        """Encode the frames that are not settled, and settle those before frame `until`.

        Args:
            until: a multiple of `TransformerConfig.group`, or the number of available frames at the end of the stream.

        Returns:
            (frames, dim), output of the last layer for the frames that are settled now, at least one.

        Raises:
            ValueError: frames of a group would be settled without the others.
        """
        encoder, transformer = self._encoder, self._encoder.transformer
        group, lower, groups = transformer.config.group, transformer.config.lower, None
        if until % group and until < self.frames.available:
            raise ValueError(f"until is {until}, expected a multiple of {group}, the frames of a group")
        if self.frames.available > self.frames.extracted:
            new = encoder.project(encoder.norm(self.frames.extract()))
            self._features = torch.cat([self._features, new])
        x = (self._features + transformer.positions(self._features[None])[0])[None, self._before :]
        if transformer.config.norm == "post":
            x = transformer.norm(x)
        for index, (layer, earlier) in enumerate(zip(transformer.layers, self._earlier, strict=True)):
            if lower and index == lower[0]:
                groups = FrameGroups(x, torch.ones(x.shape[:2], dtype=torch.bool), group, None)
                x = groups.averaged()
            x = layer(x, earlier)
            if groups is not None and index == lower[-1]:
                x = groups.restored(x)
        if transformer.config.norm == "pre":
            x = transformer.norm(x)
        number, room = until - self.settled, max(0, self._context - x.shape[1])
        for index, earlier in enumerate(self._earlier):
            size = group if index in lower else 1
            earlier.keep(-(-number // size), room // size)
        begin = max(0, self._before + number - transformer.config.position_kernel // 2)
        self._before += number - begin
        self._features, self.settled = self._features[begin:], until
        return x[0, :number]
