"""The pretraining model, which combines encoder and objective: draw masks, encode, compute the loss."""

import dataclasses
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
from speechssl.tasks.visible import VisibleConfig, VisibleDecoder

__all__ = ["Objective", "PretrainModel", "PretrainingTask"]


class Objective(nn.Module):
    """Masks, head and loss of a pretraining task.

    One that sets `visible` is given a decoder, and may get several masks of a batch: `is_masked`, `encoded.layers` and
    `encoded.is_valid` then have a row for each row of the batch under each mask, mask after mask (`tiled`).
    """

    config: Any
    visible: VisibleConfig | None
    decoder: VisibleDecoder | None

    def __init__(self) -> None:
        """Begin without a decoder: the encoder sees the mask vector."""
        super().__init__()
        self.visible = self.decoder = None

    def attach(self, encoder: SpeechEncoder) -> None:
        """Copy what the objective needs of the encoder it was put on, such as a teacher.

        It is called when the model is built, and again after the encoder alone was filled with other weights.
        """

    def draw_masks(self, counts: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Draw the frames to mask: spans as configured in `config.mask`.

        Args:
            counts: (batch,) int64, valid frames of each row, on the host.
            size: frames of the padded batch.
            generator: random generator on the host.

        Returns:
            (batch, frames) bool, on the host, True where the encoder sees the mask vector.
        """
        return draw_spans(counts, size, self.config.mask, generator)

    def with_targets(self, encoded: Encoded, encoder: SpeechEncoder, batch: Batch, context: StepContext) -> Encoded:
        """Put features of another source in place of those of the extractor, if they are the targets.

        Args:
            encoded: output of `encoder` on the masked batch.
            encoder: the encoder.
            batch: the encoded batch.
            context: step and random generator.
        """
        return encoded

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Compute the loss of one batch.

        Args:
            encoded: output of `with_targets`, lengths on the host.
            is_masked: (batch, frames) bool, on the host, from `draw_masks`.
            batch: the encoded batch, with its labels.
            context: step and random generator.
        """
        raise NotImplementedError

    def after_step(self, encoder: SpeechEncoder, step: int) -> None:
        """Update state that follows the encoder without a gradient, such as a teacher; see `TaskModel.after_step`."""

    def health(self) -> Health | None:
        """Describe a healthy run; None if nothing is known."""
        return None

    def filled_in(self, x: Tensor) -> Tensor:
        """Map (frames, dim) of unmasked audio through the decoder, if there is one, to the input of the heads."""
        if self.decoder is None:
            return x
        is_valid = torch.ones(1, len(x), dtype=torch.bool)
        return self.decoder(x[None], is_valid, is_valid)[0]

    def predicted_units(self, x: Tensor) -> tuple[Tensor, int] | None:
        """Return the most likely unit of each frame, and the number of units; None for a task without units.

        Args:
            x: (frames, dim), the last layer of unmasked audio.

        Returns:
            (frames,) int64 units of the first label stream, and the number of its units.
        """
        return None


class PretrainModel(TaskModel):
    """Encoder and objective as one module, for the training loop and DDP."""

    def __init__(self, encoder: SpeechEncoder, objective: Objective) -> None:
        """Put the objective on the encoder.

        Raises:
            ConfigError: the objective does not fit the encoder.
        """
        super().__init__()
        self.encoder = encoder
        self.objective = objective
        if objective.visible is not None:
            objective.decoder = VisibleDecoder(objective.visible, encoder.config)
        objective.attach(encoder)

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        """Mask and encode one batch, and compute its loss.

        The masks are drawn on the host, so that no synchronisation with the device is needed.

        Args:
            batch: the batch, its lengths on the host.
            context: step and random generator.
        """
        decoder = self.objective.decoder
        counts = self.encoder.count_frames(batch.num_samples).repeat(1 if decoder is None else decoder.masks)
        size = frame_count(batch.waveforms.shape[1], self.encoder.config.stack)
        is_masked = self.objective.draw_masks(counts, size, context.masks())
        encoded = self.encoder(
            batch.waveforms, batch.num_samples, is_masked, context=context, only_visible=decoder is not None
        )
        last, is_seen = encoded.last, encoded.is_valid
        if decoder is not None:
            is_seen = is_seen & ~is_masked
            encoded = dataclasses.replace(encoded, layers=[decoder(last, is_seen, encoded.is_valid)])
        encoded = self.objective.with_targets(encoded, self.encoder, batch, context)
        loss: LossSum = self.objective(encoded, is_masked, batch, context)
        share = int(is_masked.sum()) / max(int(counts.sum()), 1)
        loss.parts["masked_share"] = torch.full((), share, device=last.device)
        loss.parts.update(feature_metrics(last, send(is_seen, last.device)))
        return loss

    def after_step(self, step: int) -> None:
        """Let the objective update state that follows the encoder."""
        self.objective.after_step(self.encoder, step)

    def health(self) -> Health | None:
        """Describe a healthy run of the objective."""
        return self.objective.health()


class PretrainingTask(Task):
    """Base class of tasks whose model is a `PretrainModel`; subclasses build the objective only."""

    def build(self, config: Any, encoder: SpeechEncoder, sizes: DataSizes) -> PretrainModel:
        """Put the objective on an encoder.

        Raises:
            LabelError: labels are missing, or given to a task that takes none.
        """
        self.check(sizes)
        shape = encoder.config
        objective = self.objective(
            config, dim=shape.transformer.dim, conv_dim=shape.conv[-1][0], clusters=sizes.clusters
        )
        return PretrainModel(encoder, objective)

    def objective(self, config: Any, *, dim: int, conv_dim: int, clusters: tuple[int, ...]) -> Objective:
        """Build the head of a pretraining task; `PretrainModel` puts it on an encoder.

        Args:
            config: configuration of the task.
            dim: dimension of the encoder's output.
            conv_dim: dimension of the extractor's output.
            clusters: number of units of each label stream.
        """
        raise NotImplementedError
