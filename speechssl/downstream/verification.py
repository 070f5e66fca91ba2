"""Evaluation of speaker verification: EER and minDCF of scored trials, with intervals over trials and over speakers.

Trials share utterances and speakers, so that an interval over trials holds for the same speakers only. For other
speakers the speakers are drawn with replacement, and each draw counts as a person of its own: a speaker who is drawn
twice has their target trials twice, a non-target trial counts once for each pair of draws of its two speakers (the
product of their counts), and pairs of two draws of one speaker are not trials. That is the bootstrap of arrays whose
rows and columns are the same units (Davezies, D'Haultfoeuille and Guyonvarch 2021, "Empirical process results for
exchangeable arrays"; Owen 2007, "The pigeonhole bootstrap", where they differ), with a speaker's target trials as a
block, as in the subsets bootstrap of biometrics (Bolle, Ratha and Pankanti 2004, "Error analysis of pattern
recognition systems").
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.asr.scoring.intervals import Interval
from speechssl.config import configuration
from speechssl.downstream.bootstrap import interval_of
from speechssl.downstream.error_rates import DetCurve, SortedTrials, equal_error_rate, min_dcf
from speechssl.errors import ConfigError

__all__ = [
    "DetectionConfig",
    "DetectionScores",
    "Measure",
    "as_json",
    "evaluate_trials",
    "score_lines",
    "score_row",
    "trial_lines",
]

_FEW_SPEAKERS = 10  # with fewer a percentile interval is too narrow to be trusted
_LEAST_SPEAKERS = 3  # with two a sample holds the same trials as all, or no non-target trial
_AT_ONCE = 1000  # operating points of the curve that is written, at most

Weights = NDArray[np.int64]  # (trials,)


@configuration
class DetectionConfig:
    """Costs, and intervals."""

    p_targets: tuple[float, ...] = (0.01, 0.05)  # prior probabilities of a target trial, a minDCF for each
    c_miss: float = 1.0  # cost of a rejected target trial
    c_false_alarm: float = 1.0  # cost of an accepted non-target trial
    samples: int = 1000  # bootstrap samples for each interval; 0: no intervals
    level: float = 0.95  # confidence level
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        if not all(0 < p < 1 for p in self.p_targets):
            raise ConfigError(f"p_targets must lie between 0 and 1, found {list(self.p_targets)}")
        if min(self.c_miss, self.c_false_alarm) <= 0:
            raise ConfigError(f"costs must be more than 0, found {self.c_miss} and {self.c_false_alarm}")
        if self.samples < 0 or not 0 < self.level < 1:
            raise ConfigError(f"expected samples from 0 up and 0 < level < 1, found {self.samples} and {self.level}")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A score with its intervals."""

    name: str  # "EER", "minDCF(0.01)"
    value: float  # a share of 1 for EER
    over_trials: Interval | None  # None if no samples were drawn
    over_speakers: Interval | None  # None if the speakers are not known, or are fewer than three


@dataclass(frozen=True, kw_only=True)
class DetectionScores:
    """Scores of all trials."""

    config: DetectionConfig
    measures: tuple[Measure, ...]
    targets: int
    nontargets: int
    speakers: int | None  # speakers in the trials; None if not known
    curve: DetCurve


def evaluate_trials(
    scores: ArrayLike,
    is_target: ArrayLike,
    config: DetectionConfig,
    *,
    speakers: tuple[Sequence[str], Sequence[str]] | None = None,
) -> DetectionScores:
    """Compute EER and minDCF of trials.

    Args:
        scores: (trials,) the larger, the more the two sides are alike.
        is_target: (trials,) bool, True where both sides are of one speaker.
        config: costs, and intervals.
        speakers: speaker of the first and of the second side of each trial; None if not known.

    Raises:
        ManifestError: a score is NaN, or there is no target trial, or no other.
    """
    trials, labels = SortedTrials(scores, is_target), np.asarray(is_target, bool)
    curve = trials.curve()
    assert curve is not None, "SortedTrials wants trials of both kinds"
    drawn = {"over_trials": _draw(trials, partial(_of_trials, len(labels)), config)}
    count = None
    if speakers is not None:
        names = {name: index for index, name in enumerate(dict.fromkeys((*speakers[0], *speakers[1])))}
        first, second = (np.array([names[name] for name in side]) for side in speakers)
        count = len(names)
        if count >= _LEAST_SPEAKERS:
            drawn["over_speakers"] = _draw(trials, partial(_of_speakers, first, second, count), config)
    measures = []
    for index, (name, value) in enumerate(zip(_names(config), _measured(curve, config), strict=True)):
        intervals = {unit: interval_of(sample[:, index].tolist(), level=config.level) for unit, sample in drawn.items()}
        none = config.samples == 0
        measures.append(
            Measure(
                name=name,
                value=value,
                over_trials=None if none else intervals["over_trials"],
                over_speakers=None if none else intervals.get("over_speakers"),
            )
        )
    return DetectionScores(
        config=config,
        measures=tuple(measures),
        targets=int(labels.sum()),
        nontargets=int((~labels).sum()),
        speakers=count,
        curve=curve,
    )


