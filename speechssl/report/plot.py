"""Plots: spectrogram of an utterance (by librosa) above its hidden units, PNMI by layer, scores by level of a shift."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.data.dataset import read_utterance
from speechssl.data.labels import read_labels
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError, LabelError, ManifestError

__all__ = ["plot_shifts", "plot_sweep", "plot_sweeps", "plot_units"]

_LONGEST_S = 6.0  # seconds shown of a longer utterance


def plot_units(label_files: Sequence[Path], manifest: Manifest, out: Path, *, utterance_id: str | None = None) -> None:
    """Write a PNG with a log-mel spectrogram above one strip of unit numbers for each label file.

    Args:
        label_files: label files from `speechssl cluster`.
        manifest: manifest of the utterance.
        out: the PNG.
        utterance_id: id of the utterance; None for the first.

    Raises:
        ManifestError: the manifest does not list the utterance.
        LabelError: a label file has no labels for it.
    """
    import librosa  # takes seconds to import, and `plot_sweep` does not need it
    import librosa.display

    rows = {row.id: row for row in manifest.utterances}
    row = rows.get(utterance_id or next(iter(rows)))
    if row is None:
        raise ManifestError(f"the manifest lists no utterance {utterance_id!r}; take an id from its first column")
    shown = int(_LONGEST_S * SAMPLE_RATE)  # any sample rate: the recipe of the labels decided which audio to accept
    waveform = read_utterance(manifest, row, AudioConfig(min_sample_rate=1), num_samples=shown).numpy()
    duration_s = len(waveform) / SAMPLE_RATE
    figure = Figure(figsize=(14, 4 + 1.1 * len(label_files)), layout="constrained")
    FigureCanvasAgg(figure)
    heights = [4.0, *[1.0] * len(label_files)]
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
    mel = librosa.feature.melspectrogram(y=waveform, sr=SAMPLE_RATE, n_fft=400, hop_length=160, n_mels=80)
    decibels = librosa.power_to_db(mel, ref=np.max)
    librosa.display.specshow(
        decibels, sr=SAMPLE_RATE, hop_length=160, x_axis="time", y_axis="mel", ax=axes[0], cmap="magma"
    )
    axes[0].set_title(f"{row.id}  {row.text or ''}"[:100])
    axes[0].set_xlabel("")
    for axis, path in zip(axes[1:], label_files, strict=True):
        labels = read_labels(path)
        if row.id not in labels.units:
            raise LabelError(f"{path}: has no labels for {row.id}; name an utterance it was made from")
        _draw_strip(axis, labels.units[row.id], labels.source.hop / SAMPLE_RATE, labels.source.clusters, duration_s)
        axis.set_ylabel(labels.source.features, rotation=0, ha="right", va="center", fontsize=8)
    axes[-1].set_xlabel("seconds")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def plot_sweep(figures: Path, out: Path) -> None:
    """Write a PNG of PNMI by layer, one line for each K; untrained models dotted, baselines as dashed levels.

    Nothing is written if the sweep did not measure PNMI.

    Args:
        figures: `sweep.json` from `speechssl sweep`.
        out: the PNG.

    Raises:
        LabelError: the file is missing, or not from a sweep.
    """
    try:
        rows = json.loads(figures.read_text(encoding="utf-8"))["rows"]
        points = [(r["kind"], r["source"], r["layer"], r["clusters"], r["quality"]["pnmi"]) for r in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{figures}: expected the figures of a sweep ({error!r}); run `speechssl sweep`") from error
    if not points:  # a sweep without pnmi among its measures
        return
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    layers = sorted({layer for _, _, layer, _, _ in points if layer}) or [0, 1]
    sizes = sorted({clusters for *_, clusters, _ in points})
    colours = dict(zip(sizes, colormaps["viridis"](np.linspace(0, 0.85, len(sizes))), strict=True))
    lines: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    for kind, source, layer, clusters, pnmi in points:
        where = layers if kind == "baseline" else [layer]  # a baseline has no layers: a level over all of them
        lines.setdefault((kind, source, clusters), []).extend((x, pnmi) for x in where)
    styles = {"model": "o-", "random": "s:", "mfcc": "--", "log_mel": "-."}
    for (kind, source, clusters), line in lines.items():
        style = styles[source if kind == "baseline" else kind]
        label = f"{clusters} units" + ("" if kind == "model" else f", {source}")
        axes.plot(*zip(*sorted(line), strict=True), style, color=colours[clusters], label=label)
    axes.set_xticks(layers)
    axes.set_xlabel("layer")
    axes.set_ylabel("PNMI")
    figure.legend(loc="outside right upper", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def plot_sweeps(run: Path) -> None:
    """Write the missing plots of all sweeps in the folder of a HuBERT recipe.

    Raises:
        LabelError: as `plot_sweep`.
    """
    for figures in sorted(run.glob("*-sweep/sweep.json")):
        if not figures.with_suffix(".png").exists():
            plot_sweep(figures, figures.with_suffix(".png"))


def plot_shifts(figures: Path, out: Path) -> None:
    """Write a PNG with a curve for each model and kind of shift: the first score by level, with intervals.

    The dashed line is the score of the audio as recorded. Shifts without a level (measured rooms) have no curve.

    Args:
        figures: `shift.json` from `speechssl shift`.
        out: the PNG.

    Raises:
        ConfigError: the file is missing, or not from `shift`.
    """
    try:
        found = json.loads(figures.read_text(encoding="utf-8"))
        name = next(iter(found["higher_is_better"]))
        points = [
            (
                model,
                each["curve"],
                each["unit"],
                each["level"],
                each["scores"][name]["score"],
                each["scores"][name]["interval"],
            )
            for model, conditions in found["conditions"].items()
            for each in conditions
        ]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ConfigError(f"{figures}: expected the figures of shifts ({error!r}); run `speechssl shift`") from error
    curves = {curve: unit for _, curve, unit, level, *_ in points if level is not None}
    models = [*dict.fromkeys(model for model, *_ in points)]
    figure = Figure(figsize=(1 + 3.5 * max(1, len(curves)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    colours = dict(zip(models, colormaps["viridis"](np.linspace(0, 0.85, len(models))), strict=True))
    for axes, (curve, unit) in zip(
        figure.subplots(1, max(1, len(curves)), sharey=True, squeeze=False)[0], curves.items(), strict=False
    ):
        for model in models:
            line = sorted(
                (level, score, score - within["low"], within["high"] - score)
                for m, c, _, level, score, within in points
                if (m, c) == (model, curve)
            )
            levels, *values = np.array(line).T
            scores, *reach = (np.maximum(100 * each, 0) for each in values)
            axes.errorbar(levels, scores, reach, fmt="o-", capsize=3, color=colours[model], label=model)
            clean = next(100 * y for m, c, _, _, y, _ in points if (m, c) == (model, None))
            axes.axhline(clean, ls="--", lw=1, color=colours[model])
        axes.set_title(curve, fontsize=9)
        axes.set_xlabel(unit)
    figure.axes[0].set_ylabel(f"{name}, %")
    if curves:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def _draw_strip(axis, units: np.ndarray, hop_s: float, clusters: int, duration_s: float) -> None:  # type: ignore[no-untyped-def]
    """Draw runs of equal units as coloured boxes with their number."""
    starts = np.flatnonzero(np.r_[True, units[1:] != units[:-1]])
    ends = np.r_[starts[1:], len(units)]
    colours = np.random.default_rng(0).permutation(clusters) / clusters  # neighbours in number differ in colour
    for start, end in zip(starts * hop_s, ends * hop_s, strict=True):
        if start >= duration_s:
            break
        unit = int(units[round(start / hop_s)])
        axis.axvspan(start, min(end, duration_s), color=_colour(colours[unit]), lw=0)
        if end - start >= 0.04:
            axis.text((start + end) / 2, 0.5, str(unit), ha="center", va="center", fontsize=6)
    axis.set_yticks([])
    axis.set_ylim(0, 1)


def _colour(hue: float) -> tuple[float, float, float]:
    return tuple(0.65 + 0.3 * np.cos(2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3]))))
