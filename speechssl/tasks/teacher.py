"""The objective of data2vec and DinoSR: predict at masked frames what a teacher makes of the unmasked audio.

The teacher is a moving average of the student (`ema`); targets come from its top layers, each normalised over time.
`regression` predicts their average (data2vec, arXiv:2202.03555, section 3.3, and 2.0, arXiv:2212.07525), `codebooks`
the cluster of each layer's frame in an online codebook (DinoSR, arXiv:2305.10005, section 3.2). No labels are needed.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import added, configuration
from speechssl.data.batching import Batch
from speechssl.errors import ConfigError, TrainingError
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded, SpeechEncoder
from speechssl.model.host import frames_where, send
from speechssl.model.masking import MaskConfig
from speechssl.tasks.ema import EmaConfig, Teacher, normalize_over_time
from speechssl.tasks.frame_weights import check_frame_weights, feature_penalty, weighted_frames
from speechssl.tasks.health import Health
from speechssl.tasks.metrics import feature_metrics, perplexity
from speechssl.tasks.model import LossSum
from speechssl.tasks.online_codebooks import OnlineCodebookConfig, OnlineCodebooks
from speechssl.tasks.pretraining import Objective
from speechssl.tasks.teacher_health import teacher_health
from speechssl.tasks.visible import VisibleConfig

__all__ = ["TeacherConfig", "TeacherObjective"]


@configuration
class TeacherConfig:
    """Targets and loss weights; the defaults are those of data2vec BASE for speech."""

    kind: Literal["teacher"] = "teacher"
    form: Literal["regression", "codebooks"] = "regression"  # data2vec; DinoSR
    layers: int = 8  # top layers of the teacher that give the targets (fairseq: average_top_k_layers)
    ema: EmaConfig = EmaConfig()
    beta: float = 0.0  # error at which smooth L1 turns linear, with regression (fairseq: loss_beta); 0: squared error
    norm_average: bool = False  # layer norm of the average, with regression (fairseq: layer_norm_targets)
    codebooks: OnlineCodebookConfig = OnlineCodebookConfig()  # with form codebooks
    masked_weight: float = 1.0
    unmasked_weight: float = 0.0
    feature_penalty: float = 0.0  # weight of the extractor's squared output
    mask: MaskConfig = MaskConfig()
    visible: VisibleConfig | None = added(None)  # encode unmasked frames only, and fill in the others by a decoder

    def __post_init__(self) -> None:
        check_frame_weights(self.masked_weight, self.unmasked_weight)
        if self.layers < 1 or self.beta < 0:
            raise ConfigError(
                f"objective.layers must be 1 or more and objective.beta not negative, found {self.layers} and "
                f"{self.beta}"
            )


class _Regression(nn.Module):
    """Predicts the average of the layers: squared error or smooth L1."""

    def __init__(self, config: TeacherConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.predict = nn.Linear(dim, dim)

    def answers(self, targets: Tensor) -> Tensor:
        """Average (layers, valid, dim) over the layers: (valid, dim)."""
        average = targets.mean(0)
        return functional.layer_norm(average, average.shape[-1:]) if self.config.norm_average else average

    def score(self, x: Tensor, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Score chosen frames.

        Args:
            x: (chosen, dim), last layer of the student.
            answers: (chosen, dim), from `answers`.

        Returns:
            The error summed over frames and channels, divided by sqrt(dim) as in data2vec, and metrics.
        """
        predicted = self.predict(x).float()
        error = self.error(predicted, answers)
        mean = answers.mean(0, keepdim=True).expand_as(answers)
        per_channel = 1 / max(answers.numel(), 1)
        metrics = {
            "loss": error.detach() * per_channel,
            "loss_over_guessing": error.detach() / self.error(mean, answers).clamp(min=1e-12),
            "target_var": (answers - mean).square().sum() * per_channel,
            "prediction_var": (predicted - predicted.mean(0)).detach().square().sum() * per_channel,
        }
        return error / answers.shape[-1] ** 0.5, metrics

    def error(self, predicted: Tensor, answers: Tensor) -> Tensor:
        """Return the error of (chosen, dim), summed: ()."""
        if self.config.beta > 0:
            return functional.smooth_l1_loss(predicted, answers, reduction="sum", beta=self.config.beta)
        return functional.mse_loss(predicted, answers, reduction="sum")


