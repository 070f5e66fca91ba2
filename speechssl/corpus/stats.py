"""Statistics of a manifest: hours by speaker, language and split, quantiles and a histogram of durations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from speechssl.data.utterances import Utterance

__all__ = ["Stats", "count", "describe_stats", "plot_durations"]

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_SHOWN = 10  # speakers and languages printed; the JSON output has all


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Statistics of one manifest. Dictionaries are sorted, largest first; the key '' is for rows without a value."""

    utterances: int
    files: int
    parts: int  # utterances that are parts of a file
    hours: float
    with_text: int
    quantiles_s: dict[str, float]  # quantile -> seconds
    hours_by_language: dict[str, float]
    hours_by_speaker: dict[str, float]
    hours_by_split: dict[str, float]
    hours_by_rate: dict[str, float]  # sample rate in Hz -> hours


def count(utterances: Sequence[Utterance]) -> Stats:
    """Compute the statistics of at least one utterance."""
    durations = np.array([utterance.duration_s for utterance in utterances])
    return Stats(
        utterances=len(utterances),
        files=len({utterance.path for utterance in utterances}),
        parts=sum(utterance.file_samples is not None for utterance in utterances),
        hours=math.fsum(durations) / 3600,
        with_text=sum(bool(utterance.text) for utterance in utterances),
        quantiles_s={f"{share:g}": float(np.quantile(durations, share)) for share in _QUANTILES},
        hours_by_language=_hours(utterances, "language"),
        hours_by_speaker=_hours(utterances, "speaker"),
        hours_by_split=_hours(utterances, "split"),
        hours_by_rate=_hours(utterances, "sample_rate"),
    )


def describe_stats(stats: Stats) -> list[str]:
    """Describe the statistics in lines, with the ten largest speakers and languages."""
    lines = [
        f"utterances  {stats.utterances}, {stats.with_text} with text",
        f"hours       {stats.hours:.2f}",
        *([f"files       {stats.files}, {stats.parts} utterances are parts of theirs"] if stats.parts else []),
        "seconds     " + "  ".join(f"{float(q):.0%} {s:.2f}" for q, s in stats.quantiles_s.items()),
    ]
    for name in ("language", "speaker", "split", "rate"):
        hours: dict[str, float] = getattr(stats, f"hours_by_{name}")
        if set(hours) == {""}:
            lines.append(f"{name:<11} not said")
            continue
        shown = [f"{value or '(none)'} {of:.2f} h" for value, of in list(hours.items())[:_SHOWN]]
        more = f", and {len(hours) - _SHOWN} more" if len(hours) > _SHOWN else ""
        lines.append(f"{name:<11} {len(hours)}: {', '.join(shown)}{more}")
    return lines


def plot_durations(utterances: Sequence[Utterance], out: Path) -> None:
    """Write a PNG with a histogram of durations, hours over seconds, coloured by language."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # the extra `plots`, needed only here
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    largest = list(_hours(utterances, "language"))[:_SHOWN]
    groups: dict[str, list[float]] = {language: [] for language in largest}
    for utterance in utterances:
        name = utterance.language or ""
        groups.setdefault(name if name in largest else "others", []).append(utterance.duration_s)
    values = list(groups.values())
    labels = [name or "no language" for name in groups]
    top = max(max(group) for group in values)
    weights = [[seconds / 3600 for seconds in group] for group in values]
    axes.hist(values, bins=50, range=(0, top), weights=weights, stacked=True, label=labels)
    axes.set_xlabel("seconds of one utterance")
    axes.set_ylabel("hours")
    axes.set_title(f"{len(utterances)} utterances, {math.fsum(map(math.fsum, weights)):.2f} h")
    axes.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def _hours(
    utterances: Sequence[Utterance], column: Literal["language", "speaker", "split", "sample_rate"]
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for utterance in utterances:
        seconds.setdefault(str(getattr(utterance, column) or ""), []).append(utterance.duration_s)
    hours = {value: math.fsum(durations) / 3600 for value, durations in seconds.items()}
    return dict(sorted(hours.items(), key=lambda item: (-item[1], item[0])))
