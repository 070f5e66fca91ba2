"""The health monitor of a run: compares its metrics with the bands of a healthy run and raises alarms.

The task describes a healthy run (`tasks.health`); `Monitor` compares each report with it. The monitor uses neither
tensors nor random numbers, so a resumed run raises the same alarms.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.tasks.health import Band, Health

__all__ = ["Alarm", "HealthConfig", "Monitor"]


@configuration
class HealthConfig:
    """Health monitoring of a run."""

    enabled: bool = True
    stop: bool = False  # stop the run, after a checkpoint, at an alarm of a report; alarms of dev scores only warn
    patience: int = 2  # reports in a row outside of a band that raise an alarm
    grace_steps: int | None = None  # steps before a run must have learnt anything; None: 8 % of all, at least 300
    probe_every: int = 0  # steps between probes; 0 for none
    probe_minutes: float = 5.0  # minutes of audio for a probe, the same each time

    def __post_init__(self) -> None:
        if self.patience < 1 or self.probe_every < 0 or not 0 < self.probe_minutes <= 60:
            raise ConfigError(
                "health.patience must be 1 or more, health.probe_every not negative, and health.probe_minutes above 0 "
                f"and at most 60; found {self.patience}, {self.probe_every} and {self.probe_minutes}"
            )


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A warning that a run is not healthy."""

    name: str  # name of the band
    step: int
    message: str  # value, expected range, likely cause, what to change


class Monitor:
    """Compares reports with the bands; raises one alarm each time a sign stays outside of its band.

    `state` holds everything it remembers, as plain values for the checkpoint; pass it to the monitor of a resumed run.
    """

    def __init__(self, config: HealthConfig, health: Health | None, state: Mapping[str, Any] | None = None) -> None:
        """Monitor a run from its start, or from the `state` of an interrupted run; without `health`, do nothing."""
        self.config, self.health = config, health
        start: dict[str, Any] = {"outside": {}, "first": health.guessing_loss if health else None, "best": None}
        self.state = copy.deepcopy(start | dict(state or {}))

    def grace(self, steps: int) -> int:
        """Return the number of steps in which a run of `steps` need not have learnt anything yet."""
        if self.config.grace_steps is not None:
            return self.config.grace_steps
        return (self.health or Health(bands=(), loss="")).grace(steps)

    def check(self, step: int, steps: int, values: Mapping[str, float]) -> list[Alarm]:
        """Compare a report with the bands.

        Args:
            step: number of steps done.
            steps: number of steps of the whole run.
            values: metrics averaged since the last report; missing and non-finite values are ignored.

        Returns:
            The new alarms. A sign that returns to its band and leaves it again raises a new alarm.
        """
        alarms: list[Alarm] = []
        if not self.config.enabled or self.health is None:
            return alarms
        lost = self._lost(values, self.health)
        signs = {**values, **self.health.signs(values), **({} if lost is None else {"lost_share": lost})}
        outside: dict[str, int] = self.state["outside"]
        for band in self.health.bands:
            value = signs.get(band.sign, math.nan)
            if not math.isfinite(value) or not (band.is_early or step > self._waits(band, steps)):
                continue
            if outside.get(band.said_by, 0) >= self.config.patience:
                outside[band.name] = 0
                continue
            outside[band.name] = 0 if band.holds(value) else outside.get(band.name, 0) + 1
            if outside[band.name] == self.config.patience:
                alarms.append(Alarm(name=band.name, step=step, message=_message(band, value)))
        return alarms

    def _waits(self, band: Band, steps: int) -> float:
        """Return the step after which a band that is not early is checked."""
        return self.grace(steps) if self.config.grace_steps is not None else max(self.grace(steps), band.after * steps)

    def _lost(self, values: Mapping[str, float], health: Health) -> float | None:
        """Return the lost share of the loss's improvement; None until it has improved by 5 %."""
        main = health.loss
        losses = [value for name, value in values.items() if name == main or name.startswith(f"{main}_")]
        if not losses or not math.isfinite(sum(losses)):
            return None
        loss = sum(losses)
        first = self.state["first"] = self.state["first"] if self.state["first"] is not None else loss
        best = self.state["best"] = loss if self.state["best"] is None else min(loss, self.state["best"])
        gained = first - best
        return (loss - best) / gained if gained > 0.05 * abs(first) else None


def _message(band: Band, value: float) -> str:
    return (
        f"{band.shown} is {value:.3g}, expected {band.expected()} (seen: {band.seen}). "
        f"Likely: {band.likely}. To change: {band.change}."
    )
