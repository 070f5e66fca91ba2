"""Pretraining model: draw masks, encode, score. The one place where trunk and objective meet."""

from typing import Any

import torch
from torch import Tensor, nn

from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded, SpeechEncoder
from speechssl.model.frames import frame_count
from speechssl.model.host import send
from speechssl.model.masking import draw_spans
from speechssl.tasks.health import Health
from speechssl.tasks.metrics import feature_metrics
from speechssl.tasks.model import LossSum, TaskModel
from speechssl.tasks.task import DataSizes, Task

__all__ = ["Objective", "PretrainModel", "PretrainingTask"]


class Objective(nn.Module):
    """What a pretraining task puts on the trunk: its masks, its head and its loss."""

    config: Any

    def draw_masks(self, counts: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Draw which frames the trunk does not see: spans, as `config.mask` says.

        Args:
            counts: (batch,) int64, valid frames of each row, on the host.
            size: frames of the padded batch.
            generator: on the host.

        Returns:
            (batch, frames) bool, on the host, True where the trunk sees the mask vector.
        """
        return draw_spans(counts, size, self.config.mask, generator)

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch.

        Args:
            encoded: output of `SpeechEncoder` on the masked batch, lengths on the host.
            is_masked: (batch, frames) bool, on the host, as `draw_masks` drew it.
            batch: what was encoded, with its labels.
            context: of the training step.
        """
        raise NotImplementedError

    def after_step(self, encoder: SpeechEncoder, step: int) -> None:
        """Update what follows the trunk without a gradient, as a teacher does; see `TaskModel.after_step`."""

    def health(self) -> Health | None:
        """Say what a healthy run looks like; None if nothing is known."""
        return None

    def predicted_units(self, x: Tensor) -> tuple[Tensor, int] | None:
        """Return the likeliest unit of each frame, and how many units there are; None of a task without units.

        Args:
            x: (frames, dim), the last layer of unmasked audio.

        Returns:
            (frames,) int64 of the first label stream, and its number of units.
        """
        return None


class PretrainModel(TaskModel):
    """Trunk and objective, as one module for the training loop and for DDP."""

    def __init__(self, encoder: SpeechEncoder, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        """Mask, encode and score one batch.

        The masks are drawn on the host, and nothing waits for the device.

        Args:
            batch: its lengths on the host.
            context: of the training step.
        """
        counts = frame_count(batch.num_samples, self.encoder.config.conv)
        size = frame_count(batch.waveforms.shape[1], self.encoder.config.conv)
        is_masked = self.objective.draw_masks(counts, size, context.masks())
        encoded = self.encoder(batch.waveforms, batch.num_samples, is_masked, context=context)
        loss: LossSum = self.objective(encoded, is_masked, batch, context)
        share = int(is_masked.sum()) / max(int(counts.sum()), 1)
        loss.parts["masked_share"] = torch.full((), share, device=encoded.last.device)
        loss.parts.update(feature_metrics(encoded.last, send(encoded.is_valid, encoded.last.device)))
        return loss

    def after_step(self, step: int) -> None:
        """Let the objective follow the trunk."""
        self.objective.after_step(self.encoder, step)

    def health(self) -> Health | None:
        """Say what a healthy run of the objective looks like."""
        return self.objective.health()


class PretrainingTask(Task):
    """A task whose model is a `PretrainModel`: only its objective remains to be built."""

    def build(self, config: Any, encoder: SpeechEncoder, sizes: DataSizes) -> PretrainModel:
        """Put the objective on a trunk.

        Raises:
            LabelError: labels are missing, or not wanted.
        """
        self.check(sizes)
        shape = encoder.config
        objective = self.objective(
            config, dim=shape.transformer.dim, conv_dim=shape.conv[-1][0], clusters=sizes.clusters
        )
        assert isinstance(objective, Objective)
        return PretrainModel(encoder, objective)
