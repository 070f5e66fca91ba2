"""The error rate over the weights of a language model, as a picture."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechssl.atomic import write_atomically

__all__ = ["draw_surface"]


class _Point(Protocol):
    @property
    def lm_weight(self) -> float: ...
    @property
    def word_score(self) -> float: ...
    @property
    def wer(self) -> float: ...
    @property
    def cer(self) -> float: ...


def draw_surface(points: Sequence[_Point], best: _Point, metric: Literal["wer", "cer"], out: Path) -> None:
    """Write a PNG: every pair that was tried with its error rate, interpolated between where there are enough."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x, y = (np.array([getattr(point, name) for point in points]) for name in ("lm_weight", "word_score"))
    rates = 100 * np.array([getattr(point, metric) for point in points])
    if len(np.unique(x)) > 1 and len(np.unique(y)) > 1:
        drawn = axes.tricontourf(x, y, rates, levels=15, cmap="viridis_r")
        figure.colorbar(drawn, ax=axes, label=f"{metric.upper()} of dev, %")
    axes.plot(x, y, "k.", markersize=3)
    for place in zip(x, y, rates, strict=True):
        axes.annotate(f"{place[2]:.1f}", place[:2], textcoords="offset points", xytext=(0, 4), ha="center", fontsize=7)
    axes.plot(best.lm_weight, best.word_score, "r*", markersize=14, label="chosen")
    axes.set_xlabel("weight of the language model")
    axes.set_ylabel("score of a word")
    axes.use_sticky_edges = False
    axes.margins(0.08)
    axes.legend(loc="upper left", fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_atomically(out, picture.getvalue())
