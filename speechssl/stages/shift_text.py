"""The short report of `shift`: a table of conditions, then the worst condition and the worst groups of each model.

Worst is by the first score; `shift.json` has the groups by every score under every condition.
"""

import math
from collections.abc import Iterator, Sequence

from speechssl.asr.scoring.intervals import Interval
from speechssl.downstream.group_scores import Gap, Grouped
from speechssl.stages.shifts import Condition, Shifts

__all__ = ["report_lines"]


def report_lines(found: Shifts, *, title: str) -> list[str]:
    """Write the report in Markdown: scores in percent, with intervals.

    Args:
        found: the scores.
        title: what was scored.
    """
    lines = [f"# {title}", "", f"{found.utterances} utterances, the same under all conditions."]
    if found.left_out:
        named = ", ".join(found.left_out[:3]) + (", ..." if len(found.left_out) > 3 else "")
        lines.append(f"Left out, as not answered under all conditions: {len(found.left_out)}: {named}.")
    for model, conditions in found.conditions.items():
        lines += ["", f"## {model}", "", *_table(conditions)]
        name, is_better = next(iter(found.higher_is_better.items()))
        lines += ["", *_worst(conditions, name, higher_is_better=is_better)]
    return lines


def _table(conditions: Sequence[Condition]) -> Iterator[str]:
    names = [*conditions[0].scores]
    yield "| condition | " + " | ".join(f"{name} | change" for name in names) + " |"
    yield "|---|" + "---|---|" * len(names)
    for each in conditions:
        cells = []
        for name in names:
            one = each.scores[name]
            cells.append(f"{100 * one.score:.2f} {_within(one.interval)}")
            cells.append("" if each.shift is None else f"{100 * one.change:+.2f} {_within(one.change_interval)}")
        repeated = f", noise repeated in {each.looped}" if each.looped else ""
        yield f"| {each.name}{repeated} | " + " | ".join(cells) + " |"


def _worst(conditions: Sequence[Condition], name: str, *, higher_is_better: bool) -> Iterator[str]:
    """Name the worst condition, and the worst group there and in the audio as recorded."""
    clean, *shifted = conditions
    worst = (min if higher_is_better else max)(shifted, key=lambda each: each.scores[name].score)
    one = worst.scores[name]
    yield (
        f"- Worst condition by {name}: **{worst.name}**, {100 * one.score:.2f} % {_within(one.interval)}, "
        f"{100 * one.change:+.2f} points {_within(one.change_interval)} from the audio as recorded"
    )
    for grouping in one.groups:
        for each in (clean, worst):
            grouped = each.scores[name].groups[grouping]
            if grouped.gap is not None:
                yield f"- By {grouping}, {each.name}: {_gap(grouped, grouped.gap)}"
        if notes := one.groups[grouping].notes:
            yield f"- By {grouping}: {'; '.join(notes)}"


def _gap(grouped: Grouped, gap: Gap) -> str:
    """Name the worst and the best group, and say whether equal groups would differ as much."""
    groups = {each.name: each for each in grouped.groups}
    worst, best = (
        f"**{each.name}** {100 * each.score:.2f} % {_within(each.interval)}, {each.items} utterances"
        for each in (groups[gap.worst], groups[gap.best])
    )
    chance = (
        "" if math.isnan(gap.p_value) else f"; between equal groups {100 * gap.expected:+.2f}, p = {gap.p_value:.4f}"
    )
    return f"worst {worst}; best {best}; gap {100 * gap.gap:+.2f} points {_within(gap.interval)}{chance}"


def _within(interval: Interval) -> str:
    if math.isnan(interval.low):
        return "[no interval]"
    return f"[{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
