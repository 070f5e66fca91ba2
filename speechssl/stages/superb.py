"""Stage `superb`: all tasks for which there is data, on one frozen model, in one table (Yang et al. 2021).

Each task is a probe of its own below the run's folder, so that a run that was killed resumes, and one that is given
more folders or tasks adds them. Features are in one folder that the tasks share.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.atomic import write_atomically
from speechssl.config import to_dict
from speechssl.data.manifest import read_table
from speechssl.downstream.bootstrap import Indices, interval
from speechssl.hub.model_formats import read_saved
from speechssl.stages.feature_source import known_layers
from speechssl.stages.head_probe import train_probes
from speechssl.stages.superb_config import SuperbConfig
from speechssl.stages.superb_tasks import PlannedTask, planned_tasks, tasks_left_out
from speechssl.stages.superb_verification import verified
from speechssl.train.run_folder import locked

__all__ = ["run_superb", "superb_table"]

Row = dict[str, Any]

_BETTER = {"accuracy": "higher", "error_rate": "lower", "eer": "lower"}
_NAMES = {"accuracy": "accuracy", "error_rate": "PER", "eer": "EER"}


def run_superb(config: SuperbConfig) -> Path:
    """Train and score the heads of all tasks; return the table. Finished tasks are not repeated.

    Raises:
        CorpusError: a folder has another layout, or there is none.
        LabelError: the model lacks a layer.
        CheckpointError: the folder holds a run with other settings, or the model cannot be read.
        ManifestError: a corpus lacks classes, or speakers are in two folds.
        TrainingError: a loss is not finite.
    """
    known_layers(config.layers, read_saved(config.model), first=0)  # a wrong name is told before corpora are listed
    with locked(config.out):
        tasks = planned_tasks(config)
        rows: list[Row] = []
        for task in tasks:
            results = []
            for probe in task.probes:
                train_probes(probe)
                found = json.loads((probe.out / "scores.json").read_text(encoding="utf-8"))["results"]
                results.append(found if task.trials is None else verified(probe, task.trials, found))
            rows += [_row(config, task, number, list(folds)) for number, folds in enumerate(zip(*results, strict=True))]
        described = {"config": to_dict(config), "rows": rows, "left_out": tasks_left_out(config)}
        write_atomically(config.out / "superb.json", json.dumps(described, indent=1, ensure_ascii=False) + "\n")
        table = config.out / "superb.md"
        write_atomically(table, superb_table(described))
    return table


def superb_table(described: Mapping[str, Any]) -> str:
    """Return the scores as a Markdown table, what each task differs in from SUPERB's, and what is left out.

    Args:
        described: the content of `superb.json`.
    """
    rows: Sequence[Row] = described["rows"]
    first = {row["task"]: row for row in rows}
    names = [f"{name.upper()} {_NAMES[row['score']]}, %" for name, row in first.items()]
    lines = ["| features | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {row["task"]: row for row in rows if row["model"] == model}
        lines.append(f"| {model} | " + " | ".join(_cell(found[name]) for name in first) + " |")
    lines += ["", "| task | data | tested | intervals | steps | beside SUPERB's table |", "|---|---|---|---|---|---|"]
    for name, row in first.items():
        cells = (name.upper(), row["title"], row["tested"], row["interval"], row["steps"], row["beside_superb"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    seeds = len(described["config"]["seeds"])
    lines += [
        "",
        f"Mean of {seeds} {'seed' if seeds == 1 else 'seeds ± their standard deviation'}, and the 95 % bootstrap "
        "interval over utterances or speakers of the test set; that of EER is of the first seed. Lower is better for "
        "PER and EER. Tested: utterances.",
        "",
        "Left out: " + "; ".join(f"{name.upper()} ({why})" for name, why in described["left_out"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def _row(config: SuperbConfig, task: PlannedTask, number: int, folds: Sequence[Row]) -> Row:
    """Combine the results of a model in all folds of a task."""
    values = np.mean([[seed["test"][task.score] for seed in fold["seeds"]] for fold in folds], 0)  # (seeds,)
    low, high = _interval(task, number, folds)
    layers = folds[0]["layers"]
    train = task.probes[0].train
    return {
        "task": task.name,
        "title": task.title,
        "model": folds[0]["model"],
        "kind": folds[0]["kind"],
        "score": task.score,
        "better": _BETTER[task.score],
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "low": low,
        "high": high,
        "folds": [fold["test"][task.score]["mean"] for fold in folds],
        "layers": layers,
        "weights": np.mean([fold["weights"] for fold in folds], 0).tolist(),
        "tested": task.tested,
        "interval": folds[0].get("interval", task.probes[0].interval),
        "steps": train.steps,
        "beside_superb": _beside_superb(config, task),
    }


def _interval(task: PlannedTask, number: int, folds: Sequence[Row]) -> tuple[float, float]:
    """Return the interval of one probe, or of the mean over folds, whose speakers are drawn together."""
    if len(folds) == 1:
        return folds[0]["test"][task.score]["low"], folds[0]["test"][task.score]["high"]
    label = "sum" if len(folds[0]["layers"]) > 1 else "one"
    fold_of, speakers, right = list[int](), list[str](), list[float]()
    for fold, probe in enumerate(task.probes):
        tables = [
            read_table(path, ("id",))
            for path in sorted(probe.out.glob(f"heads/{number}-*-{label}/seed-*/predictions.tsv"))
        ]
        for key, cells in tables[0].items():
            fold_of.append(fold)
            speakers.append(cells["speaker"] or key)
            right.append(float(np.mean([table[key]["answer"] == table[key]["predicted"] for table in tables])))
    hits, places = np.array(right), np.array(fold_of)

    def mean_of_folds(drawn: Indices) -> float:
        counts = np.bincount(places[drawn], minlength=len(folds))
        sums = np.bincount(places[drawn], hits[drawn], minlength=len(folds))
        return float((sums[counts > 0] / counts[counts > 0]).mean())

    found = interval(mean_of_folds, speakers)
    return found.low, found.high


def _beside_superb(config: SuperbConfig, task: PlannedTask) -> str:
    """Say whether the figure may stand beside SUPERB's, and why not or with which difference."""
    if task.published is None:
        return f"no: {task.differs}"
    published = getattr(SuperbConfig, task.name)
    if task.tested != task.published:
        return f"no: {task.tested} of {task.published} test utterances"
    if (task.probes[0].train.steps, task.probes[0].train.lr) != (published.steps, published.lr):
        return "no: other steps or learning rate"
    if config.layers:
        return "no: chosen layers"
    return f"yes, with care: {task.differs}"


def _cell(row: Row) -> str:
    spread = f" ± {100 * row['std']:.1f}" if row["std"] else ""
    return f"{100 * row['mean']:.1f}{spread} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
