"""The recipe of HuBERT iterations, resolved into the configurations of its stages. Reads no data and runs nothing."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from speechssl.config import Row, Shown, configuration, from_dict, like, rows_of
from speechssl.errors import ConfigError
from speechssl.stages.cluster import ClusterConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.sweep import SweepConfig
from speechssl.tasks.registry import task_of

__all__ = ["CHOOSABLE", "HubertConfig", "Iteration", "IterationConfig", "Plan", "dev_units_folder", "merged", "resolve"]

Section = dict[str, Any]  # settings of another stage, checked by its own configuration
Config = TypeVar("Config")
CHAINED = ("out", "data", "dev", "seed", "phones", "checkpoint", "labels", "kmeans", "fresh_head")  # set by the chain
CHOOSABLE = ("layer", "clusters")  # keys of the units that may be auto: chosen by the sweep
FRONT_END = ("standardise", "cmn", "extract")  # keys that the sweep copies from its units


@configuration
class IterationConfig:
    """One iteration: differences from the `units` and `pretrain` that all share."""

    units: Section = field(default_factory=dict)  # keys of `speechssl cluster`; layer and clusters may be auto
    pretrain: Section = field(default_factory=dict)  # keys of `speechssl pretrain`
    start: Literal["random", "continue"] = (
        "random"  # random weights as in the paper, or the trunk of the previous model
    )


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """One iteration with all its steps configured; keys in `auto` hold placeholders."""

    number: int  # counted from 1
    auto: tuple[str, ...]  # keys of the units that its sweep will choose
    sweep: SweepConfig | None
    units: ClusterConfig
    dev_units: ClusterConfig | None  # units of the dev set
    pretrain: PretrainConfig


@dataclass(frozen=True)
class Plan(Shown):
    """All iterations as shown to the user: `auto` where a sweep will choose."""

    iterations: tuple[Iteration, ...]

    def rows(self) -> Iterator[Row]:
        """Yield the keys of each iteration, with their values."""
        for iteration in self.iterations:
            auto = {f"units.{key}" for key in iteration.auto}
            for key, value, is_default in rows_of(iteration):
                shown = ("auto", False) if key in auto else (value, is_default)
                yield f"iteration_{iteration.number}.{key}", *shown


@configuration
class HubertConfig:
    """Iterations of hidden units and pretraining on one set of audio."""

    out: Path  # folder for a folder per step, record.jsonl and report.md
    data: DataConfig
    iterations: tuple[IterationConfig, ...]
    units: Section = field(default_factory=dict)  # keys of `speechssl cluster`, for all iterations
    pretrain: Section = field(default_factory=dict)  # keys of `speechssl pretrain`, for all iterations
    sweep: Section = field(default_factory=dict)  # keys of `speechssl sweep`; data to measure only a part
    dev: DataConfig | None = like("data", "audio", old="valid")  # held-out set, labelled with the same centroids
    phones: Path | None = None  # alignments: units are measured, and units of a layer follow a sweep
    checkpoint: Path | None = None  # model for the first iteration, if there is one
    processes: int = 1  # processes of cluster and pretrain on this machine, by torchrun: one per GPU
    redo: bool = False  # repeat steps whose inputs have changed, and keep the old ones as NAME.old-1, ...
    seed: int = 0
    plan: Plan = field(init=False, repr=False, compare=False)  # the result of `resolve`

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", Plan(resolve(self)))


def dev_units_folder(out: Path, number: int) -> str:
    """Return the folder of an iteration's dev units; an existing folder under its former name is kept."""
    old = f"{number}-valid-units"
    return old if (out / old).exists() else f"{number}-dev-units"


def resolve(config: HubertConfig) -> tuple[Iteration, ...]:
    """Configure all steps.

    Raises:
        ConfigError: a key of a section is unknown, set by the chain, or missing; or the steps are inconsistent.
    """
    if not config.iterations:
        raise ConfigError("iterations is empty; list at least one")
    if config.processes < 1:
        raise ConfigError(f"processes must be 1 or more, found {config.processes}")
    _check_shared(config)
    resolved: list[Iteration] = []
    before = config.checkpoint
    for number, iteration in enumerate(config.iterations, start=1):
        resolved.append(_resolve(config, number, iteration, before))
        before = resolved[-1].pretrain.out
    return tuple(resolved)


def _check_shared(config: HubertConfig) -> None:
    """Check the keys of the shared sections, so that an error names the shared section."""
    stand_in = {"out": config.out, "data": config.data}
    _build(ClusterConfig, _named(config.units), stand_in | {"checkpoint": config.out}, where="units")
    _build(PretrainConfig, config.pretrain, stand_in, where="pretrain")
    _build(SweepConfig, config.sweep, stand_in | {"checkpoint": config.out, "phones": config.out}, where="sweep")


