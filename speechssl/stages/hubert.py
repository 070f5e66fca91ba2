"""Stage `hubert`: a whole HuBERT recipe. Units -> pretraining -> layer sweep -> units of a layer -> pretraining ...

Section II-D of HuBERT (arXiv:2106.07447): each iteration predicts units of the model before. The steps are the stages
`cluster`, `sweep` and `pretrain` with their own configurations; here they are only chained, each passed over while what
it was made from is the same. Under `out`: 1-units, 1-pretrain, 2-sweep, 2-units, 2-pretrain, ...; record.jsonl;
report.md.
"""

import copy
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from speechssl.config import configuration, from_dict
from speechssl.data.manifest import write_atomically
from speechssl.errors import ConfigError, LabelError
from speechssl.objective.masked_prediction import MaskedPredictionConfig
from speechssl.saved import SavedModel
from speechssl.stages.cluster import ClusterConfig, cluster
from speechssl.stages.data import DataConfig
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.record import RunRecord, content_hash, step_inputs
from speechssl.stages.sweep import SweepConfig, sweep
from speechssl.train.checkpoint import last_checkpoint, read_state

__all__ = ["HubertConfig", "Iteration", "IterationConfig", "choose_units", "hubert", "resolve"]

Section = dict[str, Any]  # keys of another stage, checked by its own configuration
Config = TypeVar("Config")
CHAINED = ("out", "data", "seed", "phones", "checkpoint", "labels", "fresh_head")  # keys that the chain sets itself
CHOOSABLE = ("layer", "clusters")  # keys of the units that the sweep may choose: auto


@configuration
class IterationConfig:
    """One iteration: what differs from the `units` and `pretrain` that all share."""

    units: Section = field(default_factory=dict)  # keys of `speechssl cluster`; layer and clusters may be auto
    pretrain: Section = field(default_factory=dict)  # keys of `speechssl pretrain`
    start: Literal["random", "continue"] = "random"  # from random weights as in the paper, or the model before's trunk


@configuration
class HubertConfig:
    """Iterations of hidden units and pretraining on one set of audio."""

    out: Path  # gets a folder for each step, record.jsonl and report.md
    data: DataConfig
    iterations: tuple[IterationConfig, ...]
    units: Section = field(default_factory=dict)  # of every iteration: keys of `speechssl cluster`
    pretrain: Section = field(default_factory=dict)  # of every iteration: keys of `speechssl pretrain`
    sweep: Section = field(default_factory=dict)  # keys of `speechssl sweep`; data if not all of it is to be measured
    phones: Path | None = None  # alignments: units are measured, and a sweep goes before units of a layer
    checkpoint: Path | None = None  # model before the first iteration, if there is one
    redo: bool = False  # do steps again whose inputs have changed, and keep the old ones as NAME.old-1, ...
    seed: int = 0
    plan: object = field(init=False, repr=False, compare=False)  # for people: what `resolve` returns, by iteration

    def __post_init__(self) -> None:
        resolved = resolve(self)
        fields = [(f"iteration_{iteration.number}", Iteration) for iteration in resolved]
        plan = dataclasses.make_dataclass("Plan", fields, frozen=True)(*map(_shown, resolved))
        object.__setattr__(self, "plan", plan)


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """One iteration with all its steps configured; keys in `auto` hold no more than a placeholder."""

    number: int  # from 1
    auto: tuple[str, ...]  # keys of the units that its sweep will choose
    sweep: SweepConfig | None
    units: ClusterConfig
    pretrain: PretrainConfig


