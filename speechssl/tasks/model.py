"""A model that learns, as the training loop sees it: a batch in, a `LossSum` out, and what else a run asks of it."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.encoder import SpeechEncoder
from speechssl.tasks.health import Health

__all__ = ["LossSum", "TaskModel"]


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """A loss summed over what it predicts, not averaged: only the global count is the right divisor across ranks."""

    value: Tensor  # () float, carries the gradient
    count: Tensor  # () int64, predicted frames (pretraining) or utterances (CTC)
    parts: dict[str, Tensor]  # what to log: () float each, detached, averages over this batch
    tallies: dict[str, Tensor] = field(default_factory=dict)  # (..., entries) float32 counts, to be added up


class TaskModel(nn.Module):
    """A trunk with what one task puts on it. The training loop trains any module; one of this class, it knows more of.

    Its trunk is `encoder`: it decides about learning rates, sharding and recomputation.
    """

    encoder: SpeechEncoder

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch.

        Args:
            batch: its lengths on the host.
            context: of the training step.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Update what follows the weights without a gradient, a teacher or a codebook; on every rank.

        Args:
            step: steps done, this one and skipped ones counted. It is not called for a step that was skipped.
        """

    def health(self) -> Health | None:
        """Say what a healthy run looks like; None if nothing is known."""
        return None

    @property
    def thaws(self) -> bool:
        """Whether parameters begin to learn on the way."""
        return False
