"""HTML page of runs that works offline: the template `runs_page.html`, filled with the metrics.

The script of the page is our own, because any plotting library would be larger than the rest of the page. It sorts the
table, draws one metric over one axis and shows the values under the pointer.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from speechssl.atomic import write_atomically
from speechssl.errors import CheckpointError
from speechssl.report.read_runs import AXES, Run, differences, shared_figures
from speechssl.report.runs_table import Cell, summarize

__all__ = ["COLOURS", "plot_runs", "thinned", "write_page"]

COLOURS = tuple(TABLEAU_COLORS.values())  # #rrggbb colours of the runs, in order
_POINTS = 1000  # approximate points of a curve: more than the width of a screen
_STYLES = ("-", "--", ":", "-.")  # line styles, one for each cycle of the colours


def plot_runs(runs: Sequence[Run], out: Path) -> None:
    """Write a PNG of every metric that two or more runs share, except constant ones.

    Triangles on the lower edge mark alarms.

    Raises:
        CheckpointError: the runs share no metric.
    """
    names = [name for name in shared_figures(runs) if _changes(runs, name)]
    if not names:
        raise CheckpointError("the runs share no metric yet, there is nothing to draw; wait for their reports")
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
    """Choose which points of a curve to draw: the lowest, the highest and a non-finite one of each stretch.

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


_PLACE = "__DATA__"


def write_page(runs: Sequence[Run], out: Path) -> None:
    """Write the page. Curves of more than 1000 points keep the extremes of their stretches."""
    template = Path(__file__).with_name("runs_page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(runs), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")  # no </script>
    write_atomically(out, template.replace(_PLACE, data))


def _data(runs: Sequence[Run]) -> dict[str, Any]:
    columns, rows = summarize(runs)
    settings = differences(runs)
    numeric = [key for key, values in settings.items() if all(_is_number(value) for value in values)]
    shared = shared_figures(runs)
    others = dict.fromkeys(name for run in runs for name in run.figures if name not in shared)
    return {
        "axes": AXES,
        "columns": [*columns, *numeric],  # numeric settings are sorted as numbers
        "figures": {"shared": shared, "of one run, or progress": [*others]},
        "settings": settings,
        "notes": [note for run in runs for note in run.notes],
        "runs": [
            {
                "name": run.name,
                "colour": COLOURS[number % len(COLOURS)],
                "dash": ["", "6 4", "2 3", "8 3 2 3"][number // len(COLOURS) % 4],
                "cells": [
                    [cell.text, cell.value]
                    for cell in (*row, *(Cell(settings[key][number], float(settings[key][number])) for key in numeric))
                ],
                **_curves(run),
            }
            for number, (run, row) in enumerate(zip(runs, rows, strict=True))
        ],
    }


def _curves(run: Run) -> dict[str, Any]:
    """Return the axes over all steps of a run, its metrics as [indices into them, values], and its alarms."""
    steps = sorted({step for points in run.figures.values() for step in points} | {a.step for a in run.alarms})
    place = {step: number for number, step in enumerate(steps)}
    curves = {}
    for name, points in run.figures.items():
        kept = thinned([*points.values()])
        items = [*points.items()]
        curves[name] = [[place[items[i][0]] for i in kept], [_brief(items[i][1]) for i in kept]]
    axes = {name: run.axis(name, steps) for name in AXES}
    return {
        "axes": {name: None if x is None else [_brief(value) for value in x] for name, x in axes.items()},
        "curves": curves,
        "alarms": [[place[alarm.step], alarm.step, alarm.name, alarm.message] for alarm in run.alarms],
    }


def _brief(value: float) -> float | None:
    """Round to seven digits; None (null) for values that JSON cannot hold."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
