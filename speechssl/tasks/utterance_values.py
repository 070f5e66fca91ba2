"""Regression of a number of an utterance: age, duration, signal-to-noise ratio, a score of intelligibility."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.tasks.heads import Answers, Head, HeadSizes, UtteranceNetwork
from speechssl.tasks.model import LossSum
from speechssl.tasks.pooling import Pooling

__all__ = ["UtteranceValues", "UtteranceValuesConfig", "ValueNetwork"]


@configuration
class UtteranceValuesConfig:
    """The value and the network, which is that of `utterance_classes` with one output."""

    kind: Literal["utterance_values"] = "utterance_values"
    column: str  # column of the manifest or of `answers` that holds numbers, or duration_s
    layer_norm: bool = False  # normalise each layer before the sum (s3prl: upstream_feature_normalize)
    projector: int = 256  # dimension of the linear projector; 0: none
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        if self.projector < 0:
            raise ConfigError(f"task.projector must not be negative, found {self.projector}")


class ValueNetwork(UtteranceNetwork):
    """A network whose output is in units of the training set's values, so that the loss does not depend on them."""

    mean: Tensor
    std: Tensor

    def __init__(self, sizes: HeadSizes, *, pooling: Pooling, projector: int) -> None:
        super().__init__(sizes, pooling=pooling, projector=projector)
        self.register_buffer("mean", torch.tensor(sizes.mean))
        self.register_buffer("std", torch.tensor(sizes.std))

    def forward(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute (batch, 2): the value, and the standard deviation of the training set's, in which it is scored."""
        value = super().forward(layers, is_valid)[:, 0] * self.std + self.mean
        return torch.stack([value, self.std.expand_as(value)], 1)


class UtteranceValues(Head):
    """Squared error, in units of the variance of the training set's values."""

    kind = "utterance_values"
    title = "regression of a number of an utterance"
    config_type = UtteranceValuesConfig
    answers: ClassVar[Answers] = "values"
    scores = ("mae", "pearson", "spearman", "r2")
    is_best: ClassVar[Literal["highest", "lowest"]] = "lowest"

    def reads_means(self, config: UtteranceValuesConfig) -> bool:
        """Return whether all before the pooling is linear and the pooling a mean, which then may come first."""
        return config.pooling == "mean"

    def network(self, config: UtteranceValuesConfig, sizes: HeadSizes) -> ValueNetwork:
        """Build the network."""
        return ValueNetwork(sizes, pooling=config.pooling, projector=config.projector)

    def loss(self, outputs: Tensor, answers: Tensor, weights: Tensor | None = None) -> LossSum:
        """Compute the squared error of (batch, 2) outputs."""
        errors = ((outputs[:, 0] - answers) / outputs[:, 1]).square()
        parts = {"mae": (outputs[:, 0] - answers).abs().mean().detach()}
        return LossSum(value=errors.sum(), count=torch.tensor(len(answers)), parts=parts)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the (batch,) values."""
        return outputs[:, 0]
