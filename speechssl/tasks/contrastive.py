"""The objective of wav2vec 2.0: identify the true quantized frame among negatives.

Section 3.2 of wav2vec 2.0 (arXiv:2006.11477): contrastive loss (equation 3) + 0.1 x diversity loss (equation 4); the
released code adds 10 x the extractor's mean squared output.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import configuration, was
from speechssl.data.batching import Batch
from speechssl.errors import TrainingError
from speechssl.model.context import StepContext
from speechssl.model.dropout import Dropout
from speechssl.model.encoder import Encoded
from speechssl.model.host import frames_where, generator_on, send
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive_health import contrastive_health
from speechssl.tasks.health import Health
from speechssl.tasks.metrics import perplexity, row_spread
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import Objective
from speechssl.tasks.quantizer import Quantizer, QuantizerConfig

__all__ = ["ContrastiveConfig", "ContrastiveObjective", "draw_negatives", "own_similarities"]

PADDING = 4.0  # by which factor padding may increase the cost of the products within utterances
PADDING_ON_CPU = 1.1  # the same on CPUs; 20 utterances of BASE, two cores, torch 2.9, November 2026


@configuration
class ContrastiveConfig:
    """Loss weights and negatives; the defaults are wav2vec 2.0 BASE."""

    kind: Literal["contrastive"] = "contrastive"
    dim: int = 256  # dimension in which frames and targets are compared (fairseq: final_dim)
    temperature: float = 0.1  # divides the cosine similarities (fairseq: logit_temp)
    negatives: int = was("distractors", 100)  # negatives from the same utterance (fairseq: num_negatives)
    cross_negatives: int = was("cross_distractors", 0)  # from the whole batch (fairseq: cross_sample_negatives)
    diversity_weight: float = 0.1
    feature_penalty: float = 10.0  # weight of the extractor's squared output; LARGE: 0 (can collapse with layer norm)
    feature_dropout: float = 0.1  # dropout of the quantizer's input (fairseq: dropout_features)
    quantizer: QuantizerConfig = QuantizerConfig()
    mask: MaskConfig = MaskConfig()


class ContrastiveObjective(Objective):
    """Contrastive loss over masked frames, codebook diversity and feature penalty."""

    def __init__(self, config: ContrastiveConfig, dim: int, conv_dim: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout(config.feature_dropout)
        self.quantizer = Quantizer(config.quantizer, conv_dim)
        self.project_quantized = nn.Linear(config.quantizer.dim, config.dim)
        self.project_context = nn.Linear(dim, config.dim)

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch.

        Args:
            encoded: output of `SpeechEncoder` on the masked batch, lengths on the host.
            is_masked: (batch, frames) bool, on the host, True where the encoder saw the mask vector.
            batch: not used; the targets are frames of `encoded`.
            context: its step determines the temperature of the quantizer; its generator seeds another one on the device
                of `encoded`, which draws noise and negatives.

        Returns:
            The loss summed over masked frames, and their number; divide by the global number, not the local one. The
            additional losses are multiplied by the same number. An utterance with a single masked frame has no
            negatives of its own; without `cross_negatives` it does not contribute to the contrastive loss.

        Raises:
            TrainingError: no frame is masked.
        """
        is_masked = is_masked & encoded.is_valid
        if not bool(is_masked.any()):
            raise TrainingError(
                "no frame of the batch is masked, expected at least one; raise objective.mask.min_spans or batch.min_s"
            )
        device = encoded.last.device
        generator = generator_on(device, context.masks())
        temperature = self.config.quantizer.temperature(context.step)
        features = self.dropout(frames_where(encoded.features, is_masked))  # (masked, conv channels)
        quantized = self.quantizer(features, temperature=temperature, generator=generator)
        targets = self.project_quantized(quantized.vectors)  # (masked, dim)
        predicted = self.project_context(frames_where(encoded.last, is_masked))  # (masked, dim)
        utterance = is_masked.nonzero()[:, 0]  # (masked,), on the host
        negatives = draw_negatives(
            utterance, self.config.negatives, self.config.cross_negatives, generator
        )  # (masked, negatives)
        logits = self.score(predicted, targets, quantized.codes, utterance, negatives)
        loss = functional.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="sum")
        count = len(utterance)
        entries = self.config.quantizer.groups * self.config.quantizer.entries
        diversity = (entries - quantized.soft_perplexity) / entries
        penalty = frames_where(encoded.conv, encoded.is_valid).float().square().mean()
        value = loss + count * (self.config.diversity_weight * diversity + self.config.feature_penalty * penalty)
        is_contest = torch.isfinite(logits[:, 1:]).any(1)  # False where every negative equals the target
        is_right = is_contest & (logits.argmax(-1) == 0) & (logits[:, 1:] < logits[:, :1]).any(1)  # no tie of all
        parts = {
            "contrastive_loss": loss.detach() / count,
            "accuracy": is_right.sum() / count,
            "diversity_loss": diversity.detach(),
            "feature_penalty": penalty.detach(),
            "soft_perplexity": quantized.soft_perplexity.detach(),
            "code_perplexity": quantized.hard_perplexity,
            "negative_spread": row_spread(logits[:, 1:]) * self.config.temperature,
            "temperature": torch.full((), temperature, device=device),
        }
        for name, usage in (("soft_perplexity", quantized.soft_usage), ("code_perplexity", quantized.counts)):
            parts |= {f"{name}_{group}": value for group, value in enumerate(perplexity(usage))}
        total = torch.full((), count, device=device)
        return LossSum(value=value, count=total, parts=parts, tallies={"codes": quantized.counts})

    def health(self) -> Health:
        """Describe a healthy run."""
        return contrastive_health(self.config.negatives + self.config.cross_negatives)

    def score(self, context: Tensor, targets: Tensor, codes: Tensor, utterance: Tensor, negatives: Tensor) -> Tensor:
        """Compute the similarity of each masked frame to its target and its negatives.

        All masked frames of an utterance are compared with each other, then the wanted similarities are gathered: this
        takes far less memory than a copy of every negative's vector.

        Args:
            context: (masked, dim), the Transformer's output.
            targets: (masked, dim), the projected quantized frames.
            codes: (masked, groups) int64 codebook entries, to find negatives equal to the target.
            utterance: (masked,) int64, row of the batch, ascending; on the host.
            negatives: (masked, negatives) int64, positions among the masked frames; -1 for none.

        Returns:
            (masked, 1 + negatives) float32 logits, the target first; -inf for a negative that equals the target or
            does not exist.
        """
        context = functional.normalize(context.float(), dim=-1)
        targets = functional.normalize(targets.float(), dim=-1)
        if self.config.cross_negatives:
            similarity = (context @ targets.T).gather(1, negatives.clamp(min=0))
        else:
            similarity = own_similarities(context, targets, utterance, negatives)
        is_equal = (codes[negatives.clamp(min=0)] == codes[:, None]).all(-1) | (negatives < 0)
        positive = (context * targets).sum(-1, keepdim=True)
        return torch.cat([positive, similarity.masked_fill(is_equal, -torch.inf)], 1) / self.config.temperature


