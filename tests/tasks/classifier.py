"""A task of classes, as somebody's package would have it: of which class an utterance is, from the mean of frames."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import configuration
from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded, SpeechEncoder
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import Objective, PretrainModel
from speechssl.tasks.task import DataSizes, Need, Task


@configuration
class ClassifierConfig:
    """Nothing to choose."""

    kind: Literal["classifier"] = "classifier"


class Classifier(Objective):
    """Cross-entropy over the classes of utterances."""

    def __init__(self, config: ClassifierConfig, dim: int, classes: int) -> None:
        super().__init__()
        self.config, self.head = config, nn.Linear(dim, classes)

    def draw_masks(self, counts: Tensor, size: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(len(counts), size, dtype=torch.bool)

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        weights = encoded.is_valid[..., None].float()
        logits = self.head((encoded.last * weights).sum(1) / weights.sum(1))
        answers = batch.targets[:, 0]
        loss = functional.cross_entropy(logits, answers, reduction="sum")
        accuracy = (logits.argmax(-1) == answers).float().mean()
        return LossSum(value=loss, count=torch.tensor(len(answers)), parts={"accuracy": accuracy})


class ClassifierTask(Task):
    kind = "classifier"
    method = "classifier"
    title = "classification of utterances"
    config_type = ClassifierConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"classes"})

    def build(self, config: ClassifierConfig, encoder: SpeechEncoder, sizes: DataSizes) -> PretrainModel:
        self.check(sizes)
        return PretrainModel(encoder, Classifier(config, encoder.dim, sizes.classes))


TASK = ClassifierTask()
