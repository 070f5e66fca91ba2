"""The protocol of a task: everything that the toolkit asks of a way of learning, answered in one place.

A subclass of `Task` describes a kind of model; one instance of it, listed in `registry` or by an installed package's
entry point, is all that stages, checkpoints, converters and the planner know of the task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import nn

from speechssl.errors import LabelError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.tasks.flops import Product
from speechssl.tasks.model import TaskModel

__all__ = ["DataSizes", "Need", "Planned", "Planning", "Row", "Task", "TaskConfig", "Toolkit"]

Toolkit = Literal["fairseq", "transformers", "torchaudio", "fairseq2"]


class Row(NamedTuple):
    """Names of one module, or of one parameter, without our prefix `encoder.` and without their prefixes.

    `{i}` is an index, `{qkv}` stands for the three projections that we keep as one. None: the toolkit has no such
    module, and drops it.
    """

    ours: str
    fairseq: str | None = None
    transformers: str | None = None
    torchaudio: str | None = None
    fairseq2: str | None = None


Need = Literal["labels", "tokens", "classes"]  # units of frames, texts as ids, one class an utterance; audio always
SizeName = Literal["small", "base", "large"]


class TaskConfig(Protocol):
    """A configuration by whose `kind` its task is found: a class made by `config.configuration`."""

    @property
    def kind(self) -> str:
        """The task's own `kind`."""


@dataclass(frozen=True, kw_only=True)
class DataSizes:
    """How much there is to tell apart in what a task learns from; it sizes the head."""

    clusters: tuple[int, ...] = ()  # units of each label stream
    vocabulary: int = 0  # tokens
    classes: int = 0  # of utterances


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A task at one of the sizes that the planner knows: what published runs, or ours, were made with."""

    config: Any  # of the task
    clusters: tuple[int, ...] = ()
    max_grad_norm: float | None = None
    cpu_audio_s: float | None = None  # audio-seconds a second of one core, measured; None: by operations
    lr: tuple[float, float] | None = None  # a published peak, and the seconds of audio an update that it was made for


@dataclass(frozen=True, kw_only=True)
class Planning:
    """What the planner says of a task beyond sizes."""

    sizes: Mapping[SizeName, Planned] = field(default_factory=dict)  # a size without an entry has the default settings
    share: float = 1.0  # of the time, for the planned run; the rest is for what must come before it
    before: str = ""  # what comes before it, in words; `{steps}` are its updates
    recipe_note: str = ""  # a line above the recipe; `{steps}` as above
    lr_note: str = "as the batch-size study found for wav2vec 2.0; nobody published it for this task"  # of BASE
    errors_note: str = ""  # said after published error rates
    needs_seen: str = ""  # what fewer hours than any published run saw mean; warned of


class Task:
    """A way of learning. Override what differs; what is not overridden, the toolkit does without."""

    kind: ClassVar[str]  # key `objective.kind`, or name of the section that configures it
    method: ClassVar[str]  # what a model of it is called: by `info` and `runs`, and in `plan --method`
    title: ClassVar[str]  # the method in words
    config_type: ClassVar[type]
    needs: ClassVar[frozenset[Need]] = frozenset()
    is_pretraining: ClassVar[bool] = True  # a choice of the key `objective`
    pipeline: ClassVar[str] = "feature-extraction"  # as model hubs name what a model of it is for
    head_names: ClassVar[Sequence[Row]] = ()  # parameters besides the trunk's; conversions leave out the others
    prefixes: ClassVar[Mapping[Toolkit, str]] = {}  # before the trunk's parameters in a toolkit's own model of the task
    planning: ClassVar[Planning] = Planning()

    def build(self, config: Any, encoder: SpeechEncoder, sizes: DataSizes) -> TaskModel:
        """Put the task's head on a trunk; what is random comes from torch's default generator.

        Raises:
            ConfigError: the configuration does not fit the trunk.
            LabelError: as `check` does.
        """
        raise NotImplementedError

    def objective(self, config: Any, *, dim: int, conv_dim: int, clusters: tuple[int, ...]) -> nn.Module:
        """Build the head of a pretraining task alone; `PretrainModel` puts it on a trunk.

        Args:
            config: of the task.
            dim: of the trunk's output.
            conv_dim: of the extractor's output.
            clusters: units of each label stream.
        """
        raise NotImplementedError

    def check(self, sizes: DataSizes) -> None:
        """Check that there is what the task learns from, and nothing that it would pass over.

        Raises:
            LabelError: labels or classes are missing, or not wanted.
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
                "column of the manifests that has them in the key classes"
            )
        if "classes" not in self.needs and sizes.classes:
            raise LabelError(f"objective.kind={self.kind} takes no classes; remove the key classes")

    def head_keys(self, config: Any) -> Sequence[str]:
        """Name the dotted keys of the configuration that decide which parameters the head has."""
        return ()

    def products(
        self, config: Any, encoder: EncoderConfig, clusters: Sequence[int], *, frames: int, utterances: int = 1
    ) -> list[Product]:
        """List the matrix products of the head in a training step, for the planner.

        Args:
            config: of the task.
            encoder: the trunk.
            clusters: units of each label stream.
            frames: of the utterance.
            utterances: of its batch, as long as it is.
        """
        return []
