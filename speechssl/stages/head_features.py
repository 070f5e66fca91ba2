"""Features of frozen models for heads: computed once by `extract`, kept in a folder that several probes may share.

Where a head reads means, only the mean of each layer is kept, one row per utterance, in memory. Frames
are in memory if they fit, else they are read from memory-mapped files batch by batch.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from speechssl import fingerprint
from speechssl.config import to_dict
from speechssl.data.utterances import Manifest, Utterance
from speechssl.features.description import DESCRIPTION
from speechssl.features.feature_folder import FeatureFolder
from speechssl.hub.model_formats import read_saved
from speechssl.model.frames import within
from speechssl.stages.extract import ExtractFeaturesConfig, about_manifest, extract_features
from speechssl.stages.feature_source import known_layers
from speechssl.stages.head_answers import Split
from speechssl.stages.probe_config import ProbeConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.tuning_config import EncoderUse

__all__ = ["Kind", "LayerBatch", "ProbedModel", "SplitFeatures", "SplitFrames", "probed_models", "split_features"]

Kind = Literal["model", "random", "baseline"]
_TUNED: dict[EncoderUse, str] = {"frozen": "", "all": "fine-tuned", "lora": "with LoRA"}


@dataclass(frozen=True, kw_only=True)
class ProbedModel:
    """A source of features: frozen, or a model that learns with its heads."""

    name: str  # for people
    kind: Kind
    model: str  # mfcc, log_mel, or the model as the recipe names it
    layers: tuple[int, ...]  # counted from 1; 0: the input of the first layer, or the only one of a front end
    fingerprint: str | None  # hash of the model's parameters; None for a front end
    random_weights: int | None = None  # seed of random weights in their place
    encoder: EncoderUse = "frozen"


@dataclass(frozen=True, kw_only=True)
class LayerBatch:
    """Features of some utterances."""

    layers: Tensor  # (batch, layers, frames, dim) float32, 0 in the padding
    is_valid: Tensor  # (batch, frames) bool


@dataclass(frozen=True, kw_only=True)
class SplitFrames:
    """The utterances of a split and their frames, in the order of `rows`."""

    rows: tuple[Utterance, ...]
    layers: tuple[int, ...]
    dim: int
    hop: int  # samples from one frame to the next
    window: int  # samples in the window of one frame
    counts: tuple[int, ...]  # frames of each utterance; 1 for means

    def of_layer(self, layer: int) -> Self:
        """Return the frames of one layer alone."""
        return dataclasses.replace(self, layers=(layer,))


@dataclass(frozen=True, kw_only=True)
class SplitFeatures(SplitFrames):
    """Frames with their features."""

    read: Callable[[Sequence[int], Sequence[int]], list[Tensor]]  # utterances, layers to (layers, frames, dim) each

    def batch(self, indices: Sequence[int], device: torch.device) -> LayerBatch:
        """Return the features of some utterances, padded."""
        each = self.read(indices, self.layers)
        counts = torch.tensor([features.shape[1] for features in each])
        if len(set(counts.tolist())) == 1:
            layers = torch.stack(each)
        else:
            layers = torch.zeros(len(each), len(self.layers), int(counts.max()), self.dim)
            for padded, features in zip(layers, each, strict=True):
                padded[:, : features.shape[1]] = features
        return LayerBatch(layers=layers.to(device), is_valid=within(counts, layers.shape[2]).to(device))


def probed_models(config: ProbeConfig) -> list[ProbedModel]:
    """Return what a recipe compares: its models, the first with random weights, the baselines; frozen ones first.

    Raises:
        LabelError: a model lacks a layer.
        CheckpointError: a model cannot be read.
    """
    found = []
    for path in config.models:
        saved = read_saved(path)
        layers = known_layers(config.layers, saved, first=0)
        model = ProbedModel(
            name=saved.name, kind="model", model=str(path), layers=layers, fingerprint=saved.fingerprint()
        )
        found.append(model)
    if config.random_weights:
        first = dataclasses.replace(found[0], name=f"random weights of {found[0].name}", kind="random")
        found.append(dataclasses.replace(first, random_weights=config.seed))
    found = [
        model if use == "frozen" else dataclasses.replace(model, name=f"{model.name}, {_TUNED[use]}", encoder=use)
        for use in sorted(config.encoder_uses, key=[*_TUNED].index)
        for model in found
    ]
    for kind in config.baselines:
        name = f"{kind}, cmn" if config.cmn else kind
        found.append(ProbedModel(name=name, kind="baseline", model=kind, layers=(0,), fingerprint=None))
    return found


def split_features(
    config: ProbeConfig, model: ProbedModel, split: Split, *, means: bool
) -> tuple[SplitFeatures, Split]:
    """Compute or find the features of a split.

    The whole manifest is computed, so that other tasks find its features. Bad audio that is skipped leaves the split.

    Args:
        config: the recipe.
        model: the source of the features.
        split: utterances with answers.
        means: whether the mean of each layer is enough.

    Raises:
        AudioError: audio cannot be used, and `bad_audio` says to stop.
    """
    folder = FeatureFolder(_extracted(config, model, split.data, split.manifest, means=means))
    split = split.only([row.id in folder.entries for row in split.rows], "bad audio")
    streams = [folder.stream(layer) for layer in model.layers]
    ids = [row.id for row in split.rows]
    counts = tuple(folder.entries[key].rows for key in ids)
    dim = streams[0].dim

    def read(indices: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """Read utterances in the order of their files, each layer in turn."""
        order = sorted(range(len(indices)), key=lambda place: _position(folder, ids[indices[place]]))
        found = [torch.empty(len(layers), counts[index], dim) for index in indices]
        for number, layer in enumerate(layers):
            arrays = folder.read((ids[indices[place]] for place in order), layer=layer)
            for place, (_, array) in zip(order, arrays, strict=True):
                found[place][number] = torch.from_numpy(np.array(array, np.float32))
        return found

    megabytes = sum(counts) * dim * len(model.layers) * 4 / 2**20
    kept = read(range(len(ids)), model.layers) if megabytes <= config.memory_mb or means else []

    def read_kept(indices: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        if tuple(layers) == model.layers:
            return [kept[index] for index in indices]
        places = [model.layers.index(layer) for layer in layers]
        return [kept[index][places] for index in indices]

    description = folder.description
    features = SplitFeatures(
        rows=split.rows,
        layers=model.layers,
        dim=dim,
        hop=description.hop,
        window=description.window,
        counts=counts,
        read=read_kept if kept else read,
    )
    return features, split


def _position(folder: FeatureFolder, key: str) -> tuple[str, int]:
    entry = folder.entries[key]
    return entry.file, int(entry.place) if entry.place.isdecimal() else 0


def _extracted(config: ProbeConfig, model: ProbedModel, data: DataConfig, manifest: Manifest, *, means: bool) -> Path:
    """Return the folder of the features of a manifest, named by a hash of all that they depend on.

    That is its utterances and where they lie, not its file: other manifests of the same utterances find them.
    """
    data = dataclasses.replace(
        data,
        manifests=tuple(path.absolute() for path in data.manifests),
        root=None if data.root is None else data.root.absolute(),
    )
    wanted = ExtractFeaturesConfig(
        out=Path(),
        data=data,
        model=model.model,
        layers=model.layers if model.kind != "baseline" else (),
        random_weights=model.random_weights,
        layer_norm=config.task.layer_norm,
        cmn=config.cmn and model.kind == "baseline",
        format="safetensors" if means else "shards",
        dtype="float32" if means else config.dtype,
        pool="mean" if means else "none",
        extract=config.extract,
        processes=config.processes,
    )
    described = to_dict(wanted) | {"out": "", "processes": 0, "model": model.fingerprint or model.model}
    described["data"] = {key: value for key, value in described["data"].items() if key not in ("manifests", "root")}
    described |= {"manifest": about_manifest(data, manifest)["hash"], "root": str(manifest.root.resolve())}
    name = re.sub(r"[^\w.-]+", "-", model.name)[-60:]
    folder = (config.features or config.out / "features") / f"{name}-{fingerprint.of_values(described)}"
    if not (folder / DESCRIPTION).exists():
        extract_features(dataclasses.replace(wanted, out=folder))
    return folder
