"""Encoders in memory: features of their layers, and hidden units, for audio in files and arrays.

They process audio with the functions of the commands: long audio in windows, many utterances in batches, normalised as
in training. On a CPU the results equal those of the commands bit for bit.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

import torch
from torch import Tensor

from speechssl.audio.reading import AudioConfig
from speechssl.data.given import Audio, Channels
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError, LabelError
from speechssl.hub.saved import Description, SavedModel
from speechssl.inference.results import Features, FrameTimes, Heard, Units, as_given, listed, waveform_of
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.precision import Precision
from speechssl.stages.feature_source import (
    ExtractConfig,
    FeatureSource,
    check_fitted_on,
    front_end,
    in_batches,
    layers_of,
    pieces_of,
    weighted,
)
from speechssl.tasks.pretraining import PretrainModel
from speechssl.units.kmeans import KMeans

# the overloads overlap, because a str is a sequence of str, too; the one for a single utterance comes first

__all__ = ["Encoder", "Layers", "Pretrained"]

Layers = int | Sequence[int] | Literal["all", "weighted"]


class Encoder:
    """A trunk of any method: features of its layers, and units of a k-means on them.

    Audio is a file name, an array or tensor of samples with their `sample_rate`, a list of these, or a manifest. One
    utterance gives one result, several give a list in their order.
    """

    def __init__(self, saved: SavedModel, encoder: SpeechEncoder, *, audio: AudioConfig, precision: Precision) -> None:
        """Wrap a trunk that is in evaluation mode and on its device; usually called by `load`.

        Args:
            saved: the saved model of the trunk.
            encoder: the trunk.
            audio: how its audio is read.
            precision: result of `choose_precision`; the trunk is prepared for it by `pack`.
        """
        self._saved, self.module, self._audio, self.precision = saved, encoder, audio, precision

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Explain the missing methods of a model that is not fine-tuned."""
            if name in ("transcribe", "align", "log_probs"):
                raise AttributeError(
                    f"{self.name}: is of kind {self.description.method}, and {name} needs a fine-tuned model; make one "
                    "with `speechssl finetune`"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        transformer = self.description.encoder.transformer
        return (
            f"{type(self).__name__}({self.name}: {self.description.method}, {transformer.num_layers} layers of "
            f"{transformer.dim}, {self.device})"
        )

    @property
    def name(self) -> str:
        """Folder and checkpoint."""
        return self._saved.name

    @property
    def description(self) -> Description:
        """Description of the model: architecture, objective, vocabulary, how its audio was read."""
        return self._saved.description

    @property
    def num_layers(self) -> int:
        """Layers of the Transformer; `features` counts them from 1."""
        return self.description.encoder.transformer.num_layers

    @property
    def dim(self) -> int:
        """Dimensions of each layer."""
        return self.description.encoder.transformer.dim

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.module.mask_vector.device

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of names, shapes and values of the parameters."""
        return self._saved.fingerprint()

    @overload
    def features(  # type: ignore[overload-overlap]
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        layers: Layers | None = None,
        weights: Sequence[float] | None = None,
        channels: Channels | None = None,
    ) -> Features: ...

    @overload
    def features(
        self,
        audio: Iterable[Audio] | Manifest,
        sample_rate: int | None = None,
        *,
        layers: Layers | None = None,
        weights: Sequence[float] | None = None,
        channels: Channels | None = None,
    ) -> list[Features]: ...

    def features(
        self,
        audio: Heard,
        sample_rate: int | None = None,
        *,
        layers: Layers | None = None,
        weights: Sequence[float] | None = None,
        channels: Channels | None = None,
    ) -> Features | list[Features]:
        """Compute layers of the Transformer.

        Args:
            audio: one utterance or several; as the class says.
            sample_rate: sample rate of arrays and tensors, in Hz.
            layers: the number of one, counted from 1; numbers of several; "all"; or "weighted", their weighted mean.
                None for the last. Layers above the highest one requested are not computed.
            weights: one per layer, for "weighted", divided by their sum; None for equal ones.
            channels: choice for multichannel audio, see `list_given`.

        Returns:
            (frames, dim) of one layer or the weighted mean, (layers, frames, dim) of several, with their times.

        Raises:
            ConfigError: the model lacks a layer, the weights do not match the layers, or there is no sample rate.
            AudioError: audio cannot be read or used.
        """
        wanted = self._layers(layers)
        factors = self._factors(layers, weights)
        source = self._source(tuple(sorted(set(wanted))), channels)
        place = [source.layers.index(layer) for layer in wanted]
        if factors is not None:
            source, place = weighted(source, factors), [0]
        is_one = factors is not None or isinstance(layers, SupportsIndex) or layers is None

        def result(found: list[Tensor]) -> Features:
            values = found[place[0]] if is_one else torch.stack([found[each] for each in place])
            frames = FrameTimes.of(len(found[0]), hop=source.hop, window=source.window)
            return Features(values=values, layers=wanted, frames=frames)

        each = self._computed(source, audio, sample_rate, channels)
        return as_given(audio, [result(found) for found in each])

    @overload
    def units(  # type: ignore[overload-overlap]
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        kmeans: KMeans | str | Path | None = None,
        layer: int | None = None,
        channels: Channels | None = None,
    ) -> Units: ...

    @overload
    def units(
        self,
        audio: Iterable[Audio] | Manifest,
        sample_rate: int | None = None,
        *,
        kmeans: KMeans | str | Path | None = None,
        layer: int | None = None,
        channels: Channels | None = None,
    ) -> list[Units]: ...

    def units(
        self,
        audio: Heard,
        sample_rate: int | None = None,
        *,
        kmeans: KMeans | str | Path | None = None,
        layer: int | None = None,
        channels: Channels | None = None,
    ) -> Units | list[Units]:
        """Find the hidden unit of each frame: the nearest centroid of a k-means, as in `speechssl cluster`.

        Args:
            audio: one utterance or several; as the class says.
            sample_rate: sample rate of arrays and tensors, in Hz.
            kmeans: file of `speechssl cluster` (kmeans.safetensors), or one in memory. None for a model pretrained by
                masked prediction: the most probable unit by its head.
            layer: layer of the centroids, if the k-means does not record it.
            channels: choice for multichannel audio, see `list_given`.

        Raises:
            LabelError: the k-means was fitted on other features, or there is none.
            AudioError: audio cannot be read or used.
        """
        if kmeans is None:
            if layer is not None:
                raise ConfigError("layer belongs to a k-means, and none is given; name one, or leave the layer out")
            return self._predicted_units(audio, sample_rate, channels)
        where = str(kmeans) if isinstance(kmeans, str | Path) else "the k-means"
        centroids = KMeans.load(Path(kmeans)) if isinstance(kmeans, str | Path) else kmeans
        source = self._labelled(centroids, layer, channels, where=where)

        def result(found: list[Tensor]) -> Units:
            frames = FrameTimes.of(len(found[0]), hop=source.hop, window=source.window)
            return Units(
                ids=centroids.predict(found[0]).cpu(), num_units=len(centroids.cluster_centers_), frames=frames
            )

        each = self._computed(source, audio, sample_rate, channels)
        return as_given(audio, [result(found) for found in each])

    def _predicted_units(self, audio: Heard, sample_rate: int | None, channels: Channels | None) -> Units | list[Units]:
        raise LabelError(
            f"{self.name}: has no head that predicts units; name a k-means, such as kmeans='kmeans.safetensors' from "
            "`speechssl cluster`"
        )

    def _layers(self, layers: Layers | None) -> tuple[int, ...]:
        """Return the numbers of layers.

        Raises:
            ConfigError: the model lacks a layer, or none is named.
        """
        there = range(1, self.num_layers + 1)
        if layers is None:
            return (self.num_layers,)
        if isinstance(layers, str):
            if layers not in ("all", "weighted"):
                raise ConfigError(f'layers={layers!r}: expected a number, several, "all" or "weighted"')
            return tuple(there)
        try:
            wanted = (index(layers),) if isinstance(layers, SupportsIndex) else tuple(map(index, layers))
        except TypeError:
            raise ConfigError(f'layers={layers!r}: expected a number, several, "all" or "weighted"') from None
        unknown = [layer for layer in wanted if layer not in there]
        if unknown or not wanted:
            raise ConfigError(f"layers={layers}: {self.name} has the layers 1 to {len(there)}; name one of them")
        return wanted

    def _factors(self, layers: Layers | None, weights: Sequence[float] | None) -> list[float] | None:
        """Return the weight of every layer, with sum 1; None if layers are not averaged.

        Raises:
            ConfigError: their number is wrong, or their sum is 0 or not finite.
        """
        if layers != "weighted":
            if weights is not None:
                raise ConfigError('weights are for layers="weighted"; leave them out')
            return None
        given = [1.0] * self.num_layers if weights is None else [float(weight) for weight in weights]
        total = sum(given)
        if len(given) != self.num_layers or not math.isfinite(total) or total == 0:
            raise ConfigError(
                f"weights: expected {self.num_layers}, one a layer, whose sum is not 0, found {len(given)} "
                f"of sum {total:g}"
            )
        return [weight / total for weight in given]

    def _audio_of(self, channels: Channels | None) -> AudioConfig:
        """Return how audio is read with this choice of channels."""
        audio = dataclasses.replace(self._audio, max_duration_s=math.inf)
        return dataclasses.replace(audio, channels=channels) if channels in ("mean", "first") else audio

    def _source(
        self, layers: tuple[int, ...], channels: Channels | None, *, settings: dict[str, str | int] | None = None
    ) -> FeatureSource:
        config, audio = ExtractConfig(precision=self.precision), self._audio_of(channels)
        return layers_of(self.module, layers, audio, config, name=self.name, settings=settings or {})

    def _labelled(self, kmeans: KMeans, layer: int | None, channels: Channels | None, *, where: str) -> FeatureSource:
        """Return the source of the features that a k-means was fitted on.

        Raises:
            LabelError: they belong to another model, or the layer is not known.
        """
        if not hasattr(kmeans, "cluster_centers_"):
            raise LabelError(f"{where}: is not fitted yet; call its fit first, or load one by KMeans.load")
        about = kmeans.provenance_
        audio = self._audio_of(channels)
        known = int(about.settings.get("layer", 0)) or (about.source or "unknown features")
        if layer is not None and about.settings and layer != known:
            said = f"of layer {known}" if isinstance(known, int) else f"of {known}, no layer"
            raise LabelError(f"{where}: is {said}, found layer={layer}; leave it out: the k-means records its own")
        if "checkpoint" not in about.settings and "hop" in about.settings:
            kind: Literal["mfcc", "log_mel"] = "mfcc" if about.source.startswith("mfcc") else "log_mel"
            audio = dataclasses.replace(audio, normalize=bool(about.settings.get("normalize")))
            source = front_end(kind, audio, cmn=bool(about.settings.get("cmn")))
            check_fitted_on(kmeans, source, where=where)
            return source
        if "checkpoint" in about.settings:
            number = self._layers(int(about.settings["layer"]))
            source = self._source(number, channels, settings={"checkpoint": self.fingerprint})
            check_fitted_on(kmeans, source, where=where)
            return source
        if layer is None:
            raise LabelError(f"{where}: does not record its layer; set layer=")
        if kmeans.cluster_centers_.shape[1] != self.dim:
            raise LabelError(
                f"{where}: centroids of {kmeans.cluster_centers_.shape[1]} dimensions, {self.name} has {self.dim}; "
                "name the k-means of this model's features"
            )
        return self._source(self._layers(layer), channels)

    @torch.no_grad()
    def _computed(
        self, source: FeatureSource, audio: Heard, sample_rate: int | None, channels: Channels | None
    ) -> list[list[Tensor]]:
        """Return the layers of every utterance, each (frames, dim), on the CPU."""
        manifest = listed(audio, sample_rate, channels)
        rows = in_batches(source, manifest.utterances)
        read = ((row, waveform_of(manifest, row, source)) for row in rows)
        parts: dict[str, list[list[Tensor]]] = {row.id: [[] for _ in source.layers] for row in rows}
        for piece in pieces_of(source, read):
            for kept, layer in zip(parts[piece.row.id], piece.layers, strict=True):
                kept.append(layer.cpu())
        return [[torch.cat(layer) for layer in parts[row.id]] for row in manifest.utterances]


class Pretrained(Encoder):
    """An encoder with its pretraining objective."""

    def __init__(self, saved: SavedModel, model: PretrainModel, *, audio: AudioConfig, precision: Precision) -> None:
        """Wrap a model that is in evaluation mode and on its device; usually called by `load`."""
        super().__init__(saved, model.encoder, audio=audio, precision=precision)
        self.objective = model.objective

    def _predicted_units(self, audio: Heard, sample_rate: int | None, channels: Channels | None) -> Units | list[Units]:
        """Return the most probable unit of each unmasked frame, for the first label stream."""
        if self.objective.predicted_units(torch.zeros(1, self.dim, device=self.device)) is None:
            return super()._predicted_units(audio, sample_rate, channels)
        source = self._source((self.num_layers,), channels)

        @torch.no_grad()
        def result(found: list[Tensor]) -> Units:
            predicted = self.objective.predicted_units(found[0].to(self.device))
            assert predicted is not None
            ids, num_units = predicted
            frames = FrameTimes.of(len(ids), hop=source.hop, window=source.window)
            return Units(ids=ids.cpu(), num_units=num_units, frames=frames)

        each = self._computed(source, audio, sample_rate, channels)
        return as_given(audio, [result(found) for found in each])
