"""wav2vec 2.0's objective: tell the true quantized frame from negatives.

Section 3.2 of wav2vec 2.0 (arXiv:2006.11477): contrastive loss (equation 3) + 0.1 x diversity (equation 4); the
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

PADDING = 4.0  # how many times the products of an utterance's own frames may grow by padding
PADDING_ON_CPU = 1.1  # where they cost more than the calls: 20 utterances of BASE, two cores, torch 2.9, November 2026


@configuration
class ContrastiveConfig:
    """Weights and negatives; the defaults are wav2vec 2.0 BASE."""

    kind: Literal["contrastive"] = "contrastive"
    dim: int = 256  # in which frames and entries are compared (fairseq: final_dim)
    temperature: float = 0.1  # of the similarities (fairseq: logit_temp)
    negatives: int = was("distractors", 100)  # from masked frames of the same utterance (fairseq: num_negatives)
    cross_negatives: int = was("cross_distractors", 0)  # of the whole batch (fairseq: cross_sample_negatives)
    diversity_weight: float = 0.1
    feature_penalty: float = 10.0  # on the extractor's squared output; LARGE: 0 (with a layer norm it can collapse)
    feature_dropout: float = 0.1  # on what is quantized (fairseq: dropout_features)
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
            batch: not looked at: what is to be told apart are frames of `encoded`.
            context: its step decides on the temperature of the quantizer; noise and negatives are drawn on the device
                of `encoded`, by a generator that the context's seeds.

        Returns:
            The loss summed over masked frames, with their number; divide by the global number, not the local. The
            additional losses are multiplied by the same number. Utterances with a single masked frame have no
            negative of their own; without `cross_negatives` such a frame adds nothing.

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
        is_contest = torch.isfinite(logits[:, 1:]).any(1)  # not where every negative is the target's equal
        is_right = is_contest & (logits.argmax(-1) == 0) & (logits[:, 1:] < logits[:, :1]).any(1)  # nor a tie of all
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
        """Say what a healthy run looks like."""
        return contrastive_health(self.config.negatives + self.config.cross_negatives)

    def score(self, context: Tensor, targets: Tensor, codes: Tensor, utterance: Tensor, negatives: Tensor) -> Tensor:
        """Compare each masked frame with its target and its negatives.

        Similarities are taken of all masked frames of an utterance with each other, and then picked: far less memory
        than a copy of every negative's vector.

        Args:
            context: (masked, dim), the Transformer's output.
            targets: (masked, dim), the projected quantized frames.
            codes: (masked, groups) int64, to find negatives equal to the target.
            utterance: (masked,) int64, row of the batch, ascending; on the host.
            negatives: (masked, negatives) int64, positions among the masked frames; -1 for none.

        Returns:
            (masked, 1 + negatives) float32 logits, the target first; -inf for a negative that is the target's
            equal or does not exist.
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
    """Multiply each masked frame with the negatives of its own utterance.

    In one product of the whole batch, each utterance padded to the one with most masked frames; utterance after
    utterance where that would be mostly padding, which takes a few small kernels for each.

    Args:
        context: (masked, dim).
        targets: (masked, dim).
        utterance: (masked,) int64, row of the batch, ascending; on the host.
        negatives: (masked, negatives) int64, positions among the masked frames of the utterance; -1 for none.
        padding: how many times the products may grow by padding; None for what suits the device.

    Returns:
        (masked, negatives); anything where there is no negative.
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
    places = send(rows * longest + torch.arange(len(utterance)) - starts, device)  # of each frame among the padded
    own, other = (
        x.new_zeros(len(lengths) * longest, x.shape[1]).index_copy(0, places, x).unflatten(0, (-1, longest))
        for x in (context, targets)
    )
    return (own @ other.mT).flatten(0, 1).index_select(0, places).gather(1, local)


def draw_negatives(utterance: Tensor, own: int, cross: int, generator: torch.Generator) -> Tensor:
    """Draw negatives uniformly, with replacement, never the frame itself.

    Args:
        utterance: (masked,) int64, row of the batch of each masked frame, ascending; on the host.
        own: how many come from the same utterance.
        cross: how many come from the whole batch.
        generator: source of the draws.

    Returns:
        (masked, own + cross) int64, on the device of `generator`, positions among the masked frames; -1 where there
        is no other frame.
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
    )  # float32 would reach `size` by rounding
    drawn = (uniform * (size - 1)).long()
    drawn = drawn + (drawn >= position)
    return torch.where(size > 1, drawn, -1)
