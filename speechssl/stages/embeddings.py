"""Embeddings of utterances: features of a model's layers, or of a front end, pooled over frames; or those of a head.

The features are computed here, or read from a folder that `extract` wrote. They are pooled piece by piece, so that
memory holds one vector for each utterance and layer.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.config import configuration
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ConfigError, LabelError
from speechssl.features.description import DESCRIPTION
from speechssl.features.feature_folder import FeatureFolder
from speechssl.hub.model_formats import read_saved
from speechssl.parallel import pick_device
from speechssl.stages.feature_source import (
    FRONT_ENDS,
    ExtractConfig,
    FeatureSource,
    Piece,
    front_end,
    in_batches,
    joined,
    known_layers,
    pieces_of,
    trunk,
    weighted,
)
from speechssl.stages.head_folder import DESCRIPTION as HEAD
from speechssl.stages.head_folder import LoadedHead, load_head
from speechssl.stages.preflight_audio import Reading, refuse_audio, tell_notes
from speechssl.stages.reading_data import DataConfig, read_waveforms
from speechssl.tasks.heads import Embedding

__all__ = ["EmbeddingConfig", "Embeddings", "Source", "embed", "embedding_source"]

Floats = NDArray[np.float64]
Source = FeatureSource | FeatureFolder | LoadedHead


@configuration
class EmbeddingConfig:
    """Which features, and how they are pooled."""

    model: str  # mfcc, log_mel, a folder of features, of a head of `probe`, or any model: folder, file, hf://org/name
    layers: (
        tuple[int, ...] | Literal["all", "weighted"]
    ) = ()  # counted from 1; 0: the input of the first; empty: the last one
    weights: tuple[float, ...] = ()  # one weight per layer, for layers=weighted; empty: equal weights
    random_weights: int | None = None  # seed: the same architecture with random weights instead of the model
    cmn: bool = False  # subtract the mean of each utterance from its MFCC or log-mel, whose mean is then 0
    pool: Literal["mean", "mean_std"] = "mean"  # over frames; mean_std: and standard deviations
    extract: ExtractConfig = ExtractConfig()

    def __post_init__(self) -> None:
        if self.model in FRONT_ENDS and (self.layers or self.random_weights is not None):
            raise ConfigError(f"{self.model} has neither layers nor weights; leave these options out, or name a model")
        if self.cmn and self.model not in FRONT_ENDS:
            raise ConfigError(f"cmn is for mfcc and log_mel, {self.model} normalises by itself; leave it out")
        if self.cmn and self.pool == "mean":
            raise ConfigError("with cmn the mean of every utterance is 0; pool=mean_std keeps the deviations")
        if self.weights and self.layers != "weighted":
            raise ConfigError("weights are for layers=weighted; add it, or leave the weights out")


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Pooled features of some utterances."""

    ids: tuple[str, ...]
    titles: dict[int, str]  # readable name of each layer; 0 for what is not a layer
    layers: dict[int, Floats]  # (utterances, dim) of each layer
    left_out: dict[str, str]  # reasons by id


def embedding_source(config: EmbeddingConfig, data: DataConfig) -> Source:
    """Return where features come from: a folder of features, a front end, a model, or a head and its model.

    Raises:
        CheckpointError: the model cannot be read.
        LabelError: it lacks a layer.
    """
    kind = FRONT_ENDS.get(config.model)
    if kind is not None:
        return front_end(kind, data.audio, cmn=config.cmn)
    if (Path(config.model) / DESCRIPTION).is_file():
        if config.random_weights is not None or config.layers == "weighted":
            raise ConfigError(f"{config.model} is a folder of features; name the model for this, or extract them so")
        return FeatureFolder(Path(config.model))
    if (Path(config.model) / HEAD).is_file():
        return _head(config)
    saved = read_saved(config.model)
    last = saved.description.encoder.transformer.num_layers
    wanted = () if isinstance(config.layers, str) else config.layers or (last,)
    source = trunk(
        saved,
        known_layers(wanted, saved, first=0 if 0 in wanted else 1),
        data,
        config.extract,
        untrained_seed=config.random_weights,
    )
    if config.layers != "weighted":
        return source
    if config.weights and len(config.weights) != last:
        raise LabelError(
            f"{config.model} has {last} layers, {len(config.weights)} weights were given; give one for each"
        )
    return weighted(source, config.weights or (1 / last,) * last)