class _Clusters(nn.Module):
    """Predicts the code of each layer's frame: cross-entropy, averaged over the layers."""

    def __init__(self, config: TeacherConfig, dim: int) -> None:
        super().__init__()
        self.layers, self.size = config.layers, config.codebooks.entries
        self.codebooks = OnlineCodebooks(config.codebooks, config.layers, dim)
        self.predict = nn.Linear(dim, config.layers * self.size)

    def answers(self, targets: Tensor) -> Tensor:
        """Return the codes of (layers, valid, dim): (valid, layers) int64."""
        return self.codebooks.assign(targets).T

    def logits(self, x: Tensor) -> Tensor:
        """Map (chosen, dim) to (chosen, layers, entries)."""
        return self.predict(x).unflatten(-1, (self.layers, self.size))

    def score(self, x: Tensor, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Score chosen frames.

        Args:
            x: (chosen, dim), last layer of the student.
            answers: (chosen, layers) int64, from `answers`.

        Returns:
            The cross-entropy averaged over layers and summed over frames, and metrics.
        """
        logits, answers = self.logits(x).float().flatten(0, 1), answers.flatten()
        loss = functional.cross_entropy(logits, answers, reduction="sum") / self.layers
        frames = max(len(x), 1)
        guess = perplexity(self.codebooks.usage).log().mean()  # loss of guessing by frequency
        metrics = {
            "loss": loss.detach() / frames,
            "loss_over_guessing": loss.detach() / (frames * guess.clamp(min=1e-12)),
            "accuracy": (logits.argmax(-1) == answers).sum() / (frames * self.layers),
        }
        return loss, metrics


class TeacherObjective(Objective):
    """Loss of predicting the teacher's targets, weighted separately for masked and unmasked frames."""

    teacher: Teacher | None

    def __init__(self, config: TeacherConfig, dim: int) -> None:
        """Build the head; the teacher comes with the encoder, see `attach`.

        Args:
            config: targets and weights.
            dim: dimension of the encoder's output.
        """
        super().__init__()
        self.config, self.visible = config, config.visible
        self.head = _Clusters(config, dim) if config.form == "codebooks" else _Regression(config, dim)
        self.teacher = None

    def attach(self, encoder: SpeechEncoder) -> None:
        """Make the teacher, a copy of the encoder's Transformer.

        Raises:
            ConfigError: the encoder has fewer layers than targets are taken from.
        """
        number = encoder.config.transformer.num_layers
        if self.config.layers > number:
            raise ConfigError(
                f"objective.layers={self.config.layers} asks for more layers than encoder.transformer.num_layers="
                f"{number}; expected at most {number}, of a shallow encoder all of them"
            )
        self.teacher = Teacher(encoder)

    def after_step(self, encoder: SpeechEncoder, step: int) -> None:
        """Let teacher and codebooks follow."""
        if self.teacher is not None:
            self.teacher.follow(encoder, self.config.ema.decay(step))
        if isinstance(self.head, _Clusters):
            self.head.codebooks.update(step - 1)

    def health(self) -> Health:
        """Describe a healthy run."""
        return teacher_health(self.config.codebooks.entries if self.config.form == "codebooks" else None)

    def predicted_units(self, x: Tensor) -> tuple[Tensor, int] | None:
        """Return the most likely code of the lowest of the layers for (frames, dim), and the number of its codes."""
        if not isinstance(self.head, _Clusters):
            return None
        return self.head.logits(self.filled_in(x))[:, 0].argmax(-1), self.head.size

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch.

        Args:
            encoded: output of `SpeechEncoder` on the masked batch, lengths on the host; its `features` are unmasked.
            is_masked: (batch, frames) bool, on the host, True where the encoder saw the mask vector.
            batch: the encoded batch; a stand-in does not move the codebooks.
            context: its step determines the decay, and which update of the codebooks the batch belongs to.

        Returns:
            The loss summed over all frames with a weight above 0, and their number.

        Raises:
            TrainingError: the objective has no teacher.
        """
        targets, parts = self.targets(encoded)
        parts["teacher_decay"] = torch.full((), self.config.ema.decay(context.step), device=targets.device)
        answers = self.head.answers(targets)  # (valid, ...)
        tallies = {}
        if isinstance(self.head, _Clusters):
            tallies["codes"] = self.head.codebooks.count(answers.T)
            if self.training and not batch.is_stand_in:
                self.head.codebooks.gather(targets, answers.T, context.step)
        answers = answers.repeat(len(is_masked) // len(encoded.features), *(1 for _ in answers.shape[1:]))
        losses, count = [], 0
        config = self.config
        chosen = weighted_frames(
            is_masked, encoded.is_valid, masked=config.masked_weight, unmasked=config.unmasked_weight
        )
        for name, (is_chosen, weight) in chosen.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
                x = frames_where(encoded.last, is_chosen)
                loss, metrics = self.head.score(x, frames_where(answers[None], is_chosen[encoded.is_valid][None]))
            parts |= {f"{name}_{metric}": value for metric, value in metrics.items()}
            if weight > 0:
                losses.append(weight * loss)
                count += len(x)
        value = torch.stack(losses).sum()
        if self.config.feature_penalty > 0:
            penalty = feature_penalty(encoded)
            value = value + self.config.feature_penalty * penalty * count
            parts["feature_penalty"] = penalty.detach()
        return LossSum(value=value, count=torch.full((), count, device=value.device), parts=parts, tallies=tallies)

    @torch.no_grad()
    def targets(self, encoded: Encoded) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the teacher's top layers, normalised over time: (layers, valid, dim) float32; and metrics.

        Raises:
            TrainingError: the objective has no teacher.
        """
        if self.teacher is None:
            raise TrainingError("the objective has no teacher, expected `attach(encoder)` before the first batch")
        own = encoded.is_valid[: len(encoded.features)]  # the same under all masks
        is_valid = send(own, encoded.features.device)
        layers = self.teacher(encoded.features, own)
        normalized = (normalize_over_time(layer, is_valid) for layer in layers[-self.config.layers :])
        targets = torch.stack([frames_where(layer, own) for layer in normalized])
        spread = feature_metrics(layers[-1], is_valid)
        rank = feature_metrics(targets.mean(0, keepdim=True), is_valid.new_ones(1, targets.shape[1]))
        return targets, {
            "target_rank": rank["feature_rank"],
            "teacher_rank": spread["feature_rank"],
            "teacher_cosine": spread["feature_cosine"],
        }
