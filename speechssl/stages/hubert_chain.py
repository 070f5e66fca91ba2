"""Stage `hubert`: a whole HuBERT recipe: units -> pretraining -> layer sweep -> units of a layer -> pretraining ...

Section II-D of HuBERT (arXiv:2106.07447): each iteration predicts units of the previous model. The steps are the stages
`cluster`, `sweep` and `pretrain` with their own configurations; this stage chains them, and skips a step that was
finished from the same inputs. Under `out`: 1-units, 1-pretrain, 2-sweep, 2-units, 2-pretrain, ...; record.jsonl;
report.md.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from speechssl.atomic import write_atomically
from speechssl.errors import ConfigError, LabelError, StoppedError, TrainingError
from speechssl.hub.model_formats import read_saved
from speechssl.stages.cluster import ClusterConfig, cluster
from speechssl.stages.hubert_recipe import CHOOSABLE, HubertConfig, dev_units_folder, resolve
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.record import RunRecord, file_hashes, model_fingerprint, step_inputs
from speechssl.stages.sweep import SweepConfig, sweep
from speechssl.train.checkpoint import last_checkpoint, read_state
from speechssl.train.log_file import read_log_file
from speechssl.train.run_folder import claim_run_folder, locked

__all__ = ["HubertConfig", "choose_units", "hubert"]


def hubert(config: HubertConfig) -> Path:
    """Run the unfinished steps of all iterations, print the closing table and return the report.

    Raises:
        CheckpointError: the inputs of a finished step have changed, and `redo` is off.
        ConfigError: the stage was started by torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("hubert starts processes itself; run it without torchrun, with processes=N")
    with locked(config.out):
        return _hubert(config)


def _hubert(config: HubertConfig) -> Path:
    record = RunRecord(config.out, redo=config.redo)
    model = None if config.checkpoint is None else read_saved(config.checkpoint).fingerprint()
    used: list[ClusterConfig] = []
    for iteration in resolve(config):
        units, dev_units = iteration.units, iteration.dev_units
        if iteration.sweep is not None:
            _sweep(record, iteration.sweep, model)
            rows = json.loads((iteration.sweep.out / "sweep.json").read_text(encoding="utf-8"))["rows"]
            units = choose_units(rows, units, iteration.auto, tolerance=iteration.sweep.tolerance)
        _cluster(record, units, model, config.processes)
        if dev_units is not None:
            chosen = {key: getattr(units, key) for key in iteration.auto}
            _cluster(record, dataclasses.replace(dev_units, **chosen), model, config.processes)
        model = _pretrain(record, iteration.pretrain, model, config.processes)
        used.append(units)
    table = _table(record, used)
    report = config.out / "report.md"
    if not report.exists() or report.read_text(encoding="utf-8") != table:
        write_atomically(report, table)
    print(table)
    return report


def choose_units(
    rows: Sequence[Mapping[str, Any]], units: ClusterConfig, auto: Sequence[str], *, tolerance: float
) -> ClusterConfig:
    """Set layer or number of units by the sweep: the fewest units whose PNMI is close to the highest.

    Args:
        rows: rows of sweep.json.
        units: names the features, and the layer or number of units if that is fixed.
        auto: keys to set: `layer`, `clusters`, both or neither.
        tolerance: PNMI that may be lost for fewer units.

    Raises:
        LabelError: the sweep has no matching row.
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


def _sweep(record: RunRecord, config: SweepConfig, model: str | None) -> None:
    inputs = step_inputs(config, record.out, model=model)
    record.perform(config.out.name, inputs, lambda: sweep(config), lambda: file_hashes(config.out, ["sweep.json"]))


def _cluster(record: RunRecord, config: ClusterConfig, model: str | None, processes: int) -> None:
    names = ["labels.tsv", "kmeans.safetensors"] + (["quality.json"] if config.phones else [])
    inputs = step_inputs(config, record.out, model=model)  # labels do not depend on the number of processes
    run = partial(_launch, "cluster", config, processes) if processes > 1 else partial(cluster, config)
    record.perform(config.out.name, inputs, run, lambda: file_hashes(config.out, names))


def _pretrain(record: RunRecord, config: PretrainConfig, model: str | None, processes: int) -> str:
    """Run the pretraining of an iteration and return the fingerprint of its model."""
    inputs = step_inputs(config, record.out, model=model).also("processes", processes, default=1)  # share the batches
    run = partial(_launch, "pretrain", config, processes) if processes > 1 else partial(pretrain, config)
    (fingerprint,) = record.perform(config.out.name, inputs, run, lambda: model_fingerprint(config.out)).values()
    return fingerprint


def _launch(stage: Literal["cluster", "pretrain"], config: ClusterConfig | PretrainConfig, processes: int) -> None:
    """Run a stage in several processes on this machine by torchrun, from the configuration in its folder.

    Raises:
        TrainingError: a process failed.
    """
    with locked(config.out) as is_locked:
        claim_run_folder(config.out, config, may_replace=is_locked)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "speechssl", stage, str(config.out / "config.json")]
    status = subprocess.run(command, stdout=sys.__stderr__).returncode
    if status:
        raise TrainingError(
            f"{config.out}: {stage} in {processes} processes ended with status {status}; correct the errors above, and "
            "run the same command again: it resumes from here"
        )
    last = last_checkpoint(config.out)
    if stage == "pretrain" and (last is None or not read_state(last).is_finished):
        raise StoppedError(
            f"{config.out}: pretraining was stopped after a checkpoint; the same command resumes from there"
        )


def _table(record: RunRecord, used: Sequence[ClusterConfig]) -> str:
    """Write the closing table: a line per iteration, from the files of its steps."""
    names = ["iteration", "units of", "K", "PNMI", "phone purity", "masked accuracy", "unmasked accuracy"]
    names += ["masked, dev"]
    names += ["audio seen", "units", "pretraining"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for number, units in enumerate(used, start=1):
        run = record.out / f"{number}-pretrain"
        checkpoint = last_checkpoint(run)
        assert checkpoint is not None
        state = read_state(checkpoint)
        last: dict[str, float] = {}  # last reported value of each metric
        for row in read_log_file(run / "log.jsonl")[0]:
            last |= row
        quality = units.out / "quality.json"
        phones = json.loads(quality.read_text(encoding="utf-8")) if quality.exists() else {}
        shares = [phones.get("pnmi"), phones.get("phone_purity")]
        shares += [last.get(name) for name in ("masked_accuracy", "unmasked_accuracy", "dev_masked_accuracy")]
        source = f"layer {units.layer} of iteration {number - 1}" if units.features == "layer" else str(units.features)
        cells = [str(number), source, str(units.clusters)]
        cells += ["-" if share is None else f"{share:.3f}" for share in shares]
        steps = (f"{number}-sweep", f"{number}-units", dev_units_folder(record.out, number))
        seconds = sum(record.seconds(step) for step in steps)
        cells += [f"{state.audio_seconds / 3600:.2f} h", f"{seconds:.0f} s", f"{state.wall_seconds:.0f} s"]
        lines.append("| " + " | ".join(cells) + " |")
    seed = f"\nSeed {used[0].seed}. Units: seconds of sweep and clustering. Accuracy: as last reported."
    return "\n".join([*lines, seed]) + "\n"
