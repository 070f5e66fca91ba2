"""The recipe of self-training, resolved into the configurations of its steps. Reads no data and runs nothing."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from speechssl.asr.confidence import Measure
from speechssl.asr.decoding.decoders import Beam, Greedy, WithLexicon
from speechssl.audio.reading import AudioConfig
from speechssl.config import Discriminator, Row, Shown, configuration, from_dict, rows_of
from speechssl.data.augment import AugmentConfig
from speechssl.errors import ConfigError
from speechssl.stages.augmentation import PseudoConfig
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.hubert_recipe import merged
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.tuned import TuneConfig

__all__ = ["KeepConfig", "Plan", "SelftrainConfig", "SyntheticConfig", "Training", "training", "tuning"]

Section = dict[str, Any]  # settings of another stage, checked by its own configuration
CHAINED = ("out", "data", "dev", "seed", "checkpoint", "weights", "pseudo")  # keys of finetune that the chain sets


@configuration
class KeepConfig:
    """Which utterances of the pool keep their pseudo-labels, by what the same choice keeps of dev."""

    measure: Literal["auto"] | Measure = "auto"  # confidence; auto: least area under the risk-coverage curve of dev
    share: tuple[float, ...] = (0.5, 0.75, 1.0)  # surest share of the pool's utterances by round; later ones: the last
    max_cer: float | None = None  # instead of shares: highest expected CER of an utterance, by the map fitted on dev
    second: Literal["none", "dropout"] | Path = "dropout"  # second opinion: draw with dropout, or another recogniser
    dropout: float = 0.1  # dropout probability of that draw
    draws: int = 1  # number of draws with dropout; their agreements are averaged
    weighted: bool = True  # weight of a pseudo-label: its expected share of right letters; false: 1
    rate_margin: float = 1.25  # letters a second may leave the labelled texts' 1 to 99 % range by this factor
    loop_letters: int = 12  # letters in a loop, such as `no no no`, unless labelled texts have longer ones

    def __post_init__(self) -> None:
        if not self.share or not all(0 < share <= 1 for share in self.share):
            raise ConfigError(f"keep.share must list shares above 0 and up to 1, found {list(self.share)}")
        if self.max_cer is not None and not 0 < self.max_cer <= 1:
            raise ConfigError(f"keep.max_cer must lie above 0 and be at most 1, found {self.max_cer}")
        if not 0 < self.dropout < 1:
            raise ConfigError(f"keep.dropout must lie between 0 and 1, found {self.dropout}")
        if self.draws < 1 or (self.draws > 1 and self.second != "dropout"):
            raise ConfigError(
                f"keep.draws must be 1 or more, and 1 unless keep.second=dropout, found {self.draws} and "
                f"keep.second={self.second}"
            )
        if self.rate_margin < 1:
            raise ConfigError(f"keep.rate_margin must be 1 or more, found {self.rate_margin}")
        if self.measure == "agreement" and self.second == "none":
            raise ConfigError("keep.measure=agreement needs a second opinion; set keep.second=dropout, or a recogniser")

    def share_of(self, round_: int) -> float:
        """Return the share of a round, counted from 1."""
        return self.share[min(round_, len(self.share)) - 1]


@configuration
class SyntheticConfig:
    """Generated speech with the texts that it was made from; joins every training."""

    manifests: tuple[Path, ...]
    root: Path | None = None
    max_hours: float = 1.0  # drawn by seed
    compare: bool = False  # train round 0 without it, too
    groups: tuple[str, ...] = ("language", "speaker")  # columns of dev; compare tells them apart

    def __post_init__(self) -> None:
        if self.max_hours <= 0:
            raise ConfigError(f"synthetic.max_hours must be above 0, found {self.max_hours}")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training of the chain, before its data exist."""

    name: str  # of its folder
    finetune: FinetuneConfig


@dataclass(frozen=True)
class Plan(Shown):
    """The trainings as shown to the user."""

    trainings: tuple[Training, ...]

    def rows(self) -> Iterator[Row]:
        """Yield the keys of each training, with their values."""
        for each in self.trainings:
            yield from ((f"{each.name}.{key}", value, is_default) for key, value, is_default in rows_of(each.finetune))


