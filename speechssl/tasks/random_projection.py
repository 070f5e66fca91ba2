"""The objective of BEST-RQ: predict the codes of log-mel frames of the unmasked audio.

Section 3 of BEST-RQ (arXiv:2202.01855): the codes of `random_quantizer` are the targets, so that no label files are
needed; each codebook has a linear head and a cross-entropy of its own.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import added, configuration
from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded, EncoderConfig, SpeechEncoder
from speechssl.model.host import frames_where
from speechssl.model.masking import MaskConfig
from speechssl.tasks.frame_weights import check_frame_weights, feature_penalty, weighted_frames
from speechssl.tasks.health import Health
from speechssl.tasks.metrics import tally
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import Objective
from speechssl.tasks.random_projection_health import random_projection_health
from speechssl.tasks.random_quantizer import CodebookConfig, RandomQuantizer
from speechssl.tasks.visible import VisibleConfig, tiled

__all__ = ["RandomProjectionConfig", "RandomProjectionObjective"]


@configuration
class RandomProjectionConfig:
    """Loss weights, targets and masks; the defaults are one codebook of BEST-RQ with the masks of HuBERT BASE."""

    kind: Literal["random_projection"] = "random_projection"
    masked_weight: float = 1.0
    unmasked_weight: float = 0.0
    feature_penalty: float = 0.0  # weight of the extractor's squared output; HuBERT BASE: 10
    codebook: CodebookConfig = CodebookConfig()
    mask: MaskConfig = MaskConfig(start_prob=0.08)
    visible: VisibleConfig | None = added(None)  # encode unmasked frames only, and fill in the others by a decoder

    def __post_init__(self) -> None:
        check_frame_weights(self.masked_weight, self.unmasked_weight)


class RandomProjectionObjective(Objective):
    """Cross-entropy over codes of the log-mel spectrum, weighted separately for masked and unmasked frames."""

    def __init__(self, config: RandomProjectionConfig, encoder: EncoderConfig) -> None:
        """Build the quantizer, and a head for each codebook.

        Raises:
            ConfigError: as `RandomQuantizer`.
        """
        super().__init__()
        self.config, self.visible = config, config.visible
        self.quantizer = RandomQuantizer(config.codebook, encoder)
        self.heads = nn.Linear(encoder.transformer.dim, config.codebook.number * config.codebook.entries)

    def logits(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., codebooks, entries) logits."""
        return self.heads(x).unflatten(-1, (self.config.codebook.number, self.config.codebook.entries))

    def health(self) -> Health:
        """Describe a healthy run."""
        return random_projection_health(self.config.codebook.number, self.config.codebook.entries)

    def predicted_units(self, x: Tensor) -> tuple[Tensor, int]:
        """Return the most likely code of the first codebook for each of (frames, dim), and the number of its codes."""
        return self.logits(self.filled_in(x))[:, 0].argmax(-1), self.config.codebook.entries

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch.

        Args:
            encoded: output of `SpeechEncoder` on the masked batch, lengths on the host.
            is_masked: (batch, frames) bool, on the host, True where the encoder saw the mask vector.
            batch: the encoded batch, whose waveforms make the targets; its lengths on the host.
            context: its step says when the quantizer has seen enough frames.

        Returns:
            The loss summed over all frames with a weight above 0, averaged over codebooks; the number of these frames.
        """
        frames = self.quantizer.frames(batch.waveforms, batch.num_samples, encoded.last.shape[1])
        codes = self.quantizer.codes(frames)  # (batch, frames, codebooks)
        if self.training and not batch.is_stand_in:
            is_valid = encoded.is_valid[: len(frames)]
            self.quantizer.observe(frames_where(frames, is_valid), frames_where(codes, is_valid), context.step)
        codes = tiled(codes, len(is_masked))
        number, entries = self.config.codebook.number, self.config.codebook.entries
        losses, parts, tallies = [], {}, {}
        count = 0
        config = self.config
        chosen = weighted_frames(
            is_masked, encoded.is_valid, masked=config.masked_weight, unmasked=config.unmasked_weight
        )
        for name, (is_chosen, weight) in chosen.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
                logits = self.logits(frames_where(encoded.last, is_chosen))  # (chosen, codebooks, entries)
            target = frames_where(codes, is_chosen)  # (chosen, codebooks)
            each = functional.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
            loss = each.view(target.shape).sum(0)  # (codebooks,)
            if weight > 0:
                losses.append(weight * loss.mean())
                count += int(is_chosen.sum())
            divisor = max(len(target), 1)
            best = logits.argmax(-1)
            for codebook in range(number):
                suffix = f"_{codebook}" if number > 1 else ""
                own, guessed = target[:, codebook], best[:, codebook]
                parts[f"{name}_loss{suffix}"] = loss[codebook].detach() / divisor
                parts[f"{name}_accuracy{suffix}"] = (guessed == own).sum() / divisor
                if name == "masked":
                    tallies[f"codes{suffix}"] = tally(own, entries)
                    tallies[f"predicted{suffix}"] = tally(guessed, entries)
                    # accuracy of guessing the most frequent code of the batch
                    parts[f"most_frequent{suffix}"] = tallies[f"codes{suffix}"].max() / divisor
        value = torch.stack(losses).sum()
        if self.config.feature_penalty > 0:
            penalty = feature_penalty(encoded)
            value = value + self.config.feature_penalty * penalty * count
            parts["feature_penalty"] = penalty.detach()
        total = torch.full((), count, device=value.device)
        return LossSum(value=value, count=total, parts=parts, tallies=tallies)

    def after_step(self, encoder: SpeechEncoder, step: int) -> None:
        """Let the quantizer learn from the frames of this step."""
        self.quantizer.after_step(step)
