"""Pretraining model: draw masks, encode, score. The one place where trunk and objective meet."""

from typing import Annotated

import torch
from torch import nn

from speechssl.config import Discriminator
from speechssl.data.batching import Batch
from speechssl.errors import LabelError
from speechssl.model.conv import frame_count
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.host import send
from speechssl.model.masking import draw_spans
from speechssl.objective.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.objective.figures import feature_figures
from speechssl.objective.loss import LossSum
from speechssl.objective.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective

__all__ = ["ObjectiveConfig", "PretrainModel", "build_objective"]

ObjectiveConfig = Annotated[ContrastiveConfig | MaskedPredictionConfig, Discriminator("kind")]
Objective = ContrastiveObjective | MaskedPredictionObjective


def build_objective(
    config: ContrastiveConfig | MaskedPredictionConfig, *, dim: int, conv_dim: int, clusters: tuple[int, ...]
) -> Objective:
    """Build the objective that `config` describes.

    Args:
        config: of either method.
        dim: of the Transformer's output.
        conv_dim: of the extractor's output.
        clusters: units of each label stream; empty for the contrastive objective.

    Raises:
        LabelError: masked prediction without labels, or labels for the contrastive objective.
    """
    match config:
        case ContrastiveConfig():
            if clusters:
                raise LabelError("objective.kind=contrastive takes no labels; remove the key labels")
            return ContrastiveObjective(config, dim, conv_dim)
        case MaskedPredictionConfig():
            if not clusters:
                raise LabelError(
                    "objective.kind=masked_prediction needs labels; make them with `speechssl cluster` "
                    "and name the file in the key labels"
                )
            return MaskedPredictionObjective(config, dim, clusters)


class PretrainModel(nn.Module):
    """Trunk and objective, as one module for the training loop and for DDP."""

    def __init__(self, encoder: SpeechEncoder, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective

    def forward(self, batch: Batch, *, step: int, generator: torch.Generator, layer_seed: int | None = None) -> LossSum:
        """Mask, encode and score one batch.

        The masks are drawn on the host, and nothing waits for the device.

        Args:
            batch: its lengths on the host.
            step: of training.
            generator: of the host; what is drawn on the device comes from another that it seeds.
            layer_seed: of layer drop, the same for all batches of an update; see `Transformer.forward`.
        """
        counts = frame_count(batch.num_samples, self.encoder.config.conv)
        size = frame_count(batch.waveforms.shape[1], self.encoder.config.conv)
        is_masked = draw_spans(counts, size, self.objective.config.mask, generator)
        encoded = self.encoder(batch.waveforms, batch.num_samples, is_masked, layer_seed=layer_seed)
        match self.objective:
            case ContrastiveObjective():
                loss = self.objective(encoded, is_masked, step=step, generator=generator)
            case MaskedPredictionObjective():
                if batch.labels is None:
                    raise LabelError("the batch carries no labels; name the label file in the key labels")
                loss = self.objective(encoded, is_masked, batch.labels)
        share = int(is_masked.sum()) / max(int(counts.sum()), 1)
        loss.parts["masked_share"] = torch.full((), share, device=encoded.last.device)
        loss.parts.update(feature_figures(encoded.last, send(encoded.is_valid, encoded.last.device)))
        return loss