@configuration
class SelftrainConfig:
    """Rounds of pseudo-labels for a pool, and of training on them."""

    out: Path  # folder for a folder per step, record.jsonl, report.md and best
    checkpoint: Path  # pretrained encoder that every round starts from
    labelled: DataConfig
    pool: DataConfig  # utterances whose texts, if any, are only compared with pseudo-labels in the report
    dev: DataConfig  # tunes, calibrates and judges
    test: DataConfig | None = None  # only checked to have nothing in common with what is trained on
    finetune: Section = field(default_factory=dict)  # keys of `speechssl finetune`
    student: Section = field(default_factory=dict)  # keys of finetune that differ in trainings with pseudo-labels
    augment_pseudo: AugmentConfig | None = None  # augmentation of pseudo-labels alone, in place of student.augment
    rounds: int = 3  # most rounds with pseudo-labels
    min_gain: float = 0.01  # relative fall of the CER of dev; a round that brings less is the last
    decode: Annotated[Greedy | Beam | WithLexicon, Discriminator("kind")] = Greedy()  # of pool and dev
    tune: Section = field(default_factory=dict)  # weights to try on dev, if `decode` has a language model
    keep: KeepConfig = KeepConfig()
    recogniser: Path | None = None  # recogniser for the first pseudo-labels; None: trained on the labels
    synthetic: SyntheticConfig | None = None
    leaks: Literal["stop", "skip"] = "stop"  # what dev and test share with the rest; skip: leave it out there
    languages: Literal["labelled", "any"] = "labelled"  # of the pool; labelled: those of labels, and those not stated
    redo: bool = False  # repeat steps whose inputs have changed, and keep the old ones as NAME.old-1, ...
    seed: int = 0
    plan: Plan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds must be 1 or more, found {self.rounds}")
        if not 0 <= self.min_gain < 1:
            raise ConfigError(f"min_gain must be at least 0 and below 1, found {self.min_gain}")
        lm = None if isinstance(self.decode, Greedy) else self.decode.lm
        if self.keep.measure == "lm" and lm is None:
            raise ConfigError("keep.measure=lm needs a language model; name it in decode.lm")
        if self.recogniser is not None and self.synthetic is not None and self.synthetic.compare:
            raise ConfigError("synthetic.compare trains round 0 twice, and recogniser replaces it; remove one of them")
        if self.pool.audio not in (AudioConfig(), self.labelled.audio):
            raise ConfigError("pool.audio: both are trained on together; set labelled.audio, or both alike")
        tuning(self)
        numbers = range(0 if self.recogniser is None else 1, self.rounds + 1)
        object.__setattr__(self, "plan", Plan(tuple(training(self, number) for number in numbers)))


def training(config: SelftrainConfig, round_: int, *, real_only: bool = False) -> Training:
    """Configure the training of a round; round 0 has no pseudo-labels.

    Args:
        config: the recipe.
        round_: number of the round.
        real_only: the training that leaves synthetic speech out.

    Raises:
        ConfigError: a key of a section is unknown, or set by the chain; or the tokens are phones.
    """
    for name, section in (("finetune", config.finetune), ("student", config.student)):
        for key in CHAINED:
            if key in section:
                raise ConfigError(f"{name}.{key} is set by the chain; set it for the whole recipe, or leave it out")
    prepared = config.out / "0-data"
    manifests: tuple[Path, ...] = (prepared / "labelled.tsv",)
    manifests += (prepared / "synthetic.tsv",) if config.synthetic is not None and not real_only else ()
    manifests += (config.out / f"{round_}-labels/pseudo.tsv",) if round_ else ()
    data = dataclasses.replace(config.labelled, manifests=manifests, root=None)
    weights = config.out / f"{round_}-labels/weights.tsv" if round_ else None
    name = f"{round_}-asr" + ("-without-synthetic" if real_only else "")
    chained: Section = {"out": config.out / name, "checkpoint": config.checkpoint, "data": data, "dev": config.dev}
    chained |= {"seed": config.seed, "weights": weights}
    if round_ and config.augment_pseudo is not None:
        chained["pseudo"] = PseudoConfig(manifests=manifests[-1:], augment=config.augment_pseudo)
    section = merged(config.finetune, config.student) if round_ else config.finetune
    built = from_dict(chained | section, FinetuneConfig, where="student" if round_ and config.student else "finetune")
    if built.units.kind == "phones":
        raise ConfigError("finetune.units.kind=phones: pseudo-labels are texts; train on letters or pieces")
    if not built.train.eval_every:
        raise ConfigError("finetune.train.eval_every is 0: dev judges the rounds; set the steps between its scores")
    return Training(name=name, finetune=built)


def tuning(config: SelftrainConfig) -> TuneConfig | None:
    """Configure the search for weights; None if there is no language model.

    Raises:
        ConfigError: a key of the section is unknown, or there is nothing to tune.
    """
    if isinstance(config.decode, Greedy) or config.decode.lm is None:
        if config.tune:
            raise ConfigError("tune: there is nothing to tune without a language model; name it in decode.lm")
        return None
    if "decoder" in config.tune:
        raise ConfigError("tune.decoder is set by the chain; set decode instead")
    return from_dict({"metric": "cer", "decoder": config.decode} | config.tune, TuneConfig, where="tune")
