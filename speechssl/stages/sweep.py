"""Stage `sweep`: compare every layer and every number of units K with phones; features are never written to disk.

For each source of features (a model, the same model untrained, MFCC, log-mel) the audio is read twice: once to sample
frames for k-means, once to label and count. Memory besides the model: the sample (`fit_frames` x 4 bytes x the
dimensions of all layers together), three times its widest layer during k-means, and the features of one utterance. BASE
has 12 x 768 dimensions: 3.7 GB for 100,000 frames; name `layers` or lower `fit_frames` if that is too much.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from speechssl.atomic import write_atomically
from speechssl.config import configuration
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError, LabelError
from speechssl.hub.model_formats import read_saved
from speechssl.parallel import Ranks, pick_device
from speechssl.stages.feature_source import (
    ExtractConfig,
    FeatureSource,
    draw_hours,
    extract,
    fit_kmeans,
    front_end,
    known_layers,
    provenance,
    trunk,
)
from speechssl.stages.preflight_audio import Reading, refuse_audio, tell_notes
from speechssl.stages.reading_data import DataConfig, read_data, tell_left_out
from speechssl.train.run_folder import claim_run_folder, locked
from speechssl.units.kmeans import KMeans
from speechssl.units.mfcc import FRAME_WINDOW
from speechssl.units.phone_alignments import Interval, read_phones
from speechssl.units.quality import FeatureSpread, UnitQuality, UnitTally
from speechssl.units.reservoir import FrameSample

__all__ = ["SweepConfig", "SweepRow", "suggest", "sweep"]

Phones = dict[str, list[Interval]]
Kind = Literal["baseline", "random", "model"]


@configuration
class SweepConfig:
    """Features and numbers of units to compare, on the utterances that have phones."""

    out: Path  # folder for sweep.json and sweep.md, and from the command line sweep.png
    data: DataConfig
    phones: Path  # alignments: CTM, TextGrid, festival labels or phones.tsv; a file or a folder
    tier: str = "phones"  # tier of a TextGrid
    checkpoint: Path | None = None  # run or converted model
    layers: tuple[int, ...] = ()  # layers of its Transformer, counted from 1; empty: all
    random_weights: bool = False  # also measure the same architecture with random weights
    baselines: tuple[Literal["mfcc", "log_mel"], ...] = ("mfcc",)
    cmn: bool = False  # subtract the mean of each utterance from the baselines: for pools of many recordings
    extract: ExtractConfig = ExtractConfig()
    clusters: tuple[int, ...] = (50, 100, 200, 500)
    iterations: int = 100
    standardise: bool = False
    fit_frames: int = 100_000  # frames drawn at random, for each layer
    max_hours: float = 10.0  # hours of audio used, whole utterances drawn at random
    tolerance: float = 0.01  # PNMI that may be lost for fewer units
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.clusters or min(self.clusters) < 2:
            raise ConfigError(f"clusters must list numbers from 2 up, found {list(self.clusters)}")
        if self.fit_frames < max(self.clusters):
            raise ConfigError(f"fit_frames={self.fit_frames} cannot make {max(self.clusters)} clusters; raise it")
        if self.checkpoint is None and (self.random_weights or self.layers or not self.baselines):
            raise ConfigError("without checkpoint there are only baselines; name the folder of a run or a model")


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


def sweep(config: SweepConfig) -> Path:
    """Measure every layer with every K; return the table. Finished sources and sweeps are not repeated.

    Raises:
        LabelError: no utterance has phones, the model lacks a layer, or there are too few frames for the units.
    """
    with locked(config.out) as is_locked:
        claim_run_folder(config.out, config, may_replace=is_locked)
        return _sweep(config)


def _sweep(config: SweepConfig) -> Path:
    table = config.out / "sweep.md"
    if table.exists():
        return table
    phones = read_phones(config.phones, tier=config.tier)
    manifest = _with_phones(config, read_data(config.data), phones)
    rows: list[SweepRow] = []
    tell_notes(refuse_audio(Reading(section="data", manifest=manifest, data=config.data, window=FRAME_WINDOW)))
    for number, (kind, source) in enumerate(_sources(config)):
        done = config.out / f"source-{number}.json"
        if not done.exists():
            write_atomically(done, _to_json(_measure(config, manifest, phones, kind, source)))
        rows += _from_json(done.read_text(encoding="utf-8"))
    suggestion = suggest(rows, tolerance=config.tolerance)
    figures = {"suggestion": suggestion, "hours": manifest.duration_s / 3600, "rows": json.loads(_to_json(rows))}
    write_atomically(config.out / "sweep.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    write_atomically(table, _table(rows, suggestion, manifest))
    return table


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


def _with_phones(config: SweepConfig, manifest: Manifest, phones: Phones) -> Manifest:
    """Keep utterances with phones, drawn at random until they reach `max_hours`."""
    rows = [row for row in manifest.utterances if phones.get(row.id)]
    if not rows:
        raise LabelError(
            f"{config.phones}: aligns no utterance of the manifest; expected ids like {manifest.utterances[0].id!r}, "
            f"found {', '.join(map(repr, sorted(phones)[:3])) or 'none'}"
        )
    tell_left_out([row.id for row in manifest.utterances if not phones.get(row.id)], "no phones")
    chosen = draw_hours(rows, config.max_hours, seed=config.seed, purpose="sweep utterances")
    return dataclasses.replace(manifest, utterances=tuple(chosen))


def _sources(config: SweepConfig) -> Iterator[tuple[Kind, FeatureSource]]:
    """Yield the sources to compare one at a time, so that only one model is in memory."""
    for name in config.baselines:
        yield "baseline", front_end(name, config.data.audio, cmn=config.cmn)
    if config.checkpoint is None:
        return
    saved = read_saved(config.checkpoint)
    layers = known_layers(config.layers, saved)
    if config.random_weights:
        yield "random", trunk(saved, layers, config.data, config.extract, untrained_seed=config.seed)
    yield "model", trunk(saved, layers, config.data, config.extract)


def _measure(
    config: SweepConfig, manifest: Manifest, phones: Phones, kind: Kind, source: FeatureSource
) -> list[SweepRow]:
    """Measure all layers and Ks of one source."""
    samples, spreads = _sample(config, manifest, source)
    fitted: dict[tuple[int, int], KMeans] = {}  # by layer index and K
    for index, layer in enumerate(source.layers):
        frames = samples.pop(0).to(pick_device())
        for clusters in config.clusters:
            kmeans = KMeans(
                n_clusters=clusters, max_iter=config.iterations, standardise=config.standardise, seed=config.seed
            )
            fitted[index, clusters] = fit_kmeans(frames, kmeans, provenance(source, layer, manifest.utterances))
            fitted[index, clusters].device = str(pick_device())
    names = {interval.phone for row in manifest.utterances for interval in phones[row.id]}
    tallies, moved = (
        {key: UnitTally(names, key[1], hop=source.hop, window=source.window) for key in fitted} for _ in range(2)
    )
    labelled = set()
    for row_id, units in _units(config, manifest, source, fitted):
        labelled.add(row_id)
        for key, found in units.items():
            tallies[key].add(found, phones[row_id])
            moved[key].add(np.roll(found, len(found) // 2), phones[row_id])
    tell_left_out([row.id for row in manifest.utterances if row.id not in labelled], "bad audio")
    return [
        SweepRow(
            source=source.name,
            kind=kind,
            layer=source.layers[index],
            clusters=clusters,
            dim=spreads[index].dim,
            effective_rank=spreads[index].effective_rank(),
            quality=tally.quality(),
            chance=moved[index, clusters].quality().pnmi,
        )
        for (index, clusters), tally in tallies.items()
    ]


def _sample(config: SweepConfig, manifest: Manifest, source: FeatureSource) -> tuple[list[Tensor], list[FeatureSpread]]:
    """Draw the same random frames from every layer, and collect the spread of all frames."""
    there = sum(source.count(row.num_samples_16k) for row in manifest.utterances)
    size = max(1, min(config.fit_frames, there))
    sample = FrameSample(size, source.dim, num_layers=len(source.layers), seed=config.seed)
    spreads = [FeatureSpread(source.dim) for _ in source.layers]
    for piece in extract(source, config.data, manifest, manifest.utterances, title=f"{source.name}: frames to fit"):
        sample.add(piece.row.id, piece.layers, start=piece.start, num_frames=piece.num_frames)
        for layer, spread in zip(piece.layers, spreads, strict=True):
            spread.add(layer.cpu().numpy())
    frames = sample.gather(Ranks(rank=0, world_size=1, device=pick_device()))
    if not len(frames[0]):
        raise LabelError(f"{source.name}: no utterance with phones has usable audio; see the reasons above")
    return frames, spreads


def _units(
    config: SweepConfig, manifest: Manifest, source: FeatureSource, fitted: dict[tuple[int, int], KMeans]
) -> Iterator[tuple[str, dict[tuple[int, int], np.ndarray]]]:
    """Yield the (frames,) units of each utterance by layer index and K."""
    pieces: dict[tuple[int, int], list[np.ndarray]] = {key: [] for key in fitted}
    for piece in extract(source, config.data, manifest, manifest.utterances, title=f"{source.name}: labels"):
        for key, kmeans in fitted.items():
            pieces[key].append(kmeans.predict(piece.layers[key[0]]).cpu().numpy())
        if piece.is_last:
            yield piece.row.id, {key: np.concatenate(found) for key, found in pieces.items()}
            pieces = {key: [] for key in fitted}


def _name(row: SweepRow) -> str:
    if row.kind == "model":
        return f"layer {row.layer}"
    return f"layer {row.layer} of {row.source}" if row.layer else row.source


def _to_json(rows: Sequence[SweepRow]) -> str:
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def _from_json(text: str) -> list[SweepRow]:
    return [SweepRow(**row | {"quality": UnitQuality(**row["quality"])}) for row in json.loads(text)]


def _table(rows: Sequence[SweepRow], suggestion: str, manifest: Manifest) -> str:
    """Return the rows as a Markdown table below the suggestion."""
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
    lines = [suggestion, "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        quality = row.quality
        shares = f"{quality.pnmi:.3f} | {row.chance:.3f} | {quality.phone_purity:.3f} | {quality.cluster_purity:.3f}"
        lines.append(
            f"| {row.source} | {row.layer or '-'} | {row.clusters} | {shares} | {100 * quality.coverage:.0f} % "
            f"| {quality.perplexity:.0f} | {1000 * quality.unit_segment_s:.0f} "
            f"| {row.effective_rank:.1f} of {row.dim} |"
        )
    phone_ms = 1000 * np.mean([row.quality.phone_segment_s for row in rows])
    minutes = manifest.duration_s / 60
    lines += [
        "",
        f"{len(manifest.utterances)} utterances, {minutes:.1f} min; a phone lasts {phone_ms:.0f} ms on average. "
        "By chance: PNMI of the same units shifted by half their utterance.",
    ]
    return "\n".join(lines) + "\n"
