"""The recipe of `probe`: a task, its answers, the models to compare, and how heads are trained."""

from pathlib import Path
from typing import Literal

from speechssl.config import configuration, like
from speechssl.errors import ConfigError
from speechssl.features.description import NumberType
from speechssl.stages.feature_source import ExtractConfig, FrontEnd
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.tuning_config import EncoderUse, TuningConfig
from speechssl.tasks.head_registry import AnyHeadConfig, head_of

__all__ = ["HeadTrainConfig", "ProbeConfig", "SplitRule"]


@configuration
class SplitRule:
    """Division of the section `data` into training, dev and test set, the same on every machine."""

    by: Literal["speaker", "id", "text", "path", "split"] = "speaker"  # never divided; split: as that column says
    dev: float = 0.1  # share of the speakers, ids, texts or files
    test: float = 0.2
    salt: str = ""  # another word makes another division

    def __post_init__(self) -> None:
        if min(self.dev, self.test) <= 0 or self.dev + self.test >= 1:
            raise ConfigError(
                f"split.dev and split.test are shares that leave some for training, found {self.dev} and {self.test}"
            )


@configuration
class HeadTrainConfig:
    """Training of heads with Adam; the dev set chooses the step, without one it is the last.

    SUPERB searched the learning rate from 1e-1 to 1e-7 for each model and task, with batches of 32.
    """

    steps: int = 2000
    batch: int = 32  # utterances
    lr: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int = 100  # steps from one evaluation to the next; the run is resumed at the last one

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "eval_every", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"train.{name} must be more than 0, found {getattr(self, name)}")


@configuration
class ProbeConfig:
    """A task on the layers of models, frozen or tuned: data, models to compare, heads."""

    out: Path  # folder for heads, predictions, scores.json and probe.md
    task: AnyHeadConfig
    data: DataConfig  # training set, or all data for `split`
    dev: DataConfig | None = like("data", "audio")
    test: DataConfig | None = like("data", "audio")
    split: SplitRule | None = None  # how `data` is divided, instead of dev and test
    shared_speakers: bool = False  # speakers of the training set may occur in the others, as for speaker identification
    answers: Path | None = None  # table with the column `id` and that of the task; None: the manifests
    phones: Path | None = None  # alignments for frame classes: CTM, TextGrid, festival labels or phones.tsv
    tier: str = "phones"  # tier of a TextGrid
    vad: Literal["silero", "energy", "auto"] = "auto"  # method of voice activity, for frame classes of speech
    checkpoint: tuple[str, ...] | str = ()  # models: folders, files of other toolkits, hf://org/name
    encoder: tuple[EncoderUse, ...] | EncoderUse = "frozen"  # all, lora: learns with the head; several: compared
    layers: tuple[int, ...] = ()  # layers to sum; 0: the input of the first; empty: all and that input
    each_layer: bool = False  # also a head on each layer alone
    random_weights: bool = False  # also the architecture of the first model with random weights
    baselines: tuple[FrontEnd, ...] = ()
    cmn: bool = False  # subtract the mean of each utterance from the baselines
    features: Path | None = None  # folder of features, which several probes may share; None: out/features
    dtype: NumberType = "float32"  # of stored frames; means are float32
    extract: ExtractConfig = ExtractConfig()
    processes: int = 1  # processes that extract features
    memory_mb: float = 1024.0  # frames of a split that are kept in memory; more of them are read from disk
    train: HeadTrainConfig = HeadTrainConfig()  # of heads on frozen features
    tuning: TuningConfig = TuningConfig()  # of encoders with their heads: encoder=all and lora
    seeds: tuple[int, ...] = (0, 1, 2)  # of the heads: initial weights and order of the data
    interval: Literal["utterances", "speakers"] = "utterances"  # what the bootstrap draws; speakers: for other speakers
    seed: int = 0  # of random weights and of the bootstrap

    def __post_init__(self) -> None:
        if not self.models and not self.baselines:
            raise ConfigError("there is nothing to compare; name a checkpoint, or baselines")
        if not self.models and (self.random_weights or self.layers):
            raise ConfigError("random_weights and layers are those of a model; name a checkpoint")
        uses = self.encoder_uses
        if not uses or len({*uses}) < len(uses):
            raise ConfigError(f"encoder must name frozen, all and lora at most once each, found {list(uses)}")
        if uses != ("frozen",) and not self.models:
            raise ConfigError(f"encoder={uses[-1]} tunes a model; name a checkpoint, or leave encoder out")
        if self.each_layer and "frozen" not in uses:
            raise ConfigError(
                "each_layer puts heads on layers of frozen models; add frozen to encoder, or remove the key"
            )
        if uses != ("frozen",):
            self._refuse_changed_answers()
        if (self.test is None) == (self.split is None):
            raise ConfigError(
                "expected either a section test, whose manifests are scored, or a section split, which divides data; "
                f"found {'neither' if self.split is None else 'both'}"
            )
        if self.split is not None and self.dev is not None:
            raise ConfigError("split makes the dev set from data; remove the section dev, or the section split")
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ConfigError(f"seeds must list different numbers, found {list(self.seeds)}")
        if self.cmn and self.baselines and head_of(self.task).reads_means(self.task):
            raise ConfigError(
                "cmn makes the mean of each utterance 0, which is all that task.pooling=mean sees; leave cmn out, or "
                "set task.pooling=attentive_statistics"
            )
        of = getattr(self.task, "of", None)
        if (of == "phones") != (self.phones is not None):
            raise ConfigError(
                "phones is the alignment of task.kind=frame_classes with task.of=phones; "
                f"{'name the file or folder' if self.phones is None else 'remove the key'}"
            )

    def _refuse_changed_answers(self) -> None:
        """Refuse what would change the audio of a training set, but not the answers."""
        changes_speed = self.tuning.augment.changes_speed
        if changes_speed and self.task.kind == "frame_classes":
            raise ConfigError(
                "tuning.augment.speeds moves the frames that task.kind=frame_classes labels; remove the key"
            )
        is_duration = getattr(self.task, "column", "") == "duration_s"
        if is_duration and (changes_speed or self.tuning.batch.max_crop_s is not None):
            raise ConfigError(
                "tuning.augment.speeds and tuning.batch.max_crop_s change duration_s, which the task predicts; remove "
                "the keys"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """The models to compare."""
        return (self.checkpoint,) if isinstance(self.checkpoint, str) else self.checkpoint

    @property
    def encoder_uses(self) -> tuple[EncoderUse, ...]:
        """What is done with each model's encoder."""
        return (self.encoder,) if isinstance(self.encoder, str) else self.encoder
