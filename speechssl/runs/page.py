"""Runs as one HTML page that needs nothing else: `page.html` beside this file, with the figures put into it.

The page's script is ours, because the libraries that draw such curves would each be larger than the rest of the page:
it sorts the table, draws one figure over one axis and shows the values under the pointer.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.atomic import write_atomically
from speechssl.runs.draw import COLOURS, thinned
from speechssl.runs.read import AXES, Run, differences, shared_figures
from speechssl.runs.table import Cell, summarize

__all__ = ["write_page"]

_PLACE = "__DATA__"


def write_page(runs: Sequence[Run], out: Path) -> None:
    """Write the page. Curves of more than 1000 points keep the extremes of their stretches."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(runs), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")  # ends no <script>
    write_atomically(out, template.replace(_PLACE, data))


def _data(runs: Sequence[Run]) -> dict[str, Any]:
    columns, rows = summarize(runs)
    settings = differences(runs)
    numeric = [key for key, values in settings.items() if all(_is_number(value) for value in values)]
    shared = shared_figures(runs)
    others = dict.fromkeys(name for run in runs for name in run.figures if name not in shared)
    return {
        "axes": AXES,
        "columns": [*columns, *numeric],  # settings that are numbers can be sorted by, too
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
    """Return the axes over all steps of a run, its figures as [places on them, values], and its alarms."""
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
    """Round to seven digits; null for what JSON does not have."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
