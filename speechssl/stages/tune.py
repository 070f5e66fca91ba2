"""Stage `tune`: choose the weights of a language model on a development set; decode the test set once afterwards.

The model runs on the development set once: its log-posteriors are stored beside the results and reused as long as model
and manifest are the same. A grid of weights is decoded, widened where its best point lies at an edge, then refined.
"""

import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from speechssl import fingerprint
from speechssl.asr.decoding.decoders import Beam, Flashlight, Greedy, WithLexicon, build_decoder
from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.lm.arpa import read_arpa
from speechssl.asr.lm.ngram_model import NGramModel
from speechssl.asr.scoring.wer import score_texts
from speechssl.atomic import write_atomically
from speechssl.config import to_dict
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError
from speechssl.hub.model_formats import read_saved
from speechssl.hub.saved import SavedModel
from speechssl.parallel import pick_device
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.stages.tuned import TuneConfig
from speechssl.text.vocabulary import Vocabulary

__all__ = ["Point", "Tuned", "cached_posteriors", "draw_surface", "tune"]

_EARLIER = {  # settings as the files of earlier versions name them
    ("precision", "float32"): ("bfloat16", False),
    ("precision", "bfloat16"): ("bfloat16", True),
}


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
    """Write a PNG of all tried pairs with their error rates, interpolated if there are enough of them."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One pair of weights on the development set."""

    lm_weight: float
    word_score: float
    wer: float
    cer: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """Result of the search."""

    points: tuple[Point, ...]  # in the order of the search
    best: Point  # the best point; among equals the one with the smallest weights
    greedy: dict[str, tuple[float, float]]  # WER and CER without language model, for dev and, if given, test
    test: tuple[float, float] | None  # WER and CER with the best weights

    def worsened(self, metric: Literal["wer", "cer"]) -> str | None:
        """Return a warning if the weights chosen by `metric` raise the other rate above that of greedy decoding."""
        greedy = dict(zip(("wer", "cer"), self.greedy["dev"], strict=True))
        other = "cer" if metric == "wer" else "wer"
        found = getattr(self.best, other)
        if found <= greedy[other]:
            return None
        rival = min(self.points, key=lambda point: float(getattr(point, other)))
        return (
            f"{other.upper()} of dev rises from {greedy[other]:.1%} without these weights to {found:.1%}, as the "
            f"choice was by {metric.upper()}: the language model overrides the acoustic model. By "
            f"{other.upper()} it would be lm_weight={rival.lm_weight:g} word_score={rival.word_score:g} "
            f"({other.upper()} {getattr(rival, other):.1%}): --metric {other}"
        )


def tune(
    run: Path,
    dev: Manifest,
    config: TuneConfig,
    out: Path,
    *,
    test: Manifest | None = None,
    progress: Callable[[Point], None] = lambda point: None,
    hearing: PosteriorConfig | None = None,
) -> Tuned:
    """Try weights on the development set and write `tune.json`, `surface.tsv` and `surface.png` into a folder.

    Args:
        run: folder of a fine-tuning run, or of a converted model.
        dev: development set, with texts.
        config: decoder and weights to try.
        out: output folder.
        test: test set, decoded once with the weights chosen on dev, and greedily.
        progress: called with each point.
        hearing: batches and windows; None for the defaults.

    Raises:
        ConfigError: utterances are both in the test set and in the development set.
    """
    if test is not None and (shared := {row.id for row in test.utterances} & {row.id for row in dev.utterances}):
        raise ConfigError(
            f"{len(shared)} utterances are in dev and in test, {min(shared)} for one; keep test untouched"
        )
    saved = read_saved(run)
    vocabulary = saved.vocabulary()
    heard = cached_posteriors(saved, dev, out / "dev.safetensors", hearing)
    points, best = _search(heard, _texts(dev, vocabulary), vocabulary, config, progress)
    sets = {"dev": (heard, _texts(dev, vocabulary))}
    if test is not None:
        sets["test"] = (cached_posteriors(saved, test, out / "test.safetensors", hearing), _texts(test, vocabulary))
    greedy = {name: _rates(*each, vocabulary, Greedy()) for name, each in sets.items()}
    weights = Weights(lm_weight=best.lm_weight, word_score=best.word_score)
    chosen = dataclasses.replace(config.decoder, weights=weights)
    found = Tuned(
        points=tuple(points),
        best=best,
        greedy=greedy,
        test=_rates(*sets["test"], vocabulary, chosen) if test is not None else None,
    )
    _write(found, config, out)
    return found