def embed(
    source: Source,
    config: EmbeddingConfig,
    data: DataConfig,
    manifest: Manifest,
    rows: Sequence[Utterance],
) -> Embeddings:
    """Pool the features of utterances.

    Args:
        source: from `embedding_source`.
        config: how features are pooled, and the layers that are read from a folder.
        data: how audio is read, and whether a bad file stops the run.
        manifest: manifest of the rows.
        rows: utterances to embed.

    Raises:
        AudioError: a file cannot be used, and `data.bad_audio` says to stop.
        LabelError: no utterance can be used, one has features that are not finite, or a folder lacks a layer or an
            utterance, unless `data.bad_audio` is skip.
    """
    left_out: dict[str, str] = {}
    if isinstance(source, FeatureFolder):
        found, titles = _read(source, config, rows, data, left_out)
    else:
        features = source.source if isinstance(source, LoadedHead) else source
        part = dataclasses.replace(manifest, utterances=tuple(rows))
        tell_notes(refuse_audio(Reading(section="data", manifest=part, data=data, window=features.window)))
        pieces = _pieces(features, data, manifest, rows, left_out)
        if isinstance(source, LoadedHead):
            found, titles = _by_head(source, pieces), {0: config.model}
        else:
            found, titles = _pooled(pieces, config.pool), {layer: source.title(layer) for layer in source.layers}
    order = [row.id for row in rows if row.id in found]
    if not order:
        first = next(iter(left_out.items()), ("none", "the manifest lists none"))
        raise LabelError(f"{config.model}: no utterance could be used; the first, {first[0]}: {first[1]}")
    layers = {layer: np.stack([found[key][index] for key in order]) for index, layer in enumerate(titles)}
    for layer, vectors in layers.items():
        is_finite = np.isfinite(vectors).all(1)
        if not is_finite.all():
            key = order[int(np.argmin(is_finite))]
            raise LabelError(
                f"{titles[layer]}: the features of {key} are not finite; check the model with `speechssl info`, or "
                "leave the utterance out"
            )
    return Embeddings(ids=tuple(order), titles=titles, layers=layers, left_out=left_out)


class _Pool:
    """Sums over the frames of one utterance, for all layers."""

    def __init__(self, pool: str) -> None:
        self._pool, self._frames = pool, 0
        self._sums: list[Floats] = []

    def add(self, layers: Sequence[NDArray[np.floating]]) -> None:
        """Add (frames, dim) of each layer."""
        sums = []
        for layer in layers:
            frames = np.asarray(layer, np.float64)
            sums.append(np.stack([frames.sum(0), (frames**2).sum(0)]))
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._frames += len(layers[0])

    def vectors(self) -> list[Floats]:
        """Return the (dim,) mean of each layer, followed by its deviations if these are wanted."""
        found = []
        for total, squares in self._sums:
            mean = total / self._frames
            deviation = np.sqrt(np.maximum(squares / self._frames - mean**2, 0))
            found.append(np.concatenate([mean, deviation]) if self._pool == "mean_std" else mean)
        return found


def _head(config: EmbeddingConfig) -> LoadedHead:
    """Load a head that has embeddings.

    Raises:
        ConfigError: it has none, or has its own layers and pooling, which the configuration would change.
    """
    if config.layers or config.random_weights is not None or config.pool != "mean":
        raise ConfigError(f"{config.model} is a head, which has layers and pooling of its own; leave these options out")
    head = load_head(Path(config.model))
    if not isinstance(head.network, Embedding):
        raise ConfigError(
            f"{config.model}: a head of the kind {head.head.kind} has no vector of an utterance; train one with "
            "task.kind=speaker_embedding"
        )
    return head


def _pieces(
    source: FeatureSource, data: DataConfig, manifest: Manifest, rows: Sequence[Utterance], left_out: dict[str, str]
) -> Iterator[Piece]:
    """Yield the features of utterances, in the order that the source is fast with."""
    read = read_waveforms(
        data,
        manifest,
        in_batches(source, rows),
        audio=source.audio,
        window=source.window,
        title=f"{source.name}: embeddings",
        left_out=left_out,
    )
    return pieces_of(source, read)


def _pooled(pieces: Iterable[Piece], pooling: str) -> dict[str, list[Floats]]:
    found: dict[str, list[Floats]] = {}
    pool = _Pool(pooling)
    for piece in pieces:
        pool.add([layer.cpu().numpy() for layer in piece.layers])
        if piece.is_last:
            found[piece.row.id] = pool.vectors()
            pool = _Pool(pooling)
    return found


@torch.no_grad()
def _by_head(head: LoadedHead, pieces: Iterable[Piece]) -> dict[str, list[Floats]]:
    """Compute the embedding of each utterance alone, all its frames in memory."""
    assert isinstance(head.network, Embedding)
    found: dict[str, list[Floats]] = {}
    for row, each in joined(pieces):
        layers = torch.stack(each)[None].to(pick_device())
        is_valid = torch.ones(1, layers.shape[2], dtype=torch.bool, device=layers.device)
        found[row.id] = [head.network.embedding(layers, is_valid)[0].cpu().double().numpy()]
    return found


def _read(
    folder: FeatureFolder,
    config: EmbeddingConfig,
    rows: Sequence[Utterance],
    data: DataConfig,
    left_out: dict[str, str],
) -> tuple[dict[str, list[Floats]], dict[int, str]]:
    description = folder.description
    if config.pool == "mean_std" and description.pool == "mean":
        raise ConfigError(f"{folder.path}: holds means, of which there is no deviation; extract without --pool mean")
    there = [stream.layer for stream in description.streams]
    wanted = there if config.layers == "all" else config.layers or there[-1:]
    streams = [folder.stream(int(layer)) for layer in wanted]
    ids = [row.id for row in rows]
    if data.bad_audio == "skip":
        left_out |= {key: description.left_out.get(key, "no features") for key in ids if key not in folder.entries}
        ids = [key for key in ids if key in folder.entries]
    found: dict[str, list[Floats]] = {key: [] for key in ids}
    for stream in streams:
        for key, frames in folder.read(ids, layer=stream.layer):
            pool = _Pool(config.pool)
            pool.add([np.asarray(frames)])
            found[key] += pool.vectors()
    return found, {stream.layer: f"{description.model}, {stream.name}" for stream in streams}
