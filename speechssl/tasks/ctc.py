"""Fine-tuning with CTC: a linear head on the encoder, masks as regularisation, the freezing schedule.

Section 3.3 of wav2vec 2.0 (arXiv:2006.11477). The blank is token 0.
"""

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import added, configuration
from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.dropout import Dropout
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.frames import frame_count, within
from speechssl.model.host import send
from speechssl.model.lora import LoraConfig, add_adapters
from speechssl.model.masking import MaskConfig, draw_spans
from speechssl.tasks.ctc_health import ctc_health
from speechssl.tasks.health import Health
from speechssl.tasks.metrics import empty_share
from speechssl.tasks.model import LossSum, TaskModel
from speechssl.text.vocabulary import BLANK

__all__ = ["CTCConfig", "CTCModel", "divergence_from_uniform", "required_frames"]


@configuration
class CTCConfig:
    """Regularisation of fine-tuning; the defaults are the reference's for 10 hours."""

    kind: ClassVar[str] = "ctc"  # name of the task, no key

    dropout: float = 0.0  # dropout before the head (fairseq: final_dropout)
    smoothing: float = added(0.0)  # share of the loss that draws the posteriors of frames to the uniform distribution
    freeze_conv: bool = True  # the extractor is never updated
    freeze_steps: int = 10_000  # first steps, in which only the head learns (fairseq: freeze_finetune_updates)
    freeze_below: int = 0  # number of frozen Transformer layers, from the first; everything before them is frozen too
    freeze_below_steps: int | None = None  # number of steps for which `freeze_below` holds; None: all
    lora: LoraConfig | None = None  # adapters learn instead of the encoder; they are merged when a model is loaded
    mask: MaskConfig = MaskConfig()  # mask over frames
    channel_mask: MaskConfig = MaskConfig(start_prob=0.5 / 64, span=64, min_spans=0)  # mask over the encoder's channels

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"ctc.smoothing must be at least 0 and below 1, found {self.smoothing}")
        if min(self.freeze_steps, self.freeze_below, self.freeze_below_steps or 0) < 0:
            raise ConfigError(
                "ctc.freeze_steps, freeze_below and freeze_below_steps must not be negative, found "
                f"{self.freeze_steps}, {self.freeze_below} and {self.freeze_below_steps}"
            )

    @property
    def thaws(self) -> bool:
        """Whether frozen parameters start to learn during the run."""
        return self.freeze_steps > 0 or (self.freeze_below > 0 and bool(self.freeze_below_steps))

    def num_frozen(self, step: int) -> int:
        """Return how many layers, from the first, are frozen in a step, together with everything before them."""
        return self.freeze_below if self.freeze_below_steps is None or step < self.freeze_below_steps else 0


