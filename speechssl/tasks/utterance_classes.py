"""Classification of utterances: speaker, language, emotion, keyword, or any other column of a table."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.tasks.heads import Answers, ClassWeights, Head, HeadSizes, UtteranceNetwork, class_weights, cross_entropy
from speechssl.tasks.model import LossSum
from speechssl.tasks.pooling import Pooling

__all__ = ["UtteranceClasses", "UtteranceClassesConfig"]


@configuration
class UtteranceClassesConfig:
    """Classes and network; the defaults are SUPERB's for SID, IC, ER and KS (arXiv:2105.01051)."""

    kind: Literal["utterance_classes"] = "utterance_classes"
    column: str  # column of the manifest, or of `answers`
    classes: tuple[str, ...] = ()  # classes to tell apart; empty: all of the training set
    layer_norm: bool = False  # normalise each layer before the sum (s3prl: upstream_feature_normalize)
    projector: int = 256  # dimension of the linear projector; 0: none
    pooling: Pooling = "mean"
    class_weights: ClassWeights = "none"  # balanced: each class has the same weight in the loss

    def __post_init__(self) -> None:
        if self.projector < 0:
            raise ConfigError(f"task.projector must not be negative, found {self.projector}")
        if len(self.classes) == 1 or len({*self.classes}) < len(self.classes):
            raise ConfigError(f"task.classes must list two different classes or more, found {list(self.classes)}")


class UtteranceClasses(Head):
    """Cross-entropy over classes of utterances."""

    kind = "utterance_classes"
    title = "classification of utterances"
    config_type = UtteranceClassesConfig
    answers: ClassVar[Answers] = "classes"
    scores = ("accuracy", "balanced_accuracy", "macro_f1")

    def reads_means(self, config: UtteranceClassesConfig) -> bool:
        """Return whether all before the pooling is linear and the pooling a mean, which then may come first."""
        return config.pooling == "mean"

    def network(self, config: UtteranceClassesConfig, sizes: HeadSizes) -> UtteranceNetwork:
        """Build the network."""
        return UtteranceNetwork(sizes, pooling=config.pooling, projector=config.projector)

    def weights(self, config: UtteranceClassesConfig, counts: Sequence[int]) -> Tensor | None:
        """Return the weights of the classes."""
        return class_weights(config.class_weights, counts)

    def loss(self, outputs: Tensor, answers: Tensor, weights: Tensor | None = None) -> LossSum:
        """Compute the cross-entropy of (batch, classes) outputs."""
        return cross_entropy(outputs, answers, weights)
