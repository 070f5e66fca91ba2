"""Runs as one PNG: a row for each figure, over steps, hours of audio seen and wall time."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from speechssl.errors import CheckpointError
from speechssl.runs.read import AXES, Run, shared_figures

__all__ = ["COLOURS", "plot_runs", "thinned"]

COLOURS = tuple(TABLEAU_COLORS.values())  # #rrggbb of the first runs, in their order
_POINTS = 1000  # of a curve, about: more than a screen is wide
_STYLES = ("-", "--", ":", "-.")  # of the next runs, when all colours are taken


def plot_runs(runs: Sequence[Run], out: Path) -> None:
    """Write a PNG of every figure that two or more runs share, but for those that never change.

    Triangles on the lower edge are alarms.

    Raises:
        CheckpointError: the runs share no figure.
    """
    names = [name for name in shared_figures(runs) if _changes(runs, name)]
    if not names:
        raise CheckpointError("the runs share no figure yet, there is nothing to draw; wait for their reports")
    figure = Figure(figsize=(15, 0.6 + 0.2 * len(runs) + 2.4 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(names), len(AXES), sharex="col", sharey="row", squeeze=False)
    handles = []
    for number, run in enumerate(runs):
        colour, style = COLOURS[number % len(COLOURS)], _STYLES[number // len(COLOURS) % len(_STYLES)]
        for panels, name in zip(grid, names, strict=True):
            points = [*run.figures.get(name, {}).items()]
            points = [points[i] for i in thinned([value for _, value in points])]
            for panel, axis in zip(panels, AXES, strict=True):
                x = run.axis(axis, [step for step, _ in points])
                if points and x is not None:
                    marker = "o" if len(points) < 40 else ""
                    panel.plot(x, [value for _, value in points], color=colour, ls=style, lw=1.2, marker=marker, ms=2.5)
                alarms = run.axis(axis, [alarm.step for alarm in run.alarms]) or []
                panel.plot(alarms, [0.03] * len(alarms), "^", color=colour, transform=panel.get_xaxis_transform())
        handles.append(Line2D([], [], color=colour, ls=style, label=run.name))
    figure.legend(handles=handles, loc="outside upper left", fontsize=8)
    for panels, name in zip(grid, names, strict=True):
        panels[0].set_ylabel(name)
    for panel, label in zip(grid[-1], AXES.values(), strict=True):
        panel.set_xlabel(label)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=80)


def thinned(values: Sequence[float], limit: int = _POINTS) -> list[int]:
    """Choose which of many points to draw: of each stretch the lowest, the highest and one that is not finite.

    Examples:
        >>> thinned([0.0, 1.0, 2.0])
        [0, 1, 2]
        >>> thinned([0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0, -9.0, 0.0, 0.0], limit=4)
        [0, 2, 5, 7, 9]
    """
    if len(values) <= limit:
        return [*range(len(values))]
    width = math.ceil(2 * len(values) / limit)
    stretches = np.full((math.ceil(len(values) / width), width), math.nan)
    stretches.flat[: len(values)] = values
    starts, is_nan = width * np.arange(len(stretches)), np.isnan(stretches)
    lowest = starts + np.where(is_nan, math.inf, stretches).argmin(1)
    highest = starts + np.where(is_nan, -math.inf, stretches).argmax(1)
    gaps = (starts + is_nan.argmax(1))[is_nan.any(1)]
    kept = np.unique(np.concatenate([lowest, highest, gaps, [0, len(values) - 1]]))
    return [int(i) for i in kept if i < len(values)]


def _changes(runs: Sequence[Run], name: str) -> bool:
    return len({value for run in runs for value in run.figures.get(name, {}).values()}) > 1