def hubert(config: HubertConfig) -> Path:
    """Do what is not done yet of all iterations, print the closing table and return the report.

    Raises:
        CheckpointError: a finished step's inputs have changed, and `redo` is off.
        ConfigError: run by torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "hubert runs as one process; under torchrun run its steps one by one: cluster, sweep, pretrain; "
            "--dry-run prints their configurations"
        )
    record = RunRecord(config.out, redo=config.redo)
    model = None if config.checkpoint is None else SavedModel.read(config.checkpoint).fingerprint()
    used: list[ClusterConfig] = []
    for iteration in resolve(config):
        units = iteration.units
        if iteration.sweep is not None:
            _sweep(record, iteration.sweep, model)
            rows = json.loads((iteration.sweep.out / "sweep.json").read_text(encoding="utf-8"))["rows"]
            units = choose_units(rows, units, iteration.auto, tolerance=iteration.sweep.tolerance)
        _cluster(record, units, model)
        model = _pretrain(record, iteration.pretrain, model)
        used.append(units)
    table = _table(record, used)
    report = config.out / "report.md"
    if not report.exists() or report.read_text(encoding="utf-8") != table:
        write_atomically(report, table)
    print(table)
    return report


def resolve(config: HubertConfig) -> tuple[Iteration, ...]:
    """Configure all steps.

    Raises:
        ConfigError: a key of a section is unknown, set by the chain, or missing; or steps do not fit together.
    """
    if not config.iterations:
        raise ConfigError("iterations is empty; list at least one")
    _check_shared(config)
    resolved: list[Iteration] = []
    before = config.checkpoint
    for number, iteration in enumerate(config.iterations, start=1):
        resolved.append(_resolve(config, number, iteration, before))
        before = resolved[-1].pretrain.out
    return tuple(resolved)


def choose_units(
    rows: Sequence[Mapping[str, Any]], units: ClusterConfig, auto: Sequence[str], *, tolerance: float
) -> ClusterConfig:
    """Replace what was left to the sweep: the fewest units whose PNMI is close to the highest, as the sweep suggests.

    Args:
        rows: of sweep.json.
        units: says which features, and the layer or number of units where that is not to be chosen.
        auto: `layer`, `clusters`, both or neither.
        tolerance: PNMI that fewer units may cost.

    Raises:
        LabelError: the sweep has measured nothing that fits.
    """
    if not auto:
        return units
    source = {"kind": "model"} if units.features == "layer" else {"kind": "baseline", "source": units.features}
    wanted = source | {key: getattr(units, key) for key in CHOOSABLE if key not in auto}
    if units.features != "layer":
        wanted.pop("layer", None)
    fitting = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    if not fitting:
        raise LabelError(f"{units.out}: the sweep has no row with {wanted}; list it in sweep.layers and sweep.clusters")
    highest = max(row["quality"]["pnmi"] for row in fitting)
    close = [row for row in fitting if row["quality"]["pnmi"] >= highest - tolerance]
    chosen = min(close, key=lambda row: (row["clusters"], -row["quality"]["pnmi"]))
    return dataclasses.replace(units, **{key: chosen[key] for key in auto})


def _check_shared(config: HubertConfig) -> None:
    """Find mistyped keys in what all iterations share, and name them where they stand."""
    stand_in = {"out": config.out, "data": config.data}
    _build(ClusterConfig, _named(config.units), stand_in | {"checkpoint": config.out}, where="units")
    _build(PretrainConfig, config.pretrain, stand_in, where="pretrain")
    _build(SweepConfig, config.sweep, stand_in | {"checkpoint": config.out, "phones": config.out}, where="sweep")


def _resolve(config: HubertConfig, number: int, iteration: IterationConfig, before: Path | None) -> Iteration:
    where = f"iterations.{number}"
    shared = {"data": config.data, "seed": config.seed}
    section = {"features": "mfcc" if before is None else "layer"} | _merged(config.units, iteration.units)
    auto = tuple(key for key in CHOOSABLE if section.get(key) == "auto")
    _check_choice(config, section, auto, before, where)
    units = _build(
        ClusterConfig,
        _named(section),
        shared
        | {"out": config.out / f"{number}-units", "phones": config.phones}
        | ({"checkpoint": before} if section["features"] == "layer" else {}),
        where=f"{where}.units",
    )
    return Iteration(
        number=number,
        auto=auto,
        sweep=_sweep_of(config, number, units, auto),
        units=units,
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
    section: Section = {"standardise": units.standardise} | config.sweep
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
    chained: Section = {"out": config.out / f"{number}-pretrain", "data": config.data, "seed": config.seed}
    chained |= {"labels": [config.out / f"{number}-units" / "labels.tsv"]}
    shared = config.pretrain
    if iteration.start == "continue":
        if before is None:
            raise ConfigError(f"{where}.start=continue: there is no model before; take random, or name a checkpoint")
        chained |= {"checkpoint": before, "fresh_head": True}
        shared = {key: value for key, value in shared.items() if key != "encoder"}
    built = _build(PretrainConfig, _merged(shared, iteration.pretrain), chained, where=f"{where}.pretrain")
    if not isinstance(built.objective, MaskedPredictionConfig):
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


def _shown(iteration: Iteration) -> Iteration:
    """Return a copy that says `auto` where the sweep will choose; only to be printed."""
    units = copy.copy(iteration.units)
    vars(units).update(dict.fromkeys(iteration.auto, "auto"))
    return dataclasses.replace(iteration, units=units)


def _cluster(record: RunRecord, config: ClusterConfig, model: str | None) -> None:
    names = ["labels.tsv", "kmeans.safetensors"] + (["quality.json"] if config.phones else [])
    inputs = step_inputs(config, record.out, model=model)
    record.perform(config.out.name, inputs, lambda: cluster(config), lambda: _hashes(config.out, names))


def _sweep(record: RunRecord, config: SweepConfig, model: str | None) -> None:
    inputs = step_inputs(config, record.out, model=model)
    record.perform(config.out.name, inputs, lambda: sweep(config), lambda: _hashes(config.out, ["sweep.json"]))


def _pretrain(record: RunRecord, config: PretrainConfig, model: str | None) -> str:
    """Do the pretraining of an iteration and return the fingerprint of its model."""
    inputs = step_inputs(config, record.out, model=model)
    made = record.perform(config.out.name, inputs, lambda: pretrain(config), lambda: _fingerprint(config.out))
    (fingerprint,) = made.values()
    return fingerprint


def _fingerprint(run: Path) -> dict[str, str]:
    saved = SavedModel.read(run)
    return {saved.name: saved.fingerprint()}


def _hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {f"{folder.name}/{name}": content_hash(folder / name) for name in names}


def _table(record: RunRecord, used: Sequence[ClusterConfig]) -> str:
    """Write the closing table: a line for each iteration, from the files that its steps left."""
    names = ["iteration", "units of", "K", "PNMI", "phone purity", "masked accuracy", "unmasked accuracy"]
    names += ["audio seen", "units", "pretraining"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for number, units in enumerate(used, start=1):
        run = record.out / f"{number}-pretrain"
        checkpoint = last_checkpoint(run)
        assert checkpoint is not None
        state = read_state(checkpoint)
        last = json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        quality = units.out / "quality.json"
        phones = json.loads(quality.read_text(encoding="utf-8")) if quality.exists() else {}
        shares = [phones.get("pnmi"), phones.get("phone_purity")]
        shares += [last.get("masked_accuracy"), last.get("unmasked_accuracy")]
        source = f"layer {units.layer} of iteration {number - 1}" if units.features == "layer" else units.features
        cells = [str(number), source, str(units.clusters)]
        cells += ["-" if share is None else f"{share:.3f}" for share in shares]
        seconds = record.seconds(f"{number}-sweep") + record.seconds(units.out.name)
        cells += [f"{state.audio_seconds / 3600:.2f} h", f"{seconds:.0f} s", f"{state.wall_seconds:.0f} s"]
        lines.append("| " + " | ".join(cells) + " |")
    seed = f"\nSeed {used[0].seed}. Units: seconds of sweep and clustering. Accuracy: the last report of training."
    return "\n".join([*lines, seed]) + "\n"