def own_similarities(
    context: Tensor, targets: Tensor, utterance: Tensor, negatives: Tensor, padding: float | None = None
) -> Tensor:
    """Compute the dot products of each masked frame with the negatives of its own utterance.

    This is one product for the whole batch, with each utterance padded to the largest number of masked frames; if too
    much of that would be padding, it is one product per utterance, at the cost of a few small kernels for each.

    Args:
        context: (masked, dim).
        targets: (masked, dim).
        utterance: (masked,) int64, row of the batch, ascending; on the host.
        negatives: (masked, negatives) int64, positions among the masked frames of the utterance; -1 for none.
        padding: by which factor padding may increase the cost of the products; None for a default of the device.

    Returns:
        (masked, negatives); undefined where there is no negative.
    """
    device = context.device
    if padding is None:
        padding = PADDING_ON_CPU if device.type == "cpu" else PADDING
    _, rows, sizes = utterance.unique_consecutive(return_inverse=True, return_counts=True)
    starts = (sizes.cumsum(0) - sizes)[rows]  # (masked,)
    local = (negatives - send(starts, device)[:, None]).clamp(min=0)
    lengths, longest = sizes.tolist(), int(sizes.max())
    if len(lengths) * longest**2 > padding * sum(length**2 for length in lengths):
        blocks = zip(context.split(lengths), targets.split(lengths), local.split(lengths), strict=True)
        return torch.cat([(own @ other.T).gather(1, picked) for own, other, picked in blocks])
    if len(utterance) == len(lengths) * longest:
        own, other = (x.unflatten(0, (-1, longest)) for x in (context, targets))  # (utterances, longest, dim)
        return (own @ other.mT).flatten(0, 1).gather(1, local)
    places = send(rows * longest + torch.arange(len(utterance)) - starts, device)  # padded position of each frame
    own, other = (
        x.new_zeros(len(lengths) * longest, x.shape[1]).index_copy(0, places, x).unflatten(0, (-1, longest))
        for x in (context, targets)
    )
    return (own @ other.mT).flatten(0, 1).index_select(0, places).gather(1, local)


def draw_negatives(utterance: Tensor, own: int, cross: int, generator: torch.Generator) -> Tensor:
    """Draw negatives uniformly, with replacement, never the frame itself.

    Args:
        utterance: (masked,) int64, row of the batch of each masked frame, ascending; on the host.
        own: number of negatives from the same utterance.
        cross: number of negatives from the whole batch.
        generator: random generator, on the device of the result.

    Returns:
        (masked, own + cross) int64, positions among the masked frames; -1 where there is no other frame.
    """
    total = len(utterance)
    sizes = torch.bincount(utterance)
    starts = send((sizes.cumsum(0) - sizes)[utterance], generator.device)[:, None]  # (masked, 1)
    position = torch.arange(total, device=generator.device)[:, None]
    own_drawn = _draw_other(position - starts, send(sizes[utterance], generator.device)[:, None], own, generator)
    own_drawn = torch.where(own_drawn < 0, own_drawn, own_drawn + starts)
    cross_drawn = _draw_other(position, torch.full_like(position, total), cross, generator)
    return torch.cat([own_drawn, cross_drawn], 1)


def _draw_other(position: Tensor, size: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Draw (masked, number) positions below `size` (masked, 1), skipping `position` (masked, 1); -1 if none is left."""
    uniform = torch.rand(
        (len(position), number), device=position.device, generator=generator, dtype=torch.float64
    )  # float32 could round up to `size`
    drawn = (uniform * (size - 1)).long()
    drawn = drawn + (drawn >= position)
    return torch.where(size > 1, drawn, -1)
