"""The objective of HuBERT: predict the hidden unit of each masked frame.

Section II of HuBERT (arXiv:2106.07447): cosine similarity to label embeddings divided by a temperature (equation 3), or
plain linear logits, which need less memory. Each label stream has its own head.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import added, configuration
from speechssl.data.batching import Batch
from speechssl.errors import LabelError
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded
from speechssl.model.host import frames_where
from speechssl.model.masking import MaskConfig
from speechssl.tasks.frame_weights import check_frame_weights, feature_penalty, weighted_frames
from speechssl.tasks.health import Health
from speechssl.tasks.masked_prediction_health import masked_prediction_health
from speechssl.tasks.metrics import tally
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import Objective
from speechssl.tasks.visible import VisibleConfig, tiled

__all__ = ["MaskedPredictionConfig", "MaskedPredictionObjective"]


@configuration
class MaskedPredictionConfig:
    """Loss weights and head; the defaults are HuBERT BASE."""

    kind: Literal["masked_prediction"] = "masked_prediction"
    logits: Literal["cosine", "linear"] = "cosine"
    dim: int = 256  # dimension of the label embeddings (fairseq: final_dim)
    temperature: float = 0.1  # divides the cosine logits (fairseq: logit_temp)
    masked_weight: float = 1.0
    unmasked_weight: float = 0.0
    feature_penalty: float = 10.0  # weight of the extractor's squared output (fairseq: loss_weights)
    mask: MaskConfig = MaskConfig(start_prob=0.08)
    visible: VisibleConfig | None = added(None)  # encode unmasked frames only, and fill in the others by a decoder

    def __post_init__(self) -> None:
        check_frame_weights(self.masked_weight, self.unmasked_weight)


class MaskedPredictionObjective(Objective):
    """Cross-entropy over hidden units, weighted separately for masked and unmasked frames."""

    def __init__(self, config: MaskedPredictionConfig, dim: int, clusters: tuple[int, ...]) -> None:
        """Build a head for each label stream.

        Args:
            config: weights and kind of logits.
            dim: dimension of the encoder's output.
            clusters: number of units of each stream.
        """
        super().__init__()
        self.config, self.visible = config, config.visible
        self.clusters = clusters
        if config.logits == "cosine":
            self.project = nn.Linear(dim, config.dim * len(clusters))
            self.embeddings = nn.ParameterList(nn.Parameter(torch.empty(k, config.dim).uniform_()) for k in clusters)
        else:
            self.heads = nn.ModuleList(nn.Linear(dim, k) for k in clusters)

    def logits(self, x: Tensor) -> list[Tensor]:
        """Map (..., dim) to (..., clusters) logits for each stream."""
        if self.config.logits == "linear":
            return [head(x) for head in self.heads]
        projected = self.project(x).chunk(len(self.clusters), dim=-1)
        return [
            functional.normalize(part.float(), dim=-1)
            @ functional.normalize(embedding.float(), dim=-1).T
            / self.config.temperature
            for part, embedding in zip(projected, self.embeddings, strict=True)
        ]

    def health(self) -> Health:
        """Describe a healthy run."""
        return masked_prediction_health(self.clusters)

    def predicted_units(self, x: Tensor) -> tuple[Tensor, int]:
        """Return the most likely unit of the first stream for each of (frames, dim), and the number of its units."""
        return self.logits(self.filled_in(x))[0].argmax(-1), self.clusters[0]

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch.

        Args:
            encoded: output of `SpeechEncoder` on the masked batch, lengths on the host.
            is_masked: (batch, frames) bool, on the host, True where the encoder saw the mask vector.
            batch: its `labels` are (streams, batch, frames) int64, the unit of each valid frame, checked by
                `read_labels`; the padding may hold anything.
            context: not used.

        Returns:
            The loss summed over all streams and all frames with a weight above 0; the count has each frame once.

        Raises:
            LabelError: the batch has no labels, or another number of streams.
        """
        labels = batch.labels
        if labels is None:
            raise LabelError("the batch carries no labels; name the label file in the key labels")
        if len(labels) != len(self.clusters):
            raise LabelError(f"found {len(labels)} label streams, expected {len(self.clusters)}")
        targets = [tiled(each, len(is_masked)) for each in labels]  # streams x (masks * batch, frames)
        losses, parts, tallies = [], {}, {}
        count = 0
        config = self.config
        chosen = weighted_frames(
            is_masked, encoded.is_valid, masked=config.masked_weight, unmasked=config.unmasked_weight
        )
        for name, (is_chosen, weight) in chosen.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
                logits = self.logits(frames_where(encoded.last, is_chosen))
            for stream, stream_logits in enumerate(logits):
                target = frames_where(targets[stream], is_chosen)
                loss = functional.cross_entropy(stream_logits.float(), target, reduction="sum")
                if weight > 0:
                    losses.append(weight * loss)
                suffix = f"_{stream}" if len(logits) > 1 else ""
                frames = max(target.numel(), 1)
                parts[f"{name}_loss{suffix}"] = loss.detach() / frames
                best = stream_logits.argmax(-1)
                parts[f"{name}_accuracy{suffix}"] = (best == target).sum() / frames
                if name == "masked":
                    tallies[f"labels{suffix}"] = tally(target, self.clusters[stream])
                    tallies[f"predicted{suffix}"] = tally(best, self.clusters[stream])
            if weight > 0:
                count += int(is_chosen.sum())
        value = torch.stack(losses).sum()
        if self.config.feature_penalty > 0:
            penalty = feature_penalty(encoded)
            value = value + self.config.feature_penalty * penalty * count
            parts["feature_penalty"] = penalty.detach()
        total = torch.full((), count, device=value.device)
        return LossSum(value=value, count=total, parts=parts, tallies=tallies)
