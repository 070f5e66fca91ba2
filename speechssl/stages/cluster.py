"""Stage `cluster`: audio -> features -> k-means -> frame labels; features are written to disk only on request.

Centroids are fitted on a sample of frames whose size does not grow with the audio; then every utterance is labelled as
its features are computed. Under torchrun each process labels its share of the utterances; the result is the same as
that of one process.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from speechssl.atomic import write_atomically
from speechssl.config import configuration
from speechssl.data.labels import FrameLabels, LabelSource, read_labels, write_labels
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ConfigError
from speechssl.hub.model_formats import read_saved
from speechssl.parallel import Ranks, pick_device, start_ranks
from speechssl.stages.extract import ExtractFeaturesConfig, extract_features
from speechssl.stages.feature_source import (
    ExtractConfig,
    FeatureSource,
    Piece,
    check_fitted_on,
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
from speechssl.stages.stored import StoredFeatures, stored_features
from speechssl.train.run_folder import hold_run_folder
from speechssl.train.runlog import progress_bar
from speechssl.units.kmeans import KMeans
from speechssl.units.quality import measure_units, read_phones
from speechssl.units.reservoir import FrameSample

__all__ = ["ClusterConfig", "LabelParts", "cluster"]

_LABELS_A_PART = 10**6  # three hours of MFCC


class LabelParts:
    """A folder of partial label files, each written once and whole."""

    def __init__(self, folder: Path, source: LabelSource, *, rank: int) -> None:
        """Open the folder for one process.

        Args:
            folder: folder of the parts of all processes.
            source: origin of the labels; parts from another origin are not read.
            rank: rank of this process, which keeps file names apart.
        """
        self.folder, self.source, self.rank = folder, source, rank
        self._kind = np.int16 if source.clusters < 2**15 else np.int32
        self._unfinished: list[Tensor] = []  # pieces of one utterance
        self._units: dict[str, np.ndarray] = {}
        self._count = 0

    def add(self, utterance_id: str, units: Tensor, *, is_last: bool) -> None:
        """Add the (frames,) units of a piece of an utterance; write a part when enough have accumulated."""
        self._unfinished.append(units.cpu())
        if is_last:
            self._units[utterance_id] = torch.cat(self._unfinished).numpy().astype(self._kind)
            self._count += len(self._units[utterance_id])
            self._unfinished = []
        if self._count >= _LABELS_A_PART:
            self.flush()

    def flush(self) -> None:
        """Write the units added since the last part."""
        if self._units:
            written = len(list(self.folder.glob(f"{self.rank:03d}-*.tsv")))
            path = self.folder / f"{self.rank:03d}-{written:05d}.tsv"
            write_labels(path, FrameLabels(source=self.source, units=self._units))
        self._units, self._count = {}, 0

    def read(self) -> dict[str, np.ndarray]:
        """Return the units of all processes, keyed by utterance id.

        Raises:
            LabelError: a part is broken.
        """
        units: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.tsv")):
            part = read_labels(path)
            if part.source == self.source:
                units |= part.units
        return units

    def remove(self) -> None:
        """Remove the parts of all processes."""
        shutil.rmtree(self.folder, ignore_errors=True)


@configuration
class ClusterConfig:
    """Hidden units for masked prediction: iteration 1 uses MFCC, later ones a layer of the previous model."""

    out: Path  # folder for kmeans.safetensors, labels.tsv and, with phones, quality.json
    data: DataConfig = DataConfig(manifests=())  # empty with a folder of features: all its utterances
    features: Literal["mfcc", "log_mel", "layer"] | Path = "mfcc"  # or a folder written by `speechssl extract`
    checkpoint: Path | None = None  # run or converted model, for features=layer
    layer: int = 6  # counted from 1; also selects among the layers in a folder of features
    cmn: bool = False  # subtract the mean of each utterance from its MFCC or log-mel: for pools of many recordings
    extract: ExtractConfig = ExtractConfig()
    kmeans: Path | None = None  # label with these centroids; the settings of the fit below are then ignored
    clusters: int = 100
    iterations: int = 100
    standardise: bool = False
    fit_hours: float = 10.0  # hours of audio for the fit, whole utterances drawn at random
    fit_frames: int | Literal["all"] | None = None  # frames drawn from these hours and held in memory; None: 512
    # per cluster (HuBERT: all); all: every frame of a folder of features, read from disk, whatever fit_hours says
    dump: Literal["none", "float16", "float32"] = "none"  # also write the features; reads the audio once more
    phones: Path | None = None  # alignments against which the units are measured
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features == "layer" and self.checkpoint is None:
            raise ConfigError("features=layer needs checkpoint: name the folder of a pretraining run")
        if self.features == "layer" and self.cmn:
            raise ConfigError("cmn=true is for mfcc and log_mel, a layer is already normalised; leave the key out")
        if self.cmn and isinstance(self.features, Path):
            raise ConfigError(
                "cmn=true is for mfcc and log_mel; a folder of features records its own, leave the key out"
            )
        if self.dump != "none" and isinstance(self.features, Path):
            raise ConfigError(
                f"dump={self.dump}: the features of {self.features} are on disk already; leave the key out"
            )
        if self.fit_frames == "all" and not isinstance(self.features, Path):
            raise ConfigError(
                f"fit_frames=all needs features on disk, found features={self.features}; write them with "
                "`speechssl extract --format shards` and name the folder, or set fit_frames to a number"
            )
        if isinstance(self.fit_frames, int) and self.fit_frames < self.clusters:
            raise ConfigError(
                f"fit_frames={self.fit_frames} cannot make {self.clusters} clusters; raise it, or leave the key out"
            )


def cluster(config: ClusterConfig) -> Path:
    """Fit k-means and label every utterance; return the label file. A finished run is not repeated.

    An interrupted run resumes with its k-means and with the utterances that have no labels yet.

    Raises:
        LabelError: the checkpoint lacks the layer, there are too few frames for the clusters, or the k-means was
            fitted on other features.
    """
    ranks = start_ranks()
    with hold_run_folder(config.out, config, ranks):
        return _cluster(config, ranks)


def _cluster(config: ClusterConfig, ranks: Ranks) -> Path:
    path = config.out / "labels.tsv"
    if path.exists():
        return path
    source = feature_source(config)
    if isinstance(source, StoredFeatures) and not config.data.manifests:
        manifest = source.manifest
    else:
        manifest = read_data(config.data)
        if ranks.is_first and not isinstance(source, StoredFeatures):
            tell_notes(refuse_audio(Reading(section="data", manifest=manifest, data=config.data, window=source.window)))
    kmeans = _centroids(config, manifest, source, ranks)
    parts = _label(config, manifest, source, kmeans, ranks)
    if config.dump != "none":
        extract_features(_dump(config))
    ranks.wait()
    if ranks.is_first:
        _finish(config, manifest, parts, path)
    ranks.wait()
    return path


def feature_source(config: ClusterConfig) -> FeatureSource | StoredFeatures:
    """Build the source of features that `config.features` names.

    Raises:
        LabelError: the checkpoint has fewer layers than requested, or the folder does not hold the features.
        ConfigError: a shift is asked for features that were computed before.
    """
    if isinstance(config.features, Path):
        if config.data.shift is not None:
            raise ConfigError(
                f"data.shift={config.data.shift}: {config.features} holds features already, in which no audio can be "
                f"shifted; extract them with `speechssl extract ... --shift {config.data.shift}`, and leave the key out"
            )
        return stored_features(config.features, config.layer)
    if config.features != "layer" or config.checkpoint is None:
        return front_end("mfcc" if config.features == "layer" else config.features, config.data.audio, cmn=config.cmn)
    saved = read_saved(config.checkpoint)
    return trunk(saved, known_layers([config.layer], saved), config.data, config.extract)


def _pieces(
    config: ClusterConfig,
    manifest: Manifest,
    source: FeatureSource | StoredFeatures,
    rows: Sequence[Utterance],
    *,
    title: str,
) -> Iterator[Piece]:
    """Compute the features of utterances, or read them."""
    if isinstance(source, StoredFeatures):
        return source.pieces(config.data, rows, title=title)
    return extract(source, config.data, manifest, rows, title=title)


def _centroids(
    config: ClusterConfig, manifest: Manifest, source: FeatureSource | StoredFeatures, ranks: Ranks
) -> KMeans:
    """Return the k-means of this run: the one on disk, the one that the recipe names, or a new one."""
    path = config.out / "kmeans.safetensors"
    if not path.exists() and config.kmeans is None:
        _fit(config, manifest, source, ranks, path)
    elif not path.exists() and ranks.is_first:
        given = KMeans.load(config.kmeans or path)
        check_fitted_on(given, source, where=config.kmeans or path)
        given.save(path)
    ranks.wait()
    kmeans = KMeans.load(path)
    check_fitted_on(kmeans, source, where=path)
    kmeans.device = str(pick_device())
    return kmeans


def _fit(
    config: ClusterConfig, manifest: Manifest, source: FeatureSource | StoredFeatures, ranks: Ranks, path: Path
) -> None:
    """Fit centroids to a sample of frames in memory, or to all frames on disk."""
    kmeans = KMeans(
        n_clusters=config.clusters, max_iter=config.iterations, standardise=config.standardise, seed=config.seed
    )
    if config.fit_frames == "all" and isinstance(source, StoredFeatures):
        kmeans = _fit_all(config, manifest, source, kmeans, ranks)
        if ranks.is_first:
            kmeans.save(path)
        return
    chosen = draw_hours(manifest.utterances, config.fit_hours, seed=config.seed, purpose="kmeans sample")
    there = sum(source.count(row.num_samples_16k) for row in chosen)
    wanted = config.fit_frames if isinstance(config.fit_frames, int) else 512 * config.clusters
    sample = FrameSample(max(1, min(wanted, there)), source.dim, seed=config.seed)
    share = chosen[ranks.rank :: ranks.world_size]  # each process draws from its share, the first fits
    for piece in _pieces(config, manifest, source, share, title="features to fit"):
        sample.add(piece.row.id, piece.layers, start=piece.start, num_frames=piece.num_frames)
    (frames,) = sample.gather(ranks)
    if ranks.is_first:
        fit_kmeans(frames, kmeans, provenance(source, source.layers[0], chosen)).save(path)


def _fit_all(config: ClusterConfig, manifest: Manifest, source: StoredFeatures, kmeans: KMeans, ranks: Ranks) -> KMeans:
    """Fit centroids to all frames, shared among the processes; an interrupted fit resumes at its last iteration."""
    rows = manifest.utterances
    kmeans.device = str(pick_device())
    with progress_bar(f"{source.name}: k-means {kmeans.n_clusters}", kmeans.max_iter) as (bar, task):
        return kmeans.fit(
            source.points(config.data, rows, ranks),
            ranks=ranks,
            provenance=provenance(source, source.layers[0], rows),
            unfinished=config.out / "kmeans.unfinished",
            report=lambda step: bar.update(task, completed=step.iteration),
        )


def _label(
    config: ClusterConfig, manifest: Manifest, source: FeatureSource | StoredFeatures, kmeans: KMeans, ranks: Ranks
) -> LabelParts:
    """Label this process's share of the utterances that have no labels yet."""
    made_by = LabelSource(
        clusters=kmeans.n_clusters,
        hop=source.hop,
        window=source.window,
        features=source.title(source.layers[0]),
        kmeans=kmeans.fingerprint,
        settings=source.about(source.layers[0]),
    )
    parts = LabelParts(config.out / "parts", made_by, rank=ranks.rank)
    done = parts.read()
    ranks.wait()  # no process may write parts before all have read which are done
    rows = [row for row in manifest.utterances if row.id not in done][ranks.rank :: ranks.world_size]
    for piece in _pieces(config, manifest, source, rows, title="labels"):
        parts.add(piece.row.id, kmeans.predict(piece.layers[0]), is_last=piece.is_last)
    parts.flush()
    return parts


def _dump(config: ClusterConfig) -> ExtractFeaturesConfig:
    """Return the extraction that writes the features of this run, to be read by `features=` of another run."""
    is_layer = config.features == "layer"
    return ExtractFeaturesConfig(
        out=config.out / "features",
        data=config.data,
        model=str(config.checkpoint if is_layer else config.features),
        layers=(config.layer,) if is_layer else (),
        cmn=config.cmn,
        format="shards",
        dtype="float16" if config.dump == "float16" else "float32",
        extract=config.extract,
    )


def _finish(config: ClusterConfig, manifest: Manifest, parts: LabelParts, path: Path) -> None:
    """Join the labels of all processes, measure their quality and write the label file."""
    units = parts.read()
    labels = FrameLabels(
        source=parts.source, units={row.id: units[row.id] for row in manifest.utterances if row.id in units}
    )
    tell_left_out([row.id for row in manifest.utterances if row.id not in units], "bad audio")
    if config.phones is not None:
        quality = measure_units(labels, read_phones(config.phones))
        write_atomically(config.out / "quality.json", json.dumps(dataclasses.asdict(quality), indent=1) + "\n")
    write_labels(path, labels)
    parts.remove()
