"""Part of stage `sweep`: its rows, their files, the table, and which layer to take for what."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from speechssl.data.utterances import Manifest
from speechssl.units.quality import UnitQuality

__all__ = [
    "Kind",
    "LayerRow",
    "SweepRow",
    "footnote",
    "layer_table",
    "layers_for_tasks",
    "rows_from_json",
    "suggest",
    "to_json",
    "unit_table",
]

Kind = Literal["baseline", "random", "model"]
_CHOICES = (  # purpose, the columns that decide, of which the first that is there counts, and the better end
    ("phones told apart without training, as for spoken language models", ("ABX within, any", "ABX across, any"), min),
    ("phones by a linear head", ("CCA phones",), max),
    ("speakers by a linear head", ("speaker accuracy",), max),
)


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One layer with one number of units."""

    source: str  # "mfcc", "log_mel, cmn", "random weights", or the model
    kind: Kind
    layer: int  # counted from 1; 0 for a baseline
    clusters: int
    dim: int
    effective_rank: float  # effective rank of the features
    quality: UnitQuality
    chance: float  # chance level: PNMI of the same units shifted by half their utterance


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """Measures of one layer that have nothing to do with units."""

    source: str  # as in `SweepRow`
    kind: Kind
    layer: int
    figures: dict[str, float]  # by column


def suggest(rows: Sequence[SweepRow], *, tolerance: float) -> str:
    """Return a sentence that suggests layer and K: the fewest units whose PNMI is close to the highest.

    Only layers of the model are considered, or the baselines if there is no model.
    """
    models = [row for row in rows if row.kind == "model"]
    candidates = models or [row for row in rows if row.kind == "baseline"]
    best = max(candidates, key=lambda row: row.quality.pnmi)
    close = [row for row in candidates if row.quality.pnmi >= best.quality.pnmi - tolerance]
    chosen = min(close, key=lambda row: (row.clusters, -row.quality.pnmi))
    words = f"Take {_name(chosen)} with {chosen.clusters} units: PNMI {chosen.quality.pnmi:.3f}"
    words += f" where chance gives {chosen.chance:.3f}"
    if chosen is best:
        words += ", the highest"
    else:
        words += f", the fewest units within {tolerance:g} of the highest ({best.quality.pnmi:.3f}, {_name(best)} with "
        words += f"{best.clusters})"
    others = [row for row in rows if row.kind != chosen.kind and row.clusters == chosen.clusters]
    if others:
        rival = max(others, key=lambda row: row.quality.pnmi)
        is_better = rival.quality.pnmi >= chosen.quality.pnmi
        words += f"; {_name(rival)} has {rival.quality.pnmi:.3f} with as many units"
        words += ", so this model is no better than a baseline without training" if is_better else ""
    if chosen.clusters == max(row.clusters for row in rows):
        words += "; more units were not tried"
    return words + "."


def layers_for_tasks(rows: Sequence[LayerRow]) -> list[str]:
    """Return a sentence for each purpose that a measure speaks for: the best layer of the model, or baseline."""
    candidates = [row for row in rows if row.kind == "model"] or [row for row in rows if row.kind == "baseline"]
    sentences = []
    for purpose, columns, better in _CHOICES:
        column = next((name for name in columns if all(name in row.figures for row in candidates)), None)
        if column is None or not candidates:
            continue
        best = better(candidates, key=lambda row: row.figures[column])
        rivals = [row for row in rows if row.kind != best.kind]
        sentence = f"For {purpose}: {_name(best)}, {column} {best.figures[column]:.3f}"
        if rivals:
            rival = better(rivals, key=lambda row: row.figures[column])
            sentence += f"; {_name(rival)} has {rival.figures[column]:.3f}"
            is_better = better([rival, best], key=lambda row: row.figures[column]) is rival
            sentence += ", so this model is no better than a baseline without training" if is_better else ""
        sentences.append(sentence + ".")
    return sentences


def _name(row: SweepRow | LayerRow) -> str:
    if row.kind == "model":
        return f"layer {row.layer}"
    return f"layer {row.layer} of {row.source}" if row.layer else row.source


def to_json(rows: Sequence[SweepRow | LayerRow]) -> str:
    """Return rows as text, one after another."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def rows_from_json(text: str) -> list[SweepRow]:
    """Read the rows of units."""
    return [SweepRow(**row | {"quality": UnitQuality(**row["quality"])}) for row in json.loads(text)]


def unit_table(rows: Sequence[SweepRow]) -> list[str]:
    """Return the lines of a Markdown table of the units."""
    names = [
        "features",
        "layer",
        "K",
        "PNMI",
        "by chance",
        "phone purity",
        "cluster purity",
        "units used",
        "perplexity",
    ]
    names += ["unit, ms", "effective rank"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        quality = row.quality
        shares = f"{quality.pnmi:.3f} | {row.chance:.3f} | {quality.phone_purity:.3f} | {quality.cluster_purity:.3f}"
        lines.append(
            f"| {row.source} | {row.layer or '-'} | {row.clusters} | {shares} | {100 * quality.coverage:.0f} % "
            f"| {quality.perplexity:.0f} | {1000 * quality.unit_segment_s:.0f} "
            f"| {row.effective_rank:.1f} of {row.dim} |"
        )
    return lines


def layer_table(rows: Sequence[LayerRow]) -> list[str]:
    """Return the lines of a Markdown table of the layers; `NAME low` and `NAME high` stand in brackets after NAME."""
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    columns = [name for name in columns if not name.endswith((" low", " high"))]
    lines = ["| " + " | ".join(["features", "layer", *columns]) + " |", "|" + "---|" * (2 + len(columns))]
    for row in rows:
        cells = []
        for name in columns:
            cell = f"{row.figures[name]:.3f}" if name in row.figures else "-"
            if f"{name} low" in row.figures:
                cell += f" ({row.figures[f'{name} low']:.3f} to {row.figures[f'{name} high']:.3f})"
            cells.append(cell)
        lines.append(f"| {row.source} | {row.layer or '-'} | {' | '.join(cells)} |")
    return lines


def footnote(rows: Sequence[SweepRow], manifest: Manifest) -> str:
    """Return the size of the data, and what chance is."""
    words = f"{len(manifest.utterances)} utterances, {manifest.duration_s / 60:.1f} min"
    if rows:
        phone_ms = 1000 * np.mean([row.quality.phone_segment_s for row in rows])
        words += f"; a phone lasts {phone_ms:.0f} ms on average. "
        words += "By chance: PNMI of the same units shifted by half their utterance"
    return words + "."