def score_lines(found: DetectionScores) -> list[str]:
    """Describe scores, one line each; intervals over speakers where these are known and three or more, else trials."""
    return [*(f"{measure.name} {_shown(measure)}" for measure in found.measures), *trial_lines(found)]


def score_row(found: DetectionScores) -> str:
    """Describe scores in one line."""
    return "  ".join(f"{measure.name} {_shown(measure)}" for measure in found.measures)


def trial_lines(found: DetectionScores) -> list[str]:
    """Describe the trials and the intervals."""
    config, speakers = found.config, found.speakers
    line = f"{found.targets + found.nontargets} trials, {found.targets} of them targets"
    line += "" if speakers is None else f", {speakers} speakers"
    unit = "trial" if found.measures[0].over_speakers is None else "speaker"
    if config.samples:
        line += f"; intervals of {100 * config.level:g} %: {unit}s drawn {config.samples} times, seed {config.seed}"
    if speakers is None or speakers >= _FEW_SPEAKERS or not config.samples:
        return [line]
    if unit == "trial":
        return [line, f"only {speakers} speakers: the intervals are for other trials of these, not for other speakers"]
    return [line, f"only {speakers} speakers: the intervals are too narrow to be trusted"]


def as_json(found: DetectionScores) -> dict[str, Any]:
    """Return the scores, and at most a thousand operating points, evenly spaced among all."""
    points = len(found.curve.miss)
    shown = np.unique(np.linspace(0, points - 1, min(points, _AT_ONCE)).round().astype(int))
    return {
        "measures": {
            measure.name: {key: value for key, value in dataclasses.asdict(measure).items() if key != "name"}
            for measure in found.measures
        },
        "targets": found.targets,
        "nontargets": found.nontargets,
        "speakers": found.speakers,
        "config": dataclasses.asdict(found.config),
        "det": {
            "miss": found.curve.miss[shown].tolist(),
            "false_alarm": found.curve.false_alarm[shown].tolist(),
        },
    }


def _shown(measure: Measure) -> str:
    """Return a score, with its interval over speakers or, where these are not known, over trials."""
    interval = measure.over_speakers or measure.over_trials
    factor, digits, unit = (100, 2, " %") if measure.name == "EER" else (1, 4, "")
    shown = f"{factor * measure.value:.{digits}f}{unit}"
    if interval is None:
        return shown
    return f"{shown} [{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"


def _names(config: DetectionConfig) -> list[str]:
    return ["EER", *(f"minDCF({p_target:g})" for p_target in config.p_targets)]


def _measured(curve: DetCurve, config: DetectionConfig) -> list[float]:
    costs = {"c_miss": config.c_miss, "c_false_alarm": config.c_false_alarm}
    return [equal_error_rate(curve), *(min_dcf(curve, p_target, **costs) for p_target in config.p_targets)]


def _of_trials(number: int, generator: np.random.Generator) -> Weights:
    """Return how often each trial is drawn."""
    return np.bincount(generator.integers(number, size=number), minlength=number)


def _of_speakers(first: Weights, second: Weights, number: int, generator: np.random.Generator) -> Weights:
    """Return how often each trial counts if speakers are drawn: see the top of the module."""
    counts = _of_trials(number, generator)
    return np.where(first == second, counts[first], counts[first] * counts[second])


def _draw(
    trials: SortedTrials, weights: Callable[[np.random.Generator], Weights], config: DetectionConfig
) -> NDArray[np.float64]:
    """Return (samples, measures); NaN where a sample has no target trial, or no other."""
    generator = np.random.default_rng(config.seed)
    found = np.full((config.samples, 1 + len(config.p_targets)), np.nan)
    for row in found:
        curve = trials.curve(weights(generator))
        if curve is not None:
            row[:] = _measured(curve, config)
    return found
