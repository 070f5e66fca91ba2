"""The objective of wav2vec 2.0: identify the true quantized frame among negatives.

Section 3.2 of wav2vec 2.0 (arXiv:2006.11477): contrastive loss (equation 3) + 0.1 x diversity loss (equation 4); the
released code adds 10 x the extractor's mean squared output. What is quantized: `contrastive_targets`.
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import added, configuration, was
from speechssl.data.batching import Batch
from speechssl.errors import ConfigError, TrainingError
from speechssl.model.context import StepContext
from speechssl.model.dropout import Dropout
from speechssl.model.encoder import Encoded, EncoderConfig, SpeechEncoder
from speechssl.model.host import frames_where, generator_on, send
from speechssl.model.log_mel import LogMel, stacked
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive_health import contrastive_health
from speechssl.tasks.contrastive_targets import (
    CopyConfig,
    LogMelTargetConfig,
    changed_copy,
    frame_loudness,
    log_mel_targets,
)
from speechssl.tasks.frame_weights import feature_penalty
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
    loudness_neighbours: int | None = added(None)  # number of frames of like loudness that own negatives come from
    diversity_weight: float = 0.1
    feature_penalty: float = 10.0  # weight of the extractor's squared output; LARGE: 0 (can collapse with layer norm)
    feature_dropout: float = 0.1  # dropout of the quantizer's input (fairseq: dropout_features)
    targets: Literal["extractor", "log_mel"] = added("extractor")  # what is quantized
    log_mel: LogMelTargetConfig = added(LogMelTargetConfig())  # for targets=log_mel
    copy: CopyConfig = added(CopyConfig())  # the targets are frames of a copy with another gain and channel
    quantizer: QuantizerConfig = QuantizerConfig()
    mask: MaskConfig = MaskConfig()

    def __post_init__(self) -> None:
        if self.loudness_neighbours is not None and self.loudness_neighbours < 1:
            raise ConfigError(
                "objective.loudness_neighbours must be 1 or more, or null for all frames, found "
                f"{self.loudness_neighbours}"
            )


class ContrastiveObjective(Objective):
    """Contrastive loss over masked frames, codebook diversity and feature penalty."""

    def __init__(
        self, config: ContrastiveConfig, dim: int, conv_dim: int, encoder: EncoderConfig | None = None
    ) -> None:
        """Build quantizer and projections.

        Args:
            config: configuration of the task.
            dim: dimension of the encoder's output.
            conv_dim: dimension of the extractor's output.
            encoder: configuration of the encoder, needed for targets=log_mel and loudness_neighbours.
        """
        super().__init__()
        self.config, self.shape = config, encoder
        self.dropout = Dropout(config.feature_dropout)
        self.log_mel = LogMel(config.log_mel.bins) if config.targets == "log_mel" else None
        self.quantizer = Quantizer(config.quantizer, conv_dim if self.log_mel is None else self._stacked_dim())
        self.project_quantized = nn.Linear(config.quantizer.dim, config.dim)
        self.project_context = nn.Linear(dim, config.dim)

    def with_targets(self, encoded: Encoded, encoder: SpeechEncoder, batch: Batch, context: StepContext) -> Encoded:
        """Replace the features of `encoded` by what is to be quantized, if that is not the extractor's output.

        In training, `config.copy` changes gain and channel of the audio that is quantized, and the encoder's extractor
        runs once more.
        """
        is_copy = self.training and self.config.copy.is_on
        if not is_copy and self.log_mel is None:
            return encoded
        waveforms, device = batch.waveforms, batch.waveforms.device
        if is_copy:
            waveforms = changed_copy(waveforms, self.config.copy, generator_on(device, context.masks()))
        if self.log_mel is None:
            features = encoder.norm(encoder.extract(waveforms, batch.num_samples))
        else:
            features = log_mel_targets(
                waveforms,
                send(batch.num_samples, device),
                self.log_mel,
                self.config.log_mel,
                hop=encoder.config.hop,
                window=encoder.config.window,
                frames=encoded.last.shape[1],
            )
        return dataclasses.replace(encoded, features=features)

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch.

        Args:
            encoded: output of `with_targets`: the targets are its features.
            is_masked: (batch, frames) bool, on the host, True where the encoder saw the mask vector.
            batch: its waveforms give the loudness of frames, if `loudness_neighbours` asks for it.
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
            utterance,
            self.config.negatives,
            self.config.cross_negatives,
            generator,
            loudness=self._loudness(batch, is_masked),
            neighbours=self.config.loudness_neighbours,
        )  # (masked, negatives)
        logits = self.score(predicted, targets, quantized.codes, utterance, negatives)
        loss = functional.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction="sum")
        count = len(utterance)
        entries = self.config.quantizer.groups * self.config.quantizer.entries
        diversity = (entries - quantized.soft_perplexity) / entries
        penalty = feature_penalty(encoded)
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
        if self.config.loudness_neighbours is not None:  # many negatives equal the target
            parts["guessing_loss"] = torch.isfinite(logits).sum(1).log().mean()
        total = torch.full((), count, device=device)
        return LossSum(value=value, count=total, parts=parts, tallies={"codes": quantized.counts})

    def health(self) -> Health:
        """Describe a healthy run."""
        negatives = self.config.negatives + self.config.cross_negatives
        return contrastive_health(None if self.config.loudness_neighbours is not None else negatives)

    def _encoder_config(self) -> EncoderConfig:
        if self.shape is None:
            raise ValueError(
                "targets=log_mel and loudness_neighbours need the encoder: build the model by `Task.build`"
            )
        return self.shape

    def _stacked_dim(self) -> int:
        return self.config.log_mel.bins * stacked(self._encoder_config().hop)

    def _loudness(self, batch: Batch, is_masked: Tensor) -> Tensor | None:
        """Return the (masked,) loudness of the masked frames; None if negatives are not drawn by it."""
        if self.config.loudness_neighbours is None:
            return None
        shape = self._encoder_config()
        return frames_where(frame_loudness(batch.waveforms, hop=shape.hop, window=shape.window), is_masked)

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


def draw_negatives(
    utterance: Tensor,
    own: int,
    cross: int,
    generator: torch.Generator,
    *,
    loudness: Tensor | None = None,
    neighbours: int | None = None,
) -> Tensor:
    """Draw negatives uniformly, with replacement, never the frame itself.

    With `neighbours`, the own negatives of a frame come from that many other masked frames of its utterance, those next
    to it in the order of loudness: half of them softer and half louder, or more of one kind where the other is short.

    Args:
        utterance: (masked,) int64, row of the batch of each masked frame, ascending; on the host.
        own: number of negatives from the same utterance.
        cross: number of negatives from the whole batch.
        generator: random generator, on the device of the result.
        loudness: (masked,) float, on the device of the generator; only for `neighbours`. Equal ones keep their order.
        neighbours: from how many frames the own negatives are drawn; None: from all.

    Returns:
        (masked, own + cross) int64, positions among the masked frames; -1 where there is no other frame.
    """
    device = generator.device
    total = len(utterance)
    sizes = torch.bincount(utterance)
    starts = send((sizes.cumsum(0) - sizes)[utterance], device)[:, None]  # (masked, 1)
    own_sizes = send(sizes[utterance], device)[:, None]
    position = torch.arange(total, device=device)[:, None]
    if neighbours is None or loudness is None:
        own_drawn = _draw_other(position - starts, own_sizes, own, generator)
        own_drawn = torch.where(own_drawn < 0, own_drawn, own_drawn + starts)
    else:
        by_loudness = loudness.argsort(stable=True)
        order = by_loudness[send(utterance, device)[by_loudness].argsort(stable=True)]  # positions, by utterance first
        rank = torch.empty_like(order).scatter_(0, order, position[:, 0])[:, None] - starts  # (masked, 1)
        among = own_sizes.clamp(max=neighbours + 1)
        first = (rank - neighbours // 2).clamp(min=0).minimum(own_sizes - among)
        own_drawn = _draw_other(rank - first, among, own, generator)
        own_drawn = torch.where(own_drawn < 0, own_drawn, order[(own_drawn + first + starts).clamp(min=0)])
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
