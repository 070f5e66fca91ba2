"""Table and picture of quality per compute, from what run.sh left: nothing is computed anew.

    draw.py runs/quality_per_compute/minutes-40 [--out quality.png]

Of the two fine-tunings of a model, the one with the lower dev CER counts, the other is in brackets.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cost import spent
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

SHARES = {"full": 1, "half": 2, "quarter": 4}  # of the updates, as their divisor


@dataclass(frozen=True, kw_only=True)
class Recogniser:
    """What one fine-tuning gave."""

    how: str  # frozen or trained
    dev: float  # CER of the best step
    test: float  # CER


@dataclass(frozen=True, kw_only=True)
class Point:
    """A pretrained model: what it cost and what it is worth."""

    arm: str
    seed: int
    share: str  # key of `SHARES`
    updates: int
    hours_seen: float
    cpu_minutes: float  # units included
    wall_minutes: float
    recognisers: tuple[Recogniser, ...]  # the best on dev first


def points(top: Path) -> Iterator[Point]:
    """Yield what is finished below a folder of run.sh, by seed and arm."""
    for arm in sorted(top.glob("seed*/*")):
        plans = sorted(arm.glob("pretrain*.json"))
        for share in SHARES if plans else ():
            recognisers = sorted(_recognisers(arm, share), key=lambda one: one.dev)
            if recognisers:
                yield _point(arm, plans, share, tuple(recognisers))


def _point(arm: Path, plans: list[Path], share: str, recognisers: tuple[Recogniser, ...]) -> Point:
    *earlier, last = plans  # a HuBERT of two iterations has two
    plan = _json(last)
    updates = int(plan["updates"]) // SHARES[share]
    seconds = _json(arm / last.stem / f"step_{updates:08d}" / "state.json")["audio_seconds"]
    for one in earlier:
        done = int(_json(one)["updates"])
        seconds += _json(arm / one.stem / f"step_{done:08d}" / "state.json")["audio_seconds"]
    cost = spent(arm / "cost.jsonl", last.stem)
    return Point(
        arm=arm.name,
        seed=int(arm.parent.name.removeprefix("seed")),
        share=share,
        updates=updates,
        hours_seen=seconds / 3600,
        cpu_minutes=(plan["spent_before_s"] + cost["cpu_s"] / SHARES[share]) / 60,
        wall_minutes=(plan["spent_before_wall_s"] + cost["wall_s"] / SHARES[share]) / 60,
        recognisers=recognisers,
    )


def _recognisers(arm: Path, share: str) -> Iterator[Recogniser]:
    for how in ("frozen", "trained"):
        folder = arm / f"asr-{share}-{how}"
        states = sorted(folder.glob("step_*[0-9]/state.json"))
        if states and (folder / "test.json").exists():
            yield Recogniser(how=how, dev=_json(states[-1])["best_score"], test=_json(folder / "test.json")["cer"])


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def table(found: list[Point]) -> str:
    """Return the points as Markdown, the best arm first, shorter runs under the full one."""
    best = {(one.arm, one.seed): one.recognisers[0].test for one in found if one.share == "full"}
    order = sorted(found, key=lambda one: (best.get((one.arm, one.seed), 1.0), one.arm, one.seed, -one.updates))
    lines = [
        "| arm | seed | updates | hours of audio seen | CPU minutes | wall minutes | test CER | dev CER |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in order:
        name = one.arm if one.share == "full" else f"{one.arm}, {one.share}"
        test = f"{100 * one.recognisers[0].test:.1f} % {one.recognisers[0].how}"
        test += "".join(f" ({100 * other.test:.1f} % {other.how})" for other in one.recognisers[1:])
        lines.append(
            f"| {name} | {one.seed} | {one.updates} | {one.hours_seen:.2f} | {one.cpu_minutes:.1f} "
            f"| {one.wall_minutes:.1f} | {test} | {100 * one.recognisers[0].dev:.1f} % |"
        )
    return "\n".join(lines)


def draw(found: list[Point], out: Path) -> None:
    """Write a PNG: test CER against hours of audio seen, and against CPU minutes; a line for each arm and seed."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    arms = sorted({one.arm for one in found})
    colours = dict(zip(arms, colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    for axis, cost in zip(panels, ("hours_seen", "cpu_minutes"), strict=True):
        for arm, seed in sorted({(one.arm, one.seed) for one in found}):
            line = sorted((one for one in found if (one.arm, one.seed) == (arm, seed)), key=lambda one: one.updates)
            values = [(getattr(one, cost), 100 * one.recognisers[0].test) for one in line]
            is_first = cost == "hours_seen" and seed == min(one.seed for one in found if one.arm == arm)
            axis.plot(*zip(*values, strict=True), "o-", color=colours[arm], label=arm if is_first else None)
    panels[0].set_xscale("log")
    panels[0].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panels[0].xaxis.set_major_formatter("{x:g}")
    panels[0].xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_xlabel("hours of audio seen in pretraining")
    panels[1].set_xlabel("CPU minutes of pretraining, units included")
    panels[0].set_ylabel("test CER, %, festvox-ru, 10 labelled minutes")
    for axis in panels:
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def main() -> None:
    """Read the command line, print the table and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("top", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = list(points(given.top))
    if not found:
        raise SystemExit(f"{given.top}: holds no scored arm; let run.sh finish one")
    print(table(found))
    draw(found, given.out or given.top / "quality.png")


if __name__ == "__main__":
    main()