def cached_posteriors(
    saved: SavedModel, manifest: Manifest, path: Path, hearing: PosteriorConfig | None = None
) -> dict[str, Tensor]:
    """Return (frames, vocab) log-posteriors by utterance id, cached in a file for this model and manifest."""
    rows = [(row.id, row.path, row.start, row.num_samples) for row in manifest.utterances]
    about: list[object] = [saved.fingerprint(), rows]
    if hearing is not None and hearing != PosteriorConfig():
        about.append(dict(_EARLIER.get(each, each) for each in to_dict(hearing).items()))
    origin = fingerprint.of_bytes(json.dumps(about).encode())
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("origin") == origin:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    model, _ = saved.recogniser()
    model.to(pick_device())
    posteriors = log_posteriors(model, manifest, saved.description.audio, hearing or PosteriorConfig(), settings="--")
    heard = {key: row.contiguous() for key, row in posteriors}
    write_atomically(path, save(heard, metadata={"origin": origin}))
    return heard


def _search(
    heard: Mapping[str, Tensor],
    texts: Mapping[str, str],
    vocabulary: Vocabulary,
    config: TuneConfig,
    progress: Callable[[Point], None],
) -> tuple[list[Point], Point]:
    """Decode the grid, its extensions and refinements; return all points, and the best."""
    tried: dict[tuple[float, float], Point] = {}
    decoder = config.decoder
    assert decoder.lm is not None
    lm = None if isinstance(decoder, Flashlight) else read_arpa(decoder.lm)

    def decode(lm_weights: Sequence[float], word_scores: Sequence[float]) -> Point:
        """Decode with the new pairs, and return the best point so far."""
        for pair in product(lm_weights, word_scores):
            if pair in tried:
                continue
            weights = Weights(lm_weight=pair[0], word_score=pair[1])
            wer, cer = _rates(heard, texts, vocabulary, dataclasses.replace(decoder, weights=weights), lm)
            tried[pair] = Point(lm_weight=pair[0], word_score=pair[1], wer=wer, cer=cer)
            progress(tried[pair])
        return min(tried.values(), key=lambda one: (getattr(one, config.metric), one.lm_weight, abs(one.word_score)))

    lm_weights, word_scores = sorted(set(config.lm_weights)), sorted(set(config.word_scores))
    best = decode(lm_weights, word_scores)
    for _ in range(config.widen):
        wider = _widened(best.lm_weight, lm_weights, lowest=0.0), _widened(best.word_score, word_scores)
        if wider == (lm_weights, word_scores):
            break
        lm_weights, word_scores = wider
        best = decode(lm_weights, word_scores)
    for _ in range(config.rounds):
        lm_weights, word_scores = _around(best.lm_weight, lm_weights), _around(best.word_score, word_scores)
        best = decode(lm_weights, word_scores)
    return [*tried.values()], best


def _widened(best: float, values: list[float], lowest: float = -math.inf) -> list[float]:
    """Return the values, with one more beyond the edge if the best value lies there.

    Examples:
        >>> _widened(3.0, [0.0, 2.0, 3.0]), _widened(2.0, [0.0, 2.0, 3.0]), _widened(0.0, [0.0, 2.0], lowest=0.0)
        ([0.0, 2.0, 3.0, 4.0], [0.0, 2.0, 3.0], [0.0, 2.0])
    """
    if len(values) < 2:
        return values
    below, above = max(lowest, 2 * values[0] - values[1]), 2 * values[-1] - values[-2]
    if best == values[0] and below < best:
        return [below, *values]
    return [*values, above] if best == values[-1] else values


def _around(best: float, values: list[float]) -> list[float]:
    """Return the best value, and the values half-way to its neighbours.

    Examples:
        >>> _around(2.0, [0.0, 2.0, 3.0])
        [1.0, 2.0, 2.5]
    """
    place = values.index(best)
    neighbours = values[max(0, place - 1) : place] + values[place + 1 : place + 2]
    return sorted({best, *((best + other) / 2 for other in neighbours)})


def _rates(
    heard: Mapping[str, Tensor],
    texts: Mapping[str, str],
    vocabulary: Vocabulary,
    decoder: Greedy | Beam | WithLexicon | Flashlight,
    lm: NGramModel | None = None,
) -> tuple[float, float]:
    """Return WER and CER."""
    built = build_decoder(decoder, vocabulary, lm=lm)
    found = {key: built.decode(row[None], torch.tensor([len(row)]))[0][0].text for key, row in heard.items()}
    scores = score_texts(texts, found)
    return scores.wer, scores.cer


def _texts(manifest: Manifest, vocabulary: Vocabulary) -> dict[str, str]:
    return {row.id: vocabulary.text.apply(row.text or "") for row in manifest.utterances}


def _write(found: Tuned, config: TuneConfig, out: Path) -> None:
    values = {"config": to_dict(config), **dataclasses.asdict(found)}
    write_atomically(out / "tune.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    rows = sorted((point.lm_weight, point.word_score, point.wer, point.cer) for point in found.points)
    lines = [f"{lm_weight:g}\t{word_score:g}\t{wer:.5f}\t{cer:.5f}\n" for lm_weight, word_score, wer, cer in rows]
    write_atomically(out / "surface.tsv", "".join(["lm_weight\tword_score\twer\tcer\n", *lines]))
    draw_surface(found.points, found.best, config.metric, out / "surface.png")
