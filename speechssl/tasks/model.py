"""The interface of a trainable model: a batch in, a `LossSum` out, and hooks of the training loop."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.encoder import SpeechEncoder
from speechssl.tasks.health import Health

__all__ = ["LossSum", "TaskModel"]


@dataclass(frozen=True, kw_only=True)
class LossSum:
    """A loss summed over predictions, not averaged: across ranks, only the global count is the right divisor."""

    value: Tensor  # () float, carries the gradient
    count: Tensor  # () int64, predicted frames (pretraining) or utterances (CTC)
    parts: dict[str, Tensor]  # metrics to log: () float each, detached, averages over this batch
    tallies: dict[str, Tensor] = field(default_factory=dict)  # (..., entries) float32 counts, to be summed over batches


class TaskModel(nn.Module):
    """An encoder with the head of one task.

    The training loop accepts any module, but layer-wise learning rates, sharding, recomputation and health checks need
    this class: they follow the structure of `encoder`.
    """

    encoder: SpeechEncoder

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        """Compute the loss of one batch.

        Args:
            batch: the batch, its lengths on the host.
            context: step and random generator.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Update state that follows the weights without a gradient, such as a teacher or a codebook, on every rank.

        It is not called after a skipped step.

        Args:
            step: number of steps, including this one and skipped steps.
        """

    def health(self) -> Health | None:
        """Describe a healthy run; None if nothing is known."""
        return None

    @property
    def thaws(self) -> bool:
        """Whether frozen parameters start to learn during the run."""
        return False
