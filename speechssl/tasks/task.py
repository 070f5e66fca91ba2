"""The task protocol: everything that the toolkit needs to know about a training method, in one class.

A subclass of `Task` describes a kind of model. Stages, checkpoints, converters and the planner know the task only
through one instance, listed in `registry` or by the entry point of an installed package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from speechssl.errors import LabelError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.tasks.flops import Product
from speechssl.tasks.model import TaskModel

__all__ = ["DataSizes", "Need", "Planned", "Planning", "Row", "Task", "TaskConfig", "Toolkit"]

Toolkit = Literal["fairseq", "transformers", "torchaudio", "fairseq2"]


class Row(NamedTuple):
    """Names of one module or parameter in each toolkit, without our prefix `encoder.` and without their prefixes.

    `{i}` is an index, `{qkv}` stands for the three projections that we store as one. None: the toolkit has no such
    module, and conversion drops it.
    """

    ours: str
    fairseq: str | None = None
    transformers: str | None = None
    torchaudio: str | None = None
    fairseq2: str | None = None


Need = Literal["labels", "tokens", "classes"]  # units of frames, token ids, one class per utterance; beside the audio
SizeName = Literal["small", "base", "large"]


class TaskConfig(Protocol):
    """The configuration of a task, made by `config.configuration`; its `kind` names the task."""

    @property
    def kind(self) -> str:
        """The task's `kind`."""


@dataclass(frozen=True, kw_only=True)
class DataSizes:
    """Numbers of classes in the training data, which determine the size of the head."""

    clusters: tuple[int, ...] = ()  # number of units of each label stream
    vocabulary: int = 0  # number of tokens
    classes: int = 0  # number of utterance classes


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Settings of a task at one of the planner's sizes, from published runs or ours."""

    config: Any  # configuration of the task
    clusters: tuple[int, ...] = ()
    max_grad_norm: float | None = None
    cpu_audio_s: float | None = None  # measured throughput of one core in audio-s/s; None: estimated from operations
    lr: tuple[float, float] | None = None  # seconds of audio per update, and the published peak learning rate for it


@dataclass(frozen=True, kw_only=True)
class Planning:
    """Settings and texts of a task for the planner."""

    sizes: Mapping[SizeName, Planned] = field(default_factory=dict)  # a size without an entry has the default settings
    share: float = 1.0  # share of the time for the planned run; the rest is for preceding runs
    before: str = ""  # description of the preceding runs; `{steps}` is their number of updates
    recipe_note: str = ""  # a line above the recipe; `{steps}` as above
    lr_note: str = "as the batch-size study found for wav2vec 2.0; nobody published it for this task"  # for size base
    errors_note: str = ""  # text after published error rates
    needs_seen: str = ""  # warning if the run sees fewer hours; `{small}` is filled with `small_seen` for small models
    needs_seen_h: float = 4170.0  # the hours: those of the shortest published run
    small_seen: str = ""  # what is known of models smaller than BASE

    def too_few_hours(self, hours_seen: float, *, is_small: bool) -> str:
        """Return the warning for a run that sees few hours of audio; nothing if they are enough."""
        if not self.needs_seen or hours_seen >= self.needs_seen_h:
            return ""
        return f"{hours_seen:,.0f} h seen: {self.needs_seen.format(small=self.small_seen if is_small else '')}"


class Task:
    """A training method. Subclasses override what differs; everything else is optional."""

    kind: ClassVar[str]  # value of the key `objective.kind`, or name of the section that configures the task
    method: ClassVar[str]  # name of the method in `info`, `runs` and `plan --method`
    title: ClassVar[str]  # description of the method
    config_type: ClassVar[type]
    needs: ClassVar[frozenset[Need]] = frozenset()
    is_pretraining: ClassVar[bool] = True  # whether it is a choice of the key `objective`
    pipeline: ClassVar[str] = "feature-extraction"  # pipeline tag for model hubs
    head_names: ClassVar[Sequence[Row]] = ()  # names of the head's parameters; conversions leave out those not listed
    prefixes: ClassVar[Mapping[Toolkit, str]] = {}  # prefixes of the encoder's parameters in a toolkit's model of it
    planning: ClassVar[Planning] = Planning()

    def build(self, config: Any, encoder: SpeechEncoder, sizes: DataSizes) -> TaskModel:
        """Put the task's head on an encoder; random weights come from torch's default generator.

        Raises:
            ConfigError: the configuration does not fit the encoder.
            LabelError: as `check`.
        """
        raise NotImplementedError

    def planned_sizes(self, clusters: tuple[int, ...]) -> DataSizes:
        """Return the sizes of a model that is planned without data: with the fewest classes there can be."""
        return DataSizes(clusters=clusters, classes=2 if "classes" in self.needs else 0)

    def check(self, sizes: DataSizes) -> None:
        """Check that the training data has what the task needs, and nothing that it would ignore.

        Raises:
            LabelError: labels or classes are missing, or given to a task that takes none.
        """
        if "labels" in self.needs and not sizes.clusters:
            raise LabelError(
                f"objective.kind={self.kind} needs labels; make them with `speechssl cluster` and name the file in "
                "the key labels"
            )
        if "labels" not in self.needs and sizes.clusters:
            raise LabelError(f"objective.kind={self.kind} takes no labels; remove the key labels")
        if "classes" in self.needs and sizes.classes < 2:
            raise LabelError(
                f"objective.kind={self.kind} needs two classes of utterances or more, found {sizes.classes}; name the "
                "manifest column that contains them in the key classes"
            )
        if "classes" not in self.needs and sizes.classes:
            raise LabelError(f"objective.kind={self.kind} takes no classes; remove the key classes")

    def head_keys(self, config: Any) -> Sequence[str]:
        """Return the dotted keys of the configuration that determine the parameters of the head."""
        return ()

    def is_elsewhere(self, config: Any) -> bool:
        """Return whether another toolkit has the head, as configured; conversions write the trunk alone if none has."""
        return bool(self.head_names)

    def products(
        self, config: Any, encoder: EncoderConfig, clusters: Sequence[int], *, frames: int, utterances: int = 1
    ) -> list[Product]:
        """List the matrix products of the head for one utterance in a training step, for the planner.

        Args:
            config: configuration of the task.
            encoder: configuration of the encoder.
            clusters: number of units of each label stream.
            frames: number of frames of the utterance.
            utterances: number of utterances of the same length in the batch.
        """
        return []
