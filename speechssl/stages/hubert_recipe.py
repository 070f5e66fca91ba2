"""A recipe of HuBERT iterations, and what it makes of the stages' own configurations. Reads and runs nothing."""

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

__all__ = ["CHOOSABLE", "HubertConfig", "Iteration", "IterationConfig", "Plan", "held_out_units", "resolve"]

Section = dict[str, Any]  # keys of another stage, checked by its own configuration
Config = TypeVar("Config")
CHAINED = ("out", "data", "dev", "seed", "phones", "checkpoint", "labels", "kmeans", "fresh_head")  # set here alone
CHOOSABLE = ("layer", "clusters")  # keys of the units that the sweep may choose: auto
FRONT_END = ("standardise", "cmn", "extract")  # keys that the sweep takes over from the units it is made for


@configuration
class IterationConfig:
    """One iteration: what differs from the `units` and `pretrain` that all share."""

    units: Section = field(default_factory=dict)  # keys of `speechssl cluster`; layer and clusters may be auto
    pretrain: Section = field(default_factory=dict)  # keys of `speechssl pretrain`
    start: Literal["random", "continue"] = "random"  # from random weights as in the paper, or the model before's trunk


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """One iteration with all its steps configured; keys in `auto` hold no more than a placeholder."""

    number: int  # from 1
    auto: tuple[str, ...]  # keys of the units that its sweep will choose
    sweep: SweepConfig | None
    units: ClusterConfig
    dev_units: ClusterConfig | None  # of the held-out utterances
    pretrain: PretrainConfig


@dataclass(frozen=True)
class Plan(Shown):
    """All iterations, as people are shown them: `auto` where a sweep will choose."""

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

    out: Path  # gets a folder for each step, record.jsonl and report.md
    data: DataConfig
    iterations: tuple[IterationConfig, ...]
    units: Section = field(default_factory=dict)  # of every iteration: keys of `speechssl cluster`
    pretrain: Section = field(default_factory=dict)  # of every iteration: keys of `speechssl pretrain`
    sweep: Section = field(default_factory=dict)  # keys of `speechssl sweep`; data if not all of it is to be measured
    dev: DataConfig | None = like("data", "audio", old="valid")  # held out: same centroids, scored in pretraining
    phones: Path | None = None  # alignments: units are measured, and a sweep goes before units of a layer
    checkpoint: Path | None = None  # model before the first iteration, if there is one
    processes: int = 1  # that cluster and pretrain together on this machine, by torchrun: one for each GPU
    redo: bool = False  # do steps again whose inputs have changed, and keep the old ones as NAME.old-1, ...
    seed: int = 0
    plan: Plan = field(init=False, repr=False, compare=False)  # what `resolve` returns

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", Plan(resolve(self)))


def held_out_units(out: Path, number: int) -> str:
    """Name the folder of an iteration's held-out units; earlier versions called it otherwise, and it is kept."""
    old = f"{number}-valid-units"
    return old if (out / old).exists() else f"{number}-dev-units"


def resolve(config: HubertConfig) -> tuple[Iteration, ...]:
    """Configure all steps.

    Raises:
        ConfigError: a key of a section is unknown, set by the chain, or missing; or steps do not fit together.
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
    """Find mistyped keys in what all iterations share, and name them where they stand."""
    stand_in = {"out": config.out, "data": config.data}
    _build(ClusterConfig, _named(config.units), stand_in | {"checkpoint": config.out}, where="units")
    _build(PretrainConfig, config.pretrain, stand_in, where="pretrain")
    _build(SweepConfig, config.sweep, stand_in | {"checkpoint": config.out, "phones": config.out}, where="sweep")


def _resolve(config: HubertConfig, number: int, iteration: IterationConfig, before: Path | None) -> Iteration:
    where = f"iterations.{number}"
    section = {"features": "mfcc" if before is None else "layer"} | _merged(config.units, iteration.units)
    auto = tuple(key for key in CHOOSABLE if section.get(key) == "auto")
    _check_choice(config, section, auto, before, where)
    chained: Section = {"out": config.out / f"{number}-units", "data": config.data, "seed": config.seed}
    chained |= {"phones": config.phones} | ({"checkpoint": before} if section["features"] == "layer" else {})
    units = _build(ClusterConfig, _named(section), chained, where=f"{where}.units")
    dev_units = None
    if config.dev is not None:
        out, kmeans = config.out / held_out_units(config.out, number), units.out / "kmeans.safetensors"
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
    """Refuse a layer that nobody names, and a choice that nothing can be measured for."""
    is_layer = section["features"] == "layer"
    if is_layer and before is None:
        raise ConfigError(f"{where}.units.features=layer: there is no model before; take mfcc, or name a checkpoint")
    if is_layer and "layer" not in section:
        raise ConfigError(f"{where}.units.layer is missing; name one" + (", or auto" if config.phones else ""))
    if auto and config.phones is None:
        raise ConfigError(f"{where}.units.{auto[0]}=auto needs phones to measure units against; name alignments")
    if "layer" in auto and not is_layer:
        raise ConfigError(f"{where}.units.layer=auto: {section['features']} has no layers; leave the key out")


def _sweep_of(config: HubertConfig, number: int, units: ClusterConfig, auto: Sequence[str]) -> SweepConfig | None:
    """Configure the sweep before the units, where there are phones; before MFCC only to choose the number of units."""
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
    names = [f"{number}-units"] + ([held_out_units(config.out, number)] if config.dev is not None else [])
    files = [str(config.out / name / "labels.tsv") for name in names]  # of one stream
    chained: Section = {"out": config.out / f"{number}-pretrain", "data": config.data, "seed": config.seed}
    chained |= {"labels": [files] if len(files) > 1 else files, "dev": config.dev}
    shared = config.pretrain
    if iteration.start == "continue":
        if before is None:
            raise ConfigError(f"{where}.start=continue: there is no model before; take random, or name a checkpoint")
        chained |= {"checkpoint": before, "fresh_head": True}
        shared = {key: value for key, value in shared.items() if key != "encoder"}
    built = _build(PretrainConfig, _merged(shared, iteration.pretrain), chained, where=f"{where}.pretrain")
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


def _merged(shared: Section, own: Section) -> Section:
    """Lay an iteration's section over the shared one, key by key at any depth."""
    merged = dict(shared)
    for key, value in own.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    return merged


def _named(section: Section) -> Section:
    """Return the keys of the units that are not left to the sweep."""
    return {key: value for key, value in section.items() if key not in CHOOSABLE or value != "auto"}