class CTCModel(TaskModel):
    """Encoder with a CTC head."""

    def __init__(self, encoder: SpeechEncoder, config: CTCConfig, vocabulary_size: int) -> None:
        """Put a head on an encoder; the encoder is changed in place: parts are frozen, adapters are added.

        Raises:
            ConfigError: more layers are to be frozen than the encoder has.
        """
        super().__init__()
        num_layers = encoder.config.transformer.num_layers
        if config.freeze_below > num_layers:
            raise ConfigError(f"ctc.freeze_below is {config.freeze_below}, expected at most {num_layers} layers")
        self.encoder = encoder.with_frozen_conv() if config.freeze_conv else encoder
        if config.lora is not None:
            add_adapters(encoder, config.lora)
        if config.freeze_below and config.freeze_below_steps is None:
            encoder.with_frozen_layers(config.freeze_below)
        self.config = config
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(encoder.config.transformer.dim, vocabulary_size)

    def health(self) -> Health:
        """Describe a healthy run."""
        return ctc_health(self.config.freeze_steps)

    @property
    def thaws(self) -> bool:
        """Whether frozen parameters start to learn during the run."""
        return self.config.thaws

    def forward(self, batch: Batch, context: StepContext) -> LossSum:
        """Compute the CTC loss of one batch of transcribed speech, masked in training mode.

        There is no synchronisation with the device except in torch's CTC loss, which copies the lengths on CUDA.

        Args:
            batch: batch with targets, its lengths on the host.
            context: step and random generator.

        Returns:
            The loss summed over utterances, each times its weight if the batch has weights, and their number: the mean
            of the weights is 1. An utterance with fewer frames than its text needs has loss 0 (`zero_infinity`) and is
            counted in `parts["impossible"]`. With `smoothing` the divergence from the uniform distribution is part of
            it; `parts["ctc_loss"]` never has it.
        """
        if batch.targets is None or batch.target_lengths is None:
            raise ValueError("a batch without targets cannot be scored; pass tokens to the dataset")
        logits, counts = self.logits(batch, context)
        device, lengths = logits.device, batch.target_lengths
        log_probs = logits.float().log_softmax(-1)
        losses = functional.ctc_loss(
            log_probs.transpose(0, 1),
            batch.targets,
            counts,
            lengths,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,
        )
        impossible = required_frames(batch.targets, send(lengths, device)) > send(counts, device)
        is_valid = send(within(counts, logits.shape[1]), device)
        best = logits.argmax(-1)
        parts = {
            "ctc_loss": losses.detach().sum() / int(lengths.sum()),
            "blank_share": ((best == BLANK) & is_valid).sum() / is_valid.sum().clamp(min=1),
            "empty_share": empty_share(best, is_valid, BLANK),
            "impossible": impossible.sum(),
        }
        if share := self.config.smoothing:
            losses = (1 - share) * losses + share * (divergence_from_uniform(log_probs) * is_valid).sum(1)
        total = losses.sum() if batch.weights is None else (losses * batch.weights).sum()
        return LossSum(value=total, count=torch.full((), len(losses), device=device), parts=parts)

    def logits(self, batch: Batch, context: StepContext = INFERENCE) -> tuple[Tensor, Tensor]:
        """Return (batch, frames, vocab) logits and, on the host, the (batch,) int64 numbers of valid frames.

        Masks are drawn in training mode if the context has a generator.
        """
        counts = frame_count(batch.num_samples, self.encoder.config.stack)
        is_masked = is_channel_masked = None
        if self.training and context.generator is not None:
            size = frame_count(batch.waveforms.shape[1], self.encoder.config.stack)
            dim = self.encoder.config.transformer.dim
            is_masked = draw_spans(counts, size, self.config.mask, context.generator)
            is_channel_masked = draw_spans(
                torch.full_like(counts, dim), dim, self.config.channel_mask, context.generator
            )
        is_frozen = self.training and context.step < self.config.freeze_steps
        num_frozen = self.config.num_frozen(context.step) if self.training else 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen):
            encoded = self.encoder(
                batch.waveforms,
                batch.num_samples,
                is_masked,
                is_channel_masked,
                context=dataclasses.replace(context, num_frozen=num_frozen),
            )
        return self.head(self.dropout(encoded.last)), counts


def divergence_from_uniform(log_probs: Tensor) -> Tensor:
    """Return how far the posteriors of each frame are from the uniform distribution over the vocabulary.

    A penalty on it keeps a model from being surer than its targets deserve, such as texts that a recogniser wrote
    (Pereyra et al., arXiv:1701.06548, section 3.2).

    Args:
        log_probs: (batch, frames, vocab), natural logarithms.

    Returns:
        (batch, frames) Kullback-Leibler divergence in nats, 0 to log(vocab).
    """
    return math.log(log_probs.shape[-1]) + (log_probs.exp() * log_probs).sum(-1)


def required_frames(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Count the frames that CTC needs: one per token, and a blank between equal neighbours.

    Args:
        targets: (batch, tokens) int64, the padding may hold anything.
        target_lengths: (batch,) int64.

    Returns:
        (batch,) int64.
    """
    is_inner = torch.arange(targets.shape[1] - 1, device=targets.device) + 1 < target_lengths[:, None]
    repeats = ((targets[:, 1:] == targets[:, :-1]) & is_inner).sum(1)
    return target_lengths + repeats
