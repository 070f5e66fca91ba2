"""A teacher network: a copy of the Transformer that follows the student as an exponential moving average (EMA).

Mean Teacher (arXiv:1703.01780) and BYOL (arXiv:2006.07733), with the schedule of data2vec (arXiv:2202.03555, section
3.2). The extractor is the student's own, as in data2vec 2.0 (arXiv:2212.07525): masks are applied after it, so its
output is that of the unmasked batch, and the teacher costs one pass of the Transformer without gradients.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.model.encoder import SpeechEncoder

__all__ = ["EmaConfig", "Teacher", "normalize_over_time"]

EPSILON = 1e-5  # added to the variance over time


@configuration
class EmaConfig:
    """How slowly the teacher follows; the defaults are those of data2vec BASE for speech."""

    start: float = 0.999  # decay after the first update: the share of the teacher that an update keeps
    end: float = 0.9999  # decay from update `steps` on (fairseq: ema_end_decay)
    steps: int = 30_000  # updates in which the decay rises linearly (fairseq: ema_anneal_end_step)

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1 or self.steps < 1:
            raise ConfigError(
                "objective.ema must have 0 <= start <= end <= 1 and steps of 1 or more, found "
                f"start={self.start}, end={self.end}, steps={self.steps}"
            )

    def decay(self, step: int) -> float:
        """Return the share of the teacher that update `step`, counted from 1, keeps.

        Examples:
            >>> config = EmaConfig(start=0.9, end=0.99, steps=100)
            >>> [round(config.decay(step), 4) for step in (0, 50, 100, 1000)]
            [0.9, 0.945, 0.99, 0.99]
        """
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


class Teacher(nn.Module):
    """The moving average of projection and Transformer; never in training mode, without gradients."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        """Copy projection and Transformer, with the current weights."""
        super().__init__()
        self.project = copy.deepcopy(encoder.project)
        self.transformer = copy.deepcopy(encoder.transformer)
        self.transformer.packed = True
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a teacher drops nothing."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, features: Tensor, is_valid: Tensor) -> Sequence[Tensor]:
        """Encode the unmasked batch.

        Args:
            features: (batch, frames, conv channels), `Encoded.features`.
            is_valid: (batch, frames) bool, False in the padding, on the host.

        Returns:
            num_layers x (batch, frames, dim), without gradient.
        """
        return self.transformer(self.project(features), is_valid)

    @torch.no_grad()
    def follow(self, encoder: SpeechEncoder, decay: float) -> None:
        """Keep `decay` of each parameter and take the rest from the student's.

        Each rank updates its own shard, if parameters are sharded: teacher and student are sharded alike.
        """
        student = [*encoder.project.parameters(), *encoder.transformer.parameters()]
        torch._foreach_lerp_([*_local(self.parameters())], [*_local(student)], 1 - decay)


def normalize_over_time(x: Tensor, is_valid: Tensor) -> Tensor:
    """Normalise each channel of each utterance to mean 0 and variance 1 over its valid frames: instance norm.

    Args:
        x: (batch, frames, dim).
        is_valid: (batch, frames) bool, False in the padding, on the device of `x`.

    Returns:
        (batch, frames, dim) float32, undefined in the padding; 0 for an utterance of one frame.
    """
    x = x.float()
    share = is_valid.float() / is_valid.sum(1, keepdim=True).clamp(min=1)  # (batch, frames), weights of the average
    centred = x - share[:, None] @ x
    return centred * torch.rsqrt(share[:, None] @ centred.square() + EPSILON)


def _local(parameters: Iterator[nn.Parameter] | Sequence[nn.Parameter]) -> Iterator[Tensor]:
    for parameter in parameters:
        yield parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()
