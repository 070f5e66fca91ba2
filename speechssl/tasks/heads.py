"""The protocol of heads: downstream tasks on the layers of an encoder, frozen or not.

A head says which answers it needs, builds a network from layers to outputs, computes the loss, and names its scores,
which `speechssl.downstream` computes. Stages know a head only through its instance in `head_registry`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.tasks.layer_sum import LayerSum
from speechssl.tasks.model import LossSum
from speechssl.tasks.pooling import Pooling, pooling_of

__all__ = [
    "UNLABELLED",
    "Answers",
    "ClassWeights",
    "Embedding",
    "FrameNetwork",
    "Head",
    "HeadConfig",
    "HeadNetwork",
    "HeadSizes",
    "UtteranceNetwork",
    "class_weights",
    "cross_entropy",
]

Answers = Literal["classes", "frame_classes", "values"]  # class of an utterance, of a frame; a number of an utterance
ClassWeights = Literal["none", "balanced"]
UNLABELLED = -100  # class of frames that have none: they count in no loss and in no score


class HeadConfig(Protocol):
    """The configuration of a head, made by `config.configuration`; its `kind` names the head."""

    @property
    def kind(self) -> str:
        """The head's `kind`."""

    @property
    def layer_norm(self) -> bool:
        """Whether each layer is normalised before the sum."""


@dataclass(frozen=True, kw_only=True)
class HeadSizes:
    """Sizes of the features and the answers, which determine the network."""

    layers: int  # layers that are summed
    dim: int
    outputs: int  # classes; 1 for values
    mean: float = 0.0  # mean of the training set's values
    std: float = 1.0  # their standard deviation


class HeadNetwork(nn.Module):
    """From layers to outputs."""

    sum: LayerSum

    def forward(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute the outputs of a batch.

        Args:
            layers: (batch, layers, frames, dim) float32, normalised if the configuration says so.
            is_valid: (batch, frames) bool, False in the padding.

        Returns:
            (batch, outputs), or (batch, frames, outputs) for frame classes.
        """
        raise NotImplementedError


@runtime_checkable
class Embedding(Protocol):
    """A network that has a vector of each utterance before its output."""

    def embedding(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute (batch, any) from the arguments of `HeadNetwork.forward`."""


class Head:
    """A downstream task. Subclasses set the attributes, and override what differs."""

    kind: ClassVar[str]  # value of the key `task.kind`
    title: ClassVar[str]
    config_type: ClassVar[type]
    answers: ClassVar[Answers]
    scores: ClassVar[Sequence[str]]  # names in `downstream.head_scores`; the first selects the best step
    is_best: ClassVar[Literal["highest", "lowest"]] = "highest"  # which value of the first score is the best

    def reads_means(self, config: Any) -> bool:
        """Return whether the mean over frames of each layer, as one frame, gives the same outputs as all frames."""
        return False

    def network(self, config: Any, sizes: HeadSizes) -> HeadNetwork:
        """Build the network; random weights come from torch's default generator."""
        raise NotImplementedError

    def weights(self, config: Any, counts: Sequence[int]) -> Tensor | None:
        """Return the weight of each class in the loss from its number of training examples; None: all 1."""
        return None

    def loss(self, outputs: Tensor, answers: Tensor, weights: Tensor | None = None) -> LossSum:
        """Compute the loss of a batch; its value divided by its count is the mean.

        Args:
            outputs: as the network returns them.
            answers: (batch,) int64 classes or float32 values, or (batch, frames) int64 with `UNLABELLED`.
            weights: from `weights`.
        """
        raise NotImplementedError

    def predictions(self, outputs: Tensor) -> Tensor:
        """Map outputs to the probabilities of classes, of the same shape, or to (batch,) values."""
        return outputs.softmax(-1)


class UtteranceNetwork(HeadNetwork):
    """Sum of layers, linear projector, pooling, linear output: SUPERB's head for utterances with mean pooling.

    SUPERB (arXiv:2105.01051, section 3.3) uses it for SID, IC and ER, with 256 dimensions, and s3prl for KS; s3prl
    calls it `MeanPoolingLinear`.
    """

    def __init__(self, sizes: HeadSizes, *, pooling: Pooling, projector: int) -> None:
        """Build the network; `projector` is its dimension, 0 for none."""
        super().__init__()
        self.sum = LayerSum(sizes.layers)
        self.projector = nn.Linear(sizes.dim, projector) if projector else nn.Identity()
        self.pooling = pooling_of(pooling, projector or sizes.dim)
        self.output = nn.Linear(self.pooling.dim, sizes.outputs)

    def forward(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute (batch, outputs)."""
        return self.output(self.embedding(layers, is_valid))

    def embedding(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute the pooled vector that the output is a linear function of: (batch, pooling.dim)."""
        return self.pooling(self.projector(self.sum(layers)), is_valid)


class FrameNetwork(HeadNetwork):
    """Sum of layers, linear projector, linear output for each frame; s3prl calls it `FrameLevelLinear`."""

    def __init__(self, sizes: HeadSizes, *, projector: int) -> None:
        """Build the network; `projector` is its dimension, 0 for none."""
        super().__init__()
        self.sum = LayerSum(sizes.layers)
        self.projector = nn.Linear(sizes.dim, projector) if projector else nn.Identity()
        self.output = nn.Linear(projector or sizes.dim, sizes.outputs)

    def forward(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute (batch, frames, outputs)."""
        return self.output(self.projector(self.sum(layers)))


def class_weights(kind: ClassWeights, counts: Sequence[int]) -> Tensor | None:
    """Return (classes,) float32 weights that give each class the same total weight, or None."""
    if kind == "none":
        return None
    total = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return total.sum() / (len(counts) * total)


def cross_entropy(outputs: Tensor, answers: Tensor, weights: Tensor | None) -> LossSum:
    """Compute the cross-entropy; as in torch, the mean over weighted examples divides by the sum of their weights.

    Args:
        outputs: (batch, classes) or (batch, frames, classes).
        answers: (batch,) or (batch, frames) int64.
        weights: (classes,) or None.
    """
    flat, wanted = outputs.reshape(-1, outputs.shape[-1]), answers.reshape(-1)
    value = functional.cross_entropy(flat, wanted, weights, ignore_index=UNLABELLED, reduction="sum")
    is_labelled = wanted != UNLABELLED
    count = is_labelled.sum() if weights is None else weights[wanted[is_labelled]].sum()
    right = (flat.argmax(-1) == wanted).sum() / is_labelled.sum().clamp(min=1)
    return LossSum(value=value, count=count, parts={"accuracy": right.detach()})
