"""Classification of frames: phones of an alignment, or speech and pause."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.tasks.heads import Answers, ClassWeights, FrameNetwork, Head, HeadSizes, class_weights, cross_entropy
from speechssl.tasks.model import LossSum

__all__ = ["FrameClasses", "FrameClassesConfig"]


@configuration
class FrameClassesConfig:
    """Classes and network: a linear head on the sum of layers, as s3prl's `FrameLevelLinear`."""

    kind: Literal["frame_classes"] = "frame_classes"
    of: Literal["phones", "speech"]  # phones of the alignment `phones`, or speech and pause by voice activity
    layer_norm: bool = False  # normalise each layer before the sum (s3prl: upstream_feature_normalize)
    projector: int = 256  # dimension of the linear projector; 0: none
    class_weights: ClassWeights = "none"  # balanced: each class has the same weight in the loss

    def __post_init__(self) -> None:
        if self.projector < 0:
            raise ConfigError(f"task.projector must not be negative, found {self.projector}")


class FrameClasses(Head):
    """Cross-entropy over classes of frames; frames without a class count in no loss."""

    kind = "frame_classes"
    title = "classification of frames"
    config_type = FrameClassesConfig
    answers: ClassVar[Answers] = "frame_classes"
    scores = ("accuracy", "balanced_accuracy", "macro_f1", "error_rate")

    def network(self, config: FrameClassesConfig, sizes: HeadSizes) -> FrameNetwork:
        """Build the network."""
        return FrameNetwork(sizes, projector=config.projector)

    def weights(self, config: FrameClassesConfig, counts: Sequence[int]) -> Tensor | None:
        """Return the weights of the classes."""
        return class_weights(config.class_weights, counts)

    def loss(self, outputs: Tensor, answers: Tensor, weights: Tensor | None = None) -> LossSum:
        """Compute the cross-entropy of (batch, frames, classes) outputs."""
        return cross_entropy(outputs, answers, weights)
