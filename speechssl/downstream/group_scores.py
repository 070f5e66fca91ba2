"""Scores by group of utterances, and the gap between groups: whom a model serves worst, and whether that is chance.

The score of the worst group is the measure of Sagawa et al. 2020, "Distributionally robust neural networks"; the gap
between two groups that of Koenecke et al. 2020, "Racial disparities in automated speech recognition"; ML-SUPERB 2.0
(Shi et al. 2024) reports the worst language and the standard deviation over languages. The gap of the worst to the best
of many groups is above zero even where all are alike, the more so the smaller they are: it is reported beside the gap
expected of equal groups, with the probability that these differ as much.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.scoring.intervals import Interval
from speechssl.downstream.bootstrap import Indices, interval_of

__all__ = [
    "FEWEST",
    "UNKNOWN",
    "Gap",
    "GroupScore",
    "Grouped",
    "Ratio",
    "Score",
    "drawn_scores",
    "gap_line",
    "score_groups",
]

FEWEST = 10  # items; a smaller group is reported, and neither worst nor best
UNKNOWN = "unknown"  # group of items without one; reported, and neither worst nor best

Scores = NDArray[np.float64]
_AT_ONCE = 2**22  # most drawn counts in memory at a time
_PERMUTATIONS = 1000  # at most; each orders all blocks anew


@dataclass(frozen=True)
class Ratio:
    """A score that is a ratio of sums over items: an error rate, an accuracy, a mean. Called as any other score."""

    counts: NDArray[np.float64]  # (items,) what is counted: errors, hits, values
    totals: NDArray[np.float64]  # (items,) of how many: reference tokens, or 1

    def __call__(self, indices: Indices) -> float:
        """Return the ratio over the items with these indices; NaN where nothing is counted."""
        total = self.totals[indices].sum()
        return float(self.counts[indices].sum() / total) if total else math.nan


Score = Callable[[Indices], float] | Ratio


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """Score of a group."""

    name: str
    score: float
    interval: Interval  # NaN where the group has a single block, from which nothing can be drawn
    items: int
    blocks: int
    is_ranked: bool  # False: too few items, or no known group


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Score of the worst group minus that of the best, as the score counts: an error rate's gap is above 0."""

    worst: str
    best: str
    gap: float
    interval: Interval  # of the difference between these two groups
    behind: float  # score of the worst group minus that of all other ranked items
    behind_interval: Interval
    spread: float  # standard deviation of the scores of the ranked groups
    expected: float  # mean gap of the worst to the best if groups are assigned to the blocks at random
    p_value: float  # probability of as large a gap then


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """Scores of all groups of a grouping, and their gap."""

    groups: Sequence[GroupScore]  # in the order of their names
    gap: Gap | None  # None if fewer than two groups are ranked
    notes: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values; null for what is not defined."""
        values: dict[str, Any] = _without_nan(dataclasses.asdict(self))
        return values


def score_groups(
    score: Score,
    groups: Sequence[str],
    blocks: Sequence[str],
    *,
    higher_is_better: bool,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    fewest: int = FEWEST,
    order: Callable[[str], object] = str,
) -> Grouped:
    """Score each group, and compare the worst with the best.

    Bootstrap samples are drawn within each group (stratified), blocks with replacement, so that every sample has all
    groups. The permutation test exchanges the groups of whole blocks: a block that lies in two groups counts as two.

    Args:
        score: computes the score of the items with these indices; NaN where it is not defined. A `Ratio` is fast.
        groups: group of each item; `unknown` for those without one.
        blocks: block of each item, such as its speaker; a name of its own for each draws items one by one.
        higher_is_better: whether the worst group is that of the lowest score.
        samples: number of bootstrap samples, and of permutations, of which a thousand are enough.
        level: confidence level.
        seed: seed of the draws.
        fewest: groups of fewer items are not ranked.
        order: sort key of the names.

    Raises:
        ValueError: groups and blocks differ in length.
    """
    cells: dict[str, dict[str, list[int]]] = {}  # items by group and block
    for index, (group, block) in enumerate(zip(groups, blocks, strict=True)):
        cells.setdefault(group, {}).setdefault(block, []).append(index)
    names = sorted(cells, key=order)  # type: ignore[arg-type] # any type that compares
    members = {name: [np.array(items, np.int64) for items in cells[name].values()] for name in names}
    whole = {name: np.concatenate(members[name]) for name in names}
    scores = {name: score(whole[name]) for name in names}
    ranked = [name for name in names if len(whole[name]) >= fewest and name != UNKNOWN and not math.isnan(scores[name])]
    drawn = {
        name: _drawn(score, [members[name]], samples, np.random.default_rng([seed, 2, place]))
        for place, name in enumerate(names)
    }
    found = [
        GroupScore(
            name=name,
            score=scores[name],
            interval=interval_of(drawn[name] if len(members[name]) > 1 else [], level=level),
            items=len(whole[name]),
            blocks=len(members[name]),
            is_ranked=name in ranked,
        )
        for name in names
    ]
    gap = None
    if len(ranked) > 1:
        worst_first = sorted(ranked, key=scores.__getitem__, reverse=not higher_is_better)
        gap = _gap(score, {name: members[name] for name in worst_first}, drawn, samples, level, seed)
    return Grouped(groups=found, gap=gap, notes=_notes(found, fewest))


def _gap(
    score: Score,
    members: Mapping[str, Sequence[Indices]],
    drawn: Mapping[str, Scores],
    samples: int,
    level: float,
    seed: int,
) -> Gap:
    """Compare groups, given from the worst to the best by their blocks, with the scores of their bootstrap samples."""
    (worst, *others), best = members, [*members][-1]
    scores = {name: score(np.concatenate(blocks)) for name, blocks in members.items()}
    rest = [members[name] for name in others]
    drawn_rest = _drawn(score, rest, samples, np.random.default_rng([seed, 3]))
    gap = scores[worst] - scores[best]
    chance = _gaps_of_equal_groups(score, [*members.values()], samples, np.random.default_rng([seed, 4]))
    has_blocks = {name: len(blocks) > 1 for name, blocks in members.items()}
    is_tested = any(has_blocks.values()) and len(chance) > 0  # groups of a block each only change their names
    return Gap(
        worst=worst,
        best=best,
        gap=gap,
        interval=interval_of(drawn[worst] - drawn[best] if has_blocks[worst] and has_blocks[best] else [], level=level),
        behind=scores[worst] - score(np.concatenate([block for each in rest for block in each])),
        behind_interval=interval_of(drawn[worst] - drawn_rest if has_blocks[worst] else [], level=level),
        spread=float(np.std([*scores.values()])),
        expected=math.copysign(float(chance.mean()), gap) if is_tested else math.nan,
        p_value=(int(np.sum(chance >= abs(gap) - 1e-12)) + 1) / (len(chance) + 1) if is_tested else math.nan,
    )


def drawn_scores(score: Score, blocks: Sequence[str], *, samples: int, seed: int) -> Scores:
    """Return the scores of bootstrap samples of all items; scores of the same items and seed have the same samples.

    Args:
        score: as in `score_groups`.
        blocks: block of each item.
        samples: number of samples.
        seed: seed of the draws.
    """
    members: dict[str, list[int]] = {}
    for index, name in enumerate(blocks):
        members.setdefault(name, []).append(index)
    every = [np.array(indices, np.int64) for indices in members.values()]
    return _drawn(score, [every], samples, np.random.default_rng([seed, 5]))


def gap_line(name: str, gap: Gap) -> str:
    """Describe a gap of scores that are shares, in points of a percent.

    Args:
        name: name of the score, such as CER.
        gap: the gap.
    """

    def within(interval: Interval) -> str:
        if math.isnan(interval.low):
            return "[no interval]"
        return f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"

    chance = "equal groups are not tested, as each is one block"
    if not math.isnan(gap.p_value):
        chance = f"between equal groups {100 * gap.expected:+.2f}, p = {gap.p_value:.4f}"
    return (
        f"{name}: worst {gap.worst}, best {gap.best}, gap {100 * gap.gap:+.2f} points {within(gap.interval)}; "
        f"{chance}; worst to all others {100 * gap.behind:+.2f} {within(gap.behind_interval)}; standard deviation "
        f"{100 * gap.spread:.2f}"
    )


def _notes(groups: Sequence[GroupScore], fewest: int) -> list[str]:
    """Say which groups are not ranked or have no interval, and why."""
    small = [group.name for group in groups if group.items < fewest and group.name != UNKNOWN]
    single = [group.name for group in groups if group.blocks == 1]
    unknown = sum(group.items for group in groups if group.name == UNKNOWN)
    found = []
    if small:
        found.append(f"not ranked, as they have fewer than {fewest} items: {_first(small)}")
    if unknown:
        found.append(f"not ranked, as they have no group: {unknown} items")
    if single:
        found.append(f"without interval, as they are one block of the bootstrap: {_first(single)}")
    if sum(group.is_ranked for group in groups) < 2:
        found.append("no gap: fewer than two groups are ranked")
    return found


def _drawn(score: Score, strata: Sequence[Sequence[Indices]], samples: int, generator: np.random.Generator) -> Scores:
    """Return the scores of `samples` draws: in each stratum as many blocks as it has, with replacement."""
    if isinstance(score, Ratio):
        drawn = np.zeros((samples, 2))
        for blocks in strata:
            sums, size = _sums(score, blocks), len(blocks)
            portion = max(1, _AT_ONCE // size)
            for begin in range(0, samples, portion):
                some = min(portion, samples - begin)
                drawn[begin : begin + some] += generator.multinomial(size, np.full(size, 1 / size), some) @ sums
        return _quotients(drawn)
    return np.array(
        [
            score(
                np.concatenate(
                    [blocks[n] for blocks in strata for n in generator.integers(len(blocks), size=len(blocks))]
                )
            )
            for _ in range(samples)
        ]
    )


def _gaps_of_equal_groups(
    score: Score, members: Sequence[Sequence[Indices]], samples: int, generator: np.random.Generator
) -> Scores:
    """Return gaps, worst to best, of groups that are drawn at random from all blocks, each of as many as it has."""
    every = [block for each in members for block in each]
    starts = np.cumsum([0, *(len(each) for each in members)])[:-1]
    sums = _sums(score, every) if isinstance(score, Ratio) else None
    gaps = np.empty(min(samples, _PERMUTATIONS))
    for place in range(len(gaps)):
        order = generator.permutation(len(every))
        if sums is not None:
            scores = _quotients(np.add.reduceat(sums[order], starts))
        else:
            parts = np.split(order, starts[1:])
            scores = np.array([score(np.concatenate([every[block] for block in part])) for part in parts])
        gaps[place] = np.ptp(scores)
    return gaps[~np.isnan(gaps)]


def _sums(score: Ratio, members: Sequence[Indices]) -> Scores:
    """Return (blocks, 2): the sums of counts and totals of each block."""
    return np.array([[score.counts[block].sum(), score.totals[block].sum()] for block in members])


def _quotients(sums: Scores) -> Scores:
    """Divide the first column by the second; NaN where that is 0."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0)


def _without_nan(value: Any) -> Any:
    """Replace each NaN in nested values, which JSON does not have, by None."""
    match value:
        case dict():
            return {key: _without_nan(each) for key, each in value.items()}
        case list() | tuple():
            return [_without_nan(each) for each in value]
        case float() if math.isnan(value):
            return None
    return value


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
