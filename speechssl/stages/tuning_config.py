"""The section `tuning` of a probe: how an encoder and its head learn together."""

from typing import Literal

from speechssl.config import configuration
from speechssl.data.augment import AugmentConfig
from speechssl.data.batching import BatchConfig
from speechssl.errors import ConfigError
from speechssl.model.lora import LoraConfig
from speechssl.train.learner import TrainConfig
from speechssl.train.optim import OptimConfig

__all__ = ["EncoderUse", "TuningConfig"]

EncoderUse = Literal["frozen", "all", "lora"]  # it does not learn; all of it learns; adapters learn


@configuration
class TuningConfig:
    """Training of an encoder with its head by the loop of `finetune`; the dev set chooses the step."""

    lora: LoraConfig = LoraConfig()  # adapters of encoder=lora
    freeze_conv: bool = True  # the extractor is never updated
    freeze_steps: int = 0  # first steps, in which only the head and the weights of layers learn
    dropout: float | None = 0.0  # dropout in the Transformer; None keeps the value of pretraining, here and below
    attention_dropout: float | None = 0.0
    activation_dropout: float | None = 0.1
    feature_dropout: float | None = 0.0  # dropout on the projected features
    layer_drop: float | None = 0.05
    batch: BatchConfig = BatchConfig(seconds=100.0, max_utterances=32, max_crop_s=None, min_s=0.0)
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig(lr=1e-3, encoder_rate=0.1, eps=1e-8, weight_decay=0.0, warmup=0.1)
    train: TrainConfig = TrainConfig(steps=2000, eval_every=200, save_every=200, keep=1)

    def __post_init__(self) -> None:
        if self.freeze_steps < 0:
            raise ConfigError(f"tuning.freeze_steps must not be negative, found {self.freeze_steps}")
        if self.freeze_steps >= self.train.steps:
            raise ConfigError(
                f"tuning.freeze_steps={self.freeze_steps} freezes the encoder for all tuning.train.steps="
                f"{self.train.steps}; lower it, or set encoder=frozen"
            )
