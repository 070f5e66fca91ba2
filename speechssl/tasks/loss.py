"""What an objective returns for one batch. Every objective speaks this, so that one loop trains them all."""

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["LossSum"]


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """A loss summed over what it predicts, not averaged: only the global count is the right divisor across ranks."""

    value: Tensor  # () float, carries the gradient
    count: Tensor  # () int64, predicted frames (pretraining) or utterances (CTC)
    parts: dict[str, Tensor]  # what to log: () float each, detached, averages over this batch
    tallies: dict[str, Tensor] = field(default_factory=dict)  # (..., entries) float32 counts, to be added up
