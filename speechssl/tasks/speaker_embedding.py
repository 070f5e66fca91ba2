"""Embedding of speakers: the layer before the output of a network that is trained to tell the training speakers apart.

The frames pass through linear layers or the TDNN of x-vectors (Snyder et al. 2018, "X-vectors: robust DNN embeddings
for speaker recognition"), statistics pooling and a linear layer, whose output is the embedding. The loss is
additive-margin softmax (Wang et al. 2018, arXiv:1801.05599, equation 6), as in SUPERB's speaker verification
(arXiv:2105.01051). `speechssl verify` compares embeddings of other speakers; the accuracy on speakers of the training
set only selects a step.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.tasks.heads import Answers, ClassWeights, Head, HeadNetwork, HeadSizes, class_weights, cross_entropy
from speechssl.tasks.layer_sum import LayerSum
from speechssl.tasks.model import LossSum
from speechssl.tasks.pooling import Pooling, pooling_of

__all__ = ["SpeakerEmbedding", "SpeakerEmbeddingConfig", "SpeakerNetwork"]

_TDNN = ((5, 1), (3, 2), (3, 3), (1, 1))  # kernel and dilation of the layers of x-vectors
_LAST = 3  # dimensions before the pooling, in those of the layers: 1500 for 512 in the paper


@configuration
class SpeakerEmbeddingConfig:
    """Network and loss."""

    kind: Literal["speaker_embedding"] = "speaker_embedding"
    column: str = "speaker"  # column of the manifest, or of `answers`
    classes: tuple[str, ...] = ()  # speakers to tell apart; empty: all of the training set
    layer_norm: bool = False  # normalise each layer before the sum (s3prl: upstream_feature_normalize)
    frames: Literal["linear", "tdnn"] = "linear"  # layers before the pooling: a linear one, or those of x-vectors
    projector: int = 256  # dimension of these layers; SUPERB: 512
    pooling: Pooling = "attentive_statistics"
    dim: int = 256  # of the embedding; SUPERB: 512
    margin: float = 0.2  # subtracted from the cosine of the right speaker; Wang et al.: 0.35
    scale: float = 30.0  # of cosines in the softmax, as Wang et al.
    class_weights: ClassWeights = "none"  # balanced: each speaker has the same weight in the loss

    def __post_init__(self) -> None:
        if min(self.projector, self.dim) < 1 or self.scale <= 0 or not 0 <= self.margin < 1:
            raise ConfigError(
                "expected projector and dim from 1 up, task.scale above 0 and task.margin from 0 to 1, found "
                f"{self.projector}, {self.dim}, {self.scale} and {self.margin}"
            )
        if len(self.classes) == 1 or len({*self.classes}) < len(self.classes):
            raise ConfigError(f"task.classes must list two different speakers or more, found {list(self.classes)}")


class SpeakerNetwork(HeadNetwork):
    """Sum of layers, layers over frames, statistics pooling, embedding, cosines with a vector of each speaker."""

    def __init__(self, sizes: HeadSizes, config: SpeakerEmbeddingConfig) -> None:
        super().__init__()
        self.sum = LayerSum(sizes.layers)
        dim, layers = sizes.dim, list[nn.Conv1d]()
        for kernel, dilation in _TDNN if config.frames == "tdnn" else ():
            layers.append(nn.Conv1d(dim, config.projector, kernel, dilation=dilation, padding="same"))
            dim = config.projector
        layers.append(nn.Conv1d(dim, config.projector * (_LAST if layers else 1), 1))
        self.layers = nn.ModuleList(layers)
        self.is_tdnn = config.frames == "tdnn"
        self.pooling = pooling_of(config.pooling, layers[-1].out_channels)
        self.embed = nn.Linear(self.pooling.dim, config.dim)
        self.speakers = nn.Parameter(torch.empty(sizes.outputs, config.dim))
        nn.init.xavier_normal_(self.speakers)
        self.scale, self.margin = config.scale, config.margin

    def forward(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute (batch, speakers + 1): scaled cosines, and the scaled margin, which the loss subtracts."""
        units = functional.normalize(self.embedding(layers, is_valid), dim=-1)
        cosines = units @ functional.normalize(self.speakers, dim=-1).T
        margin = torch.full_like(cosines[:, :1], self.margin)
        return self.scale * torch.cat([cosines, margin], 1)

    def embedding(self, layers: Tensor, is_valid: Tensor) -> Tensor:
        """Compute the (batch, dim) embeddings; padding does not change those of an utterance."""
        frames = self.sum(layers).transpose(1, 2)  # (batch, dim, frames)
        for layer in self.layers:
            frames = layer(frames * is_valid[:, None])
            frames = frames.relu() if self.is_tdnn else frames
        return self.embed(self.pooling(frames.transpose(1, 2), is_valid))


class SpeakerEmbedding(Head):
    """Additive-margin softmax over the training speakers."""

    kind = "speaker_embedding"
    title = "embedding of speakers, for verify"
    config_type = SpeakerEmbeddingConfig
    answers: ClassVar[Answers] = "classes"
    scores = ("accuracy", "balanced_accuracy", "macro_f1")

    def reads_means(self, config: SpeakerEmbeddingConfig) -> bool:
        """Return whether all before the pooling is linear and the pooling a mean, which then may come first."""
        return config.pooling == "mean" and config.frames == "linear"

    def network(self, config: SpeakerEmbeddingConfig, sizes: HeadSizes) -> SpeakerNetwork:
        """Build the network."""
        return SpeakerNetwork(sizes, config)

    def weights(self, config: SpeakerEmbeddingConfig, counts: Sequence[int]) -> Tensor | None:
        """Return the weights of the speakers."""
        return class_weights(config.class_weights, counts)

    def loss(self, outputs: Tensor, answers: Tensor, weights: Tensor | None = None) -> LossSum:
        """Compute the additive-margin softmax of (batch, speakers + 1) outputs."""
        cosines, margin = outputs[:, :-1], outputs[:, -1:]
        return cross_entropy(cosines - margin * functional.one_hot(answers, cosines.shape[1]), answers, weights)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return (batch, speakers) probabilities, without margin."""
        return outputs[:, :-1].softmax(-1)
