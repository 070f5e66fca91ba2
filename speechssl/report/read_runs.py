"""Run folders -> metrics by step, with hours of audio and wall time of each step."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.config import flatten, from_dict, to_dict
from speechssl.errors import CheckpointError, ConfigError
from speechssl.stages.finetune import FinetuneConfig
from speechssl.stages.pretrain import PretrainConfig
from speechssl.tasks.registry import find_task
from speechssl.text.policy import with_known_language
from speechssl.train.checkpoint import last_checkpoint, read_config, read_state, run_folder
from speechssl.train.log_file import read_log_file

__all__ = ["AXES", "Alarm", "Run", "differences", "read_runs", "shared_figures"]

AXES = {"step": "steps", "hours_seen": "hours of audio seen", "wall_h": "wall time in hours"}
_PROGRESS = ("hours_seen", "wall_s")  # metrics that serve as axes and are not plotted
_ABSENT = "–"


@dataclass(frozen=True)
class Alarm:
    """A line of `alarms.jsonl`."""

    step: int
    name: str
    message: str


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: name that distinguishes it in the comparison.
        folder: its run folder.
        method: method of the task: wav2vec2, hubert, best-rq, data2vec, ctc, or that of an installed package.
        config: values by dotted key; keys added later have their defaults.
        steps_planned: steps of the whole run.
        figures: metrics: name to value by step, steps ascending; NaN if not finite.
        alarms: alarms in the order they were raised.
        notes: faults of its files, for the user.
        machines: machines of the run, from its newest checkpoint: device, devices, cores, wall_seconds.
    """

    name: str
    folder: Path
    method: str
    config: dict[str, Any]
    steps_planned: int
    figures: dict[str, dict[int, float]]
    alarms: tuple[Alarm, ...]
    notes: tuple[str, ...]
    machines: tuple[dict[str, Any], ...] = ()

    @property
    def device_hours(self) -> float | None:
        """Return the hours summed over its devices, or None if no checkpoint records them."""
        if not self.machines:
            return None
        return sum(each["devices"] * each["wall_seconds"] for each in self.machines) / 3600

    @property
    def step(self) -> int:
        """Return the last step reported, 0 before the first."""
        return max((max(points) for points in self.figures.values()), default=0)

    def last(self, figure: str) -> float | None:
        """Return the last value of a metric, or None if the run has none."""
        points = self.figures.get(figure)
        return points[max(points)] if points else None

    def axis(self, name: str, steps: Sequence[int]) -> list[float] | None:
        """Return the positions of steps on an axis of `AXES`, interpolated between reports.

        None if the log does not record them.
        """
        if name == "step":
            return [float(step) for step in steps]
        points = self.figures.get("hours_seen" if name == "hours_seen" else "wall_s", {})
        known = {step: value for step, value in points.items() if math.isfinite(value)}
        if not known:
            return None
        unit = 3600.0 if name == "wall_h" else 1.0
        return [float(x) for x in np.interp(steps, [0, *known], [0.0, *(value / unit for value in known.values())])]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the runs in folders.

    Args:
        folders: folders with `config.json` and `log.jsonl`, and `alarms.jsonl` if there were alarms; a checkpoint
            selects its run.

    Raises:
        CheckpointError: a folder is missing, given twice, or holds no training log.
    """
    folders = [run_folder(folder) for folder in folders]
    places = [folder.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise CheckpointError(f"{folder}: is given twice; name each run once")
    return [_read(folder, name) for folder, name in zip(folders, _names(places), strict=True)]


def shared_figures(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that at least two runs have, or all of a single run, the loss first."""
    names = dict.fromkeys(name for run in runs for name in run.figures)
    enough = min(2, len(runs))
    shared = [name for name in names if name not in _PROGRESS and sum(name in run.figures for run in runs) >= enough]
    return sorted(shared, key=lambda name: name != "loss")


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the keys whose values differ among the runs that have them, with the value of each run as text.

    Keys that another method lacks are no difference; a section that one run has and another leaves out
    (`encoder: null`) is one.
    """
    keys = dict.fromkeys(key for run in runs for key in run.config if key != "out")
    values = {key: [_shown(run.config, key) for run in runs] for key in keys}
    return {key: found for key, found in values.items() if len({*found} - {_ABSENT}) > 1}


def _read(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; name folders of runs")
    if not (folder / "config.json").exists():
        below = sorted(
            str(path.parent.relative_to(folder)) for depth in ("*", "*/*") for path in folder.glob(f"{depth}/log.jsonl")
        )
        hint = f"; there are runs below it: {', '.join(below[:5])}" if below else "; name folders of runs"
        raise CheckpointError(f"{folder}: holds no run, because it has no config.json{hint}")
    method, config = _describe(folder, read_config(folder))
    rows, notes = _read_lines(folder / "log.jsonl")
    alarms: list[dict[str, Any]] = []
    if (folder / "alarms.jsonl").exists():
        alarms, more = _read_lines(folder / "alarms.jsonl")
        notes += more
    return Run(
        name=name,
        folder=folder,
        method=method,
        config=config,
        steps_planned=config["train.steps"],
        figures=_figures(rows),
        alarms=tuple(Alarm(row["step"], str(row.get("name")), str(row.get("message"))) for row in alarms),
        notes=tuple(notes),
        machines=_machines(folder),
    )


def _machines(folder: Path) -> tuple[dict[str, Any], ...]:
    checkpoint = last_checkpoint(folder)
    try:
        return () if checkpoint is None else tuple(read_state(checkpoint).machines)
    except CheckpointError:  # the log is enough for the table
        return ()


def _describe(folder: Path, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the method and the flat configuration of a run, in the form of the present version."""
    try:
        method = "ctc" if "ctc" in values else find_task(values["objective"]["kind"]).method
        int(values["train"]["steps"])
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: its config.json is of no training run; name folders of stage pretrain or finetune"
        ) from error
    values, _ = with_known_language(values)
    try:
        config_type = FinetuneConfig if method == "ctc" else PretrainConfig
        values = to_dict(from_dict(values, config_type, where=str(folder)))
    except ConfigError:  # from a version with other keys: compared as it is
        pass
    return method, flatten(values)


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the complete lines of a log, and notes on the others."""
    try:
        rows, broken = read_log_file(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); leave out the folder, or wait for its first report"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; this is no log of a run") from error
    if broken and not rows and len(broken) > 1:
        raise CheckpointError(f"{path}: none of its {len(broken)} lines is JSON; this is no log of a run")
    return rows, [f"{path}: line {number} is incomplete and skipped" for number in broken]


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Join lines by step. A decreasing step marks a resumed run; later values of the interrupted run are dropped."""
    figures: dict[str, dict[int, float]] = {}
    last = 0
    for row in rows:
        step = row["step"]
        if step < last:
            figures = {name: {s: v for s, v in points.items() if s < step} for name, points in figures.items()}
        last = step
        for name, value in row.items():
            if name != "step" and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
                figures.setdefault(name, {})[step] = math.nan if value is None else float(value)
    figures = {name: points for name, points in figures.items() if points}
    if "wall_s" not in figures and {"hours_seen", "audio_s_per_s"} <= {*figures}:  # older logs without it
        rates = figures["audio_s_per_s"]
        hours = figures["hours_seen"]
        figures["wall_s"] = {step: 3600 * hours[step] / rates[step] for step in hours if rates.get(step)}
    return figures


def _names(places: Sequence[Path]) -> list[str]:
    """Name folders by the range of path parts in which they differ."""
    if len(places) == 1:
        return ["/".join(places[0].parts[-2:]).lstrip("/")]
    parts = [place.parts for place in places]
    start = _common(parts)
    end = _common([path[start:][::-1] for path in parts])
    names = ["/".join(path[start : len(path) - end]) or path[-1] for path in parts]
    return names if len({*names}) == len(names) else [*map(str, places)]


def _common(paths: Sequence[Sequence[str]]) -> int:
    """Count the leading parts that all paths share."""
    return sum(1 for _ in takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False)))


def _shown(config: Mapping[str, Any], key: str) -> str:
    if key in config:
        return config[key] if isinstance(config[key], str) else json.dumps(config[key])
    return "given" if any(other.startswith(f"{key}.") for other in config) else _ABSENT