def _resolve(config: HubertConfig, number: int, iteration: IterationConfig, before: Path | None) -> Iteration:
    where = f"iterations.{number}"
    section = {"features": "mfcc" if before is None else "layer"} | merged(config.units, iteration.units)
    auto = tuple(key for key in CHOOSABLE if section.get(key) == "auto")
    _check_choice(config, section, auto, before, where)
    chained: Section = {"out": config.out / f"{number}-units", "data": config.data, "seed": config.seed}
    chained |= {"phones": config.phones} | ({"checkpoint": before} if section["features"] == "layer" else {})
    units = _build(ClusterConfig, _named(section), chained, where=f"{where}.units")
    dev_units = None
    if config.dev is not None:
        out, kmeans = config.out / dev_units_folder(config.out, number), units.out / "kmeans.safetensors"
        dev_units = dataclasses.replace(units, out=out, data=config.dev, kmeans=kmeans, phones=None)
    return Iteration(
        number=number,
        auto=auto,
        sweep=_sweep_of(config, number, units, auto),
        units=units,
        dev_units=dev_units,
        pretrain=_pretrain_of(config, number, iteration, before),
    )


def _check_choice(config: HubertConfig, section: Section, auto: Sequence[str], before: Path | None, where: str) -> None:
    """Refuse a missing layer, and a choice left to a sweep that cannot measure it."""
    is_layer = section["features"] == "layer"
    if is_layer and before is None:
        raise ConfigError(f"{where}.units.features=layer: there is no previous model; take mfcc, or name a checkpoint")
    if is_layer and "layer" not in section:
        raise ConfigError(f"{where}.units.layer is missing; name one" + (", or auto" if config.phones else ""))
    if auto and config.phones is None:
        raise ConfigError(f"{where}.units.{auto[0]}=auto needs phones to measure units against; name alignments")
    if "layer" in auto and not is_layer:
        raise ConfigError(f"{where}.units.layer=auto: {section['features']} has no layers; leave the key out")


def _sweep_of(config: HubertConfig, number: int, units: ClusterConfig, auto: Sequence[str]) -> SweepConfig | None:
    """Configure the sweep before the units, if there are phones; for MFCC only to choose the number of units."""
    if config.phones is None or (units.features != "layer" and not auto):
        return None
    known = {field.name for field in dataclasses.fields(SweepConfig)}
    section: Section = {key: getattr(units, key) for key in FRONT_END if key in known} | config.sweep
    chained = {"data": config.data, "seed": config.seed, "phones": config.phones}
    chained |= {"out": config.out / f"{number}-sweep"}
    if units.features == "layer":
        chained |= {"checkpoint": units.checkpoint}
    else:
        section = {key: section[key] for key in section if key not in ("layers", "random_weights")}
        section["baselines"] = [units.features]
    found = _build(SweepConfig, section, chained, where="sweep")
    if auto and "clusters" not in auto and units.clusters not in found.clusters:
        raise ConfigError(
            f"iterations.{number}.units.layer=auto: the sweep measures {list(found.clusters)} units, expected "
            f"{units.clusters} among them; add it to sweep.clusters"
        )
    return found


def _pretrain_of(config: HubertConfig, number: int, iteration: IterationConfig, before: Path | None) -> PretrainConfig:
    where = f"iterations.{number}"
    names = [f"{number}-units"] + ([dev_units_folder(config.out, number)] if config.dev is not None else [])
    files = [str(config.out / name / "labels.tsv") for name in names]  # files of one stream
    chained: Section = {"out": config.out / f"{number}-pretrain", "data": config.data, "seed": config.seed}
    chained |= {"labels": [files] if len(files) > 1 else files, "dev": config.dev}
    shared = config.pretrain
    if iteration.start == "continue":
        if before is None:
            raise ConfigError(f"{where}.start=continue: there is no previous model; take random, or name a checkpoint")
        chained |= {"checkpoint": before, "fresh_head": True}
        shared = {key: value for key, value in shared.items() if key != "encoder"}
    built = _build(PretrainConfig, merged(shared, iteration.pretrain), chained, where=f"{where}.pretrain")
    if "labels" not in task_of(built.objective).needs:
        raise ConfigError(
            f"{where}.pretrain.objective.kind={built.objective.kind}: expected masked_prediction of units"
        )
    return built


def _build(config_type: type[Config], section: Section, chained: Section, *, where: str) -> Config:
    """Build a stage's configuration from a section of the recipe and what the chain sets."""
    allowed = ("data",) if config_type is SweepConfig else ()
    for key in CHAINED:
        if key in section and key not in allowed:
            raise ConfigError(f"{where}.{key} is set by the chain; set it for the whole recipe, or leave it out")
    return from_dict(chained | section, config_type, where=where)


def merged(shared: Section, own: Section) -> Section:
    """Merge a part's own section into the shared one, key by key at any depth."""
    found = dict(shared)
    for key, value in own.items():
        under = found.get(key)
        found[key] = merged(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    return found


def _named(section: Section) -> Section:
    """Return the section of the units without the keys that the sweep will choose."""
    return {key: value for key, value in section.items() if key not in CHOOSABLE or value != "auto"}
