"""The settings of `superb`: folders of data, the model, and the training of each task's head as SUPERB has it."""

from pathlib import Path
from typing import Literal

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.features.description import NumberType
from speechssl.stages.feature_source import ExtractConfig, FrontEnd
from speechssl.stages.probe_config import HeadTrainConfig

__all__ = ["TASKS", "CorpusFolders", "SuperbConfig", "TaskName"]

TaskName = Literal["sid", "asv", "ks", "ic", "er", "pr", "lid"]
TASKS: tuple[TaskName, ...] = ("sid", "asv", "ks", "ic", "er", "pr", "lid")


@configuration
class CorpusFolders:
    """Folders of the corpora as published; a task without its folder is left out."""

    voxceleb1: Path | None = None  # SID and ASV
    speech_commands: Path | None = None  # KS
    fluent_speech_commands: Path | None = None  # IC
    iemocap: Path | None = None  # ER
    librispeech_phones: Path | None = None  # PR, of frames: LibriSpeech with the phones of CPC
    ml_superb: Path | None = None  # LID, which is no task of SUPERB's own table


@configuration
class SuperbConfig:
    """Tasks on one model; learning rates, batches and steps are those of s3prl's configurations for SUPERB."""

    model: str  # a folder, a file of another toolkit, or hf://org/name
    out: Path  # folder for all tasks, superb.md, superb.json and pictures
    data: CorpusFolders
    tasks: tuple[TaskName, ...] = ()  # tasks to run; empty: all that have data
    layers: tuple[int, ...] = ()  # layers to sum; 0: the input of the first; empty: all and that input
    layer_norm: bool = False  # normalise each layer before the sum (s3prl: upstream_feature_normalize)
    random_weights: bool = False  # also the model's architecture with random weights
    baselines: tuple[FrontEnd, ...] = ()
    steps: int | None = None  # steps of every task; None: those of each task below
    seeds: tuple[int, ...] = (0, 1, 2)  # of the heads; SUPERB has one
    sid: HeadTrainConfig = HeadTrainConfig(steps=200_000, lr=1e-4, eval_every=4000)
    asv: HeadTrainConfig = HeadTrainConfig(steps=200_000, lr=1e-4, eval_every=4000)
    ks: HeadTrainConfig = HeadTrainConfig(steps=200_000, lr=1e-4, eval_every=4000)
    ic: HeadTrainConfig = HeadTrainConfig(steps=200_000, lr=1e-4, eval_every=4000)
    er: HeadTrainConfig = HeadTrainConfig(steps=30_000, lr=1e-4, eval_every=1000)
    pr: HeadTrainConfig = HeadTrainConfig(steps=100_000, lr=1e-2, eval_every=1000)
    lid: HeadTrainConfig = HeadTrainConfig(steps=30_000, lr=1e-4, eval_every=1000)  # ours
    pr_hours: float = 2.0  # of training set and test set of PR at most, as all layers of all frames are stored
    bad_audio: Literal["stop", "skip"] = "stop"
    dtype: NumberType = "float16"  # of stored frames; means are float32
    extract: ExtractConfig = ExtractConfig()
    processes: int = 1  # processes that extract features
    memory_mb: float = 1024.0  # frames of a split that are kept in memory; more of them are read from disk

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps must be 1 or more, found {self.steps}")
        if self.pr_hours <= 0:
            raise ConfigError(f"pr_hours must be more than 0, found {self.pr_hours}")
