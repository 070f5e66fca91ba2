"""Stage `cluster`: audio -> features -> k-means -> frame labels. Features are never on disk."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from speechssl.config import configuration
from speechssl.data.audio import SAMPLE_RATE, AudioConfig
from speechssl.data.batching import seeded_generator
from speechssl.data.labels import FrameLabels, LabelSource, write_labels
from speechssl.data.manifest import Manifest, Utterance, write_atomically
from speechssl.errors import ConfigError, LabelError
from speechssl.parallel import pick_device
from speechssl.saved import SavedModel
from speechssl.score.clusters import measure_units, read_phones
from speechssl.stages.data import DataConfig, like_training, read_data, read_waveforms, tell_left_out
from speechssl.train.checkpoint import claim_run_folder
from speechssl.train.runlog import progress_bar
from speechssl.units.features import MFCC_DIM, MFCC_HOP, MFCC_WINDOW, centred, mfcc
from speechssl.units.kmeans import KMeans, Provenance

__all__ = ["ClusterConfig", "cluster"]


@configuration
class ClusterConfig:
    """Hidden units for masked prediction: iteration 1 takes MFCC, later ones a layer of the model before."""

    out: Path  # gets kmeans.safetensors, labels.tsv and, with phones, quality.json
    data: DataConfig
    features: Literal["mfcc", "layer"] = "mfcc"
    checkpoint: Path | None = None  # of a run or a converted model, for features=layer
    layer: int = 6  # counted from 1
    cmn: bool = False  # take the utterance's mean off its MFCC: for pools of many recordings
    clusters: int = 100
    iterations: int = 100
    standardise: bool = False
    fit_hours: float = 10.0  # audio the centroids are fitted on, whole utterances drawn at random
    phones: Path | None = None  # alignments to measure the units against
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features == "layer" and self.checkpoint is None:
            raise ConfigError("features=layer needs checkpoint: name the folder of a pretraining run")
        if self.features == "layer" and self.cmn:
            raise ConfigError("cmn=true is for mfcc, a layer normalises by itself; leave the key out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """A function from waveform to features, its frame geometry and the waveforms it wants."""

    name: str
    audio: AudioConfig
    hop: int
    window: int
    extract: Callable[[Tensor], Tensor]  # (time,) to (frames, dim)
    settings: dict[str, str | int]  # of the front end, or the checkpoint's hash and the layer


def cluster(config: ClusterConfig) -> Path:
    """Fit k-means and label every utterance; return the label file. A finished run is not done again."""
    claim_run_folder(config.out, config)
    path = config.out / "labels.tsv"
    if path.exists():
        return path
    manifest = read_data(config.data)
    source = feature_source(config)
    kmeans = _fit(config, manifest, source)
    labels = _label(config, manifest, source, kmeans)
    tell_left_out([row.id for row in manifest.utterances if row.id not in labels.units], "bad audio")
    if config.phones is not None:
        quality = measure_units(labels, read_phones(config.phones))
        write_atomically(config.out / "quality.json", json.dumps(dataclasses.asdict(quality), indent=1) + "\n")
    write_labels(path, labels)
    return path


def feature_source(config: ClusterConfig) -> FeatureSource:
    """Build what `config.features` names.

    Raises:
        LabelError: the checkpoint has fewer layers than asked for.
    """
    if config.features == "mfcc" or config.checkpoint is None:
        settings: dict[str, str | int] = {"dim": MFCC_DIM, "hop": MFCC_HOP, "window": MFCC_WINDOW}
        if config.cmn:
            settings["cmn"] = True
        return FeatureSource(
            name="mfcc, cmn" if config.cmn else "mfcc",
            audio=config.data.audio,
            hop=MFCC_HOP,
            window=MFCC_WINDOW,
            extract=(lambda waveform: centred(mfcc(waveform))) if config.cmn else mfcc,
            settings=settings,
        )
    saved = SavedModel.read(config.checkpoint)
    encoder, name = saved.encoder(), saved.name
    if not 1 <= config.layer <= len(encoder.transformer.layers):
        raise LabelError(f"layer={config.layer}: {name} has layers 1 to {len(encoder.transformer.layers)}")
    device = pick_device()
    encoder.to(device)

    @torch.no_grad()
    def extract(waveform: Tensor) -> Tensor:
        num_samples = torch.tensor([len(waveform)], device=device)
        return encoder(waveform[None].to(device), num_samples, num_layers=config.layer).last[0]

    return FeatureSource(
        name=f"{name} layer {config.layer}",
        audio=like_training(config.data, saved.description.audio, where=name).audio,
        hop=encoder.config.hop,
        window=encoder.config.window,
        extract=extract,
        settings={"checkpoint": saved.fingerprint(), "layer": config.layer},
    )


def _fit(config: ClusterConfig, manifest: Manifest, source: FeatureSource) -> KMeans:
    path = config.out / "kmeans.safetensors"
    if path.exists():
        return KMeans.load(path)
    order = torch.randperm(len(manifest.utterances), generator=seeded_generator(config.seed, "kmeans sample")).tolist()
    chosen, hours = [], 0.0
    for index in order:
        if hours < config.fit_hours:
            chosen.append(manifest.utterances[index])
            hours += chosen[-1].duration_s / 3600
    frames = torch.cat([features for _, features in _extract(config, manifest, chosen, source, "features to fit")])
    kmeans = fit_kmeans(frames.to(pick_device()), config, _provenance(source, chosen))
    kmeans.save(path)
    return kmeans


def fit_kmeans(frames: Tensor, config: ClusterConfig, provenance: Provenance) -> KMeans:
    """Fit centroids to (frames, dim) features, with a bar of the iterations."""
    kmeans = KMeans(
        n_clusters=config.clusters, max_iter=config.iterations, standardise=config.standardise, seed=config.seed
    )
    with progress_bar(f"k-means {config.clusters}", config.iterations) as (bar, task):
        return kmeans.fit(frames, provenance=provenance, report=lambda step: bar.update(task, completed=step.iteration))


def _provenance(source: FeatureSource, chosen: list[Utterance]) -> Provenance:
    ids = hashlib.blake2b("\n".join(row.id for row in chosen).encode(), digest_size=8).hexdigest()
    hours = sum(row.duration_s for row in chosen) / 3600
    return Provenance(
        source=source.name,
        settings=dict(source.settings),
        frames_per_second=SAMPLE_RATE / source.hop,
        audio={"utterances": len(chosen), "hours": round(hours, 4), "ids": ids},
    )


def _label(config: ClusterConfig, manifest: Manifest, source: FeatureSource, kmeans: KMeans) -> FrameLabels:
    kind = np.int16 if config.clusters < 2**15 else np.int32
    units = {
        row.id: kmeans.predict(features.cpu()).numpy().astype(kind)
        for row, features in _extract(config, manifest, manifest.utterances, source, "labels")
    }
    return FrameLabels(
        source=LabelSource(
            clusters=config.clusters,
            hop=source.hop,
            window=source.window,
            features=source.name,
            kmeans=kmeans.fingerprint,
            settings=dict(source.settings),
        ),
        units=units,
    )


def _extract(
    config: ClusterConfig,
    manifest: Manifest,
    rows: list[Utterance] | tuple[Utterance, ...],
    source: FeatureSource,
    title: str,
) -> Iterator[tuple[Utterance, Tensor]]:
    """Yield the features of each utterance; bad audio stops, or is named and passed over, as configured."""
    read = read_waveforms(config.data, manifest, rows, audio=source.audio, window=source.window, title=title)
    return ((row, source.extract(waveform)) for row, waveform in read)
