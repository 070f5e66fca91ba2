"""Pictures of `superb`: bars of the scores by task and model, and the weights of layers by task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechssl.errors import CheckpointError

__all__ = ["plot_layer_weights", "plot_scores"]

_NAMES = {"accuracy": "accuracy", "error_rate": "PER ↓", "eer": "EER ↓"}


def plot_scores(scores: Path, out: Path) -> None:
    """Write a PNG with a group of bars for each task, one a model, with intervals.

    Args:
        scores: `superb.json`.
        out: the PNG.

    Raises:
        CheckpointError: the file is missing, or not of `superb`.
    """
    rows = _rows(scores)
    tasks, models = list(dict.fromkeys(row["task"] for row in rows)), list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = _axes(width=2 + 1.4 * len(tasks), height=4)
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        found = {row["task"]: row for row in rows if row["model"] == model}
        there = [number for number, task in enumerate(tasks) if task in found]
        means = np.array([100 * found[tasks[number]]["mean"] for number in there])
        ends = np.array([[100 * found[tasks[number]][end] for number in there] for end in ("low", "high")])
        spread = np.abs(np.nan_to_num(ends - means))
        at = np.array(there) + (place - (len(models) - 1) / 2) * width
        bars = axes.bar(at, means, width, yerr=spread, capsize=2, label=model)
        axes.bar_label(bars, fmt="%.1f", fontsize=6, label_type="center")
    measure = {row["task"]: _NAMES[row["score"]] for row in rows}
    axes.set_xticks(range(len(tasks)), [f"{task.upper()}\n{measure[task]}" for task in tasks])
    axes.set_ylabel("%")
    axes.set_ylim(0, max(100.0, *(105 * row["mean"] for row in rows)))
    figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    _save(figure, out)


def plot_layer_weights(scores: Path, out: Path) -> bool:
    """Write a PNG of the learned weight of each layer, a row for each task and model.

    Args:
        scores: `superb.json`.
        out: the PNG.

    Returns:
        Whether there are sums of layers to show; without any, nothing is written.

    Raises:
        CheckpointError: the file is missing, or not of `superb`.
    """
    rows = [row for row in _rows(scores) if len(row["layers"]) > 1]
    if not rows:
        return False
    layers = sorted({layer for row in rows for layer in row["layers"]})
    shares = np.full((len(rows), len(layers)), np.nan)
    for number, row in enumerate(rows):
        shares[number, [layers.index(layer) for layer in row["layers"]]] = 100 * np.array(row["weights"])
    figure, axes = _axes(width=3 + 0.5 * len(layers), height=1.2 + 0.4 * len(rows))
    image = axes.imshow(shares, cmap="viridis", vmin=0, aspect="auto")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_xlabel("layer; 0: input of the first")
    is_one = len({row["model"] for row in rows}) == 1
    axes.set_yticks(
        range(len(rows)), [row["task"].upper() if is_one else f"{row['task'].upper()} {row['model']}" for row in rows]
    )
    figure.colorbar(image, ax=axes, label="weight, %")
    _save(figure, out)
    return True


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        for row in rows:
            row["task"], row["model"], row["mean"], row["layers"], row["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: expected the scores of superb ({error!r}); run `speechssl superb`") from error
    return rows


def _axes(*, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Figure, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)
