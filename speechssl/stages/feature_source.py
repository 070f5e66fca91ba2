"""Sources of features, the loop that extracts them, and k-means on a sample: the part `cluster` and `sweep` share.

Features are never written to disk here: the frames of an utterance come in pieces, are used, and are released.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl import fingerprint
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.config import configuration, to_stored, was
from speechssl.data.batching import seeded_generator
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ConfigError, LabelError
from speechssl.hub.saved import SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.first_input import first_inputs
from speechssl.model.precision import autocast, choose_precision, pack, reason_for
from speechssl.model.windows import encode_windows
from speechssl.parallel import pick_device
from speechssl.stages.asked_precision import AskedPrecision
from speechssl.stages.reading_data import DataConfig, like_training, read_waveforms
from speechssl.tasks.layer_sum import normalised
from speechssl.train.runlog import progress_bar
from speechssl.units.kmeans import KMeans, Provenance
from speechssl.units.mfcc import FRAME_HOP, FRAME_WINDOW, LOG_MEL_DIM, MFCC_DIM, centred, log_mel, mfcc

__all__ = [
    "FRONT_ENDS",
    "ExtractConfig",
    "FeatureKind",
    "FeatureSource",
    "FrontEnd",
    "Piece",
    "Pieces",
    "check_fitted_on",
    "draw_hours",
    "extract",
    "fit_kmeans",
    "front_end",
    "in_batches",
    "joined",
    "known_layers",
    "layers_of",
    "pieces_of",
    "provenance",
    "trunk",
    "weighted",
    "with_layer_norm",
]

FrontEnd = Literal["mfcc", "log_mel"]
FRONT_ENDS: Mapping[str, FrontEnd] = {"mfcc": "mfcc", "log_mel": "log_mel"}  # by name, where a model may be named, too
Pieces = Iterator[tuple[int, list[Tensor]]]


@configuration
class ExtractConfig:
    """Settings of feature computation; they change features by rounding, and those of long audio (recipes/README.md).

    One utterance at a time gives the same bits however a run is interrupted or shared among processes. It is the
    default on the CPU, where batches saved at most a quarter of the time.
    """

    window_s: float = 60.0  # longer utterances are encoded in windows of this length
    overlap_s: float = 4.0  # overlap of neighbouring windows, whose middles are kept; BASE's positions reach 1.3 s
    batch_s: float | None = None  # seconds in a batch, padding counted; 0: one at a time; None: 0 on CPU, else 200
    precision: AskedPrecision = was("bfloat16", "float32")  # of matrix products; auto: the fastest on this processor

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s < self.window_s:
            raise ConfigError(
                f"extract.overlap_s must be less than window_s ({self.window_s}) and not negative, "
                f"found {self.overlap_s}"
            )


@dataclass(frozen=True, kw_only=True)
class FeatureKind:
    """Description of features of one or more layers, computed here or read from files."""

    name: str  # "mfcc", "log_mel, cmn", or the model
    layers: tuple[int, ...]  # counted from 1; 0: the input of the first layer, or the only one of a front end
    dim: int  # dimensions of each layer
    hop: int  # samples from one frame to the next
    window: int  # samples in the window of one frame
    settings: dict[str, str | int]  # settings of the front end, or the hash of the checkpoint
    has_layers: bool = True  # False for a front end and a sum of layers

    def title(self, layer: int) -> str:
        """Return a readable name of a layer."""
        return f"{self.name} layer {layer}" if self.has_layers else self.name

    def about(self, layer: int) -> dict[str, str | int]:
        """Return all settings that distinguish the features of a layer from others."""
        return self.settings | {"layer": layer} if self.has_layers else dict(self.settings)

    def count(self, num_samples: int) -> int:
        """Return the number of frames of a waveform of `num_samples`."""
        return max(0, (num_samples - self.window) // self.hop + 1)


@dataclass(frozen=True, kw_only=True)
class FeatureSource(FeatureKind):
    """A function from waveforms to features, with the audio and batches it needs."""

    audio: AudioConfig
    longest: int  # most samples of an utterance that may share a batch
    batch: int  # most samples of a batch, padding counted; 0: one utterance at a time
    compute: Callable[[Sequence[Tensor]], Pieces]  # (time,) each, to pieces of layers x (frames, dim) with their row


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Successive frames of an utterance; a short utterance is one piece."""

    row: Utterance
    layers: list[Tensor]  # each (frames, dim), on the device that computed them
    start: int  # index of the first frame
    num_frames: int  # frames of the whole utterance

    @property
    def is_last(self) -> bool:
        """Whether this is the last piece of the utterance."""
        return self.start + len(self.layers[0]) == self.num_frames


def front_end(kind: FrontEnd, audio: AudioConfig, *, cmn: bool = False) -> FeatureSource:
    """Return a source of MFCC or log-mel energies, minus the mean of the utterance if `cmn`."""
    settings: dict[str, str | int] = {"dim": MFCC_DIM if kind == "mfcc" else LOG_MEL_DIM}
    settings |= {"hop": FRAME_HOP, "window": FRAME_WINDOW}
    settings |= {"normalize": True} if audio.normalize else {}
    settings |= {"cmn": True} if cmn else {}

    def compute(waveforms: Sequence[Tensor]) -> Pieces:
        for index, waveform in enumerate(waveforms):
            features = mfcc(waveform) if kind == "mfcc" else log_mel(waveform)
            yield index, [centred(features) if cmn else features]

    return FeatureSource(
        name=f"{kind}, cmn" if cmn else kind,
        layers=(0,),
        dim=int(settings["dim"]),
        audio=audio,
        hop=FRAME_HOP,
        window=FRAME_WINDOW,
        settings=settings,
        has_layers=False,
        longest=0,
        batch=0,
        compute=compute,
    )


def known_layers(wanted: Iterable[int], saved: SavedModel, *, first: Literal[0, 1] = 1) -> tuple[int, ...]:
    """Return the wanted layers in order; all layers of the model if none is named.

    Args:
        wanted: numbers of layers.
        saved: the model.
        first: 0 if the input of the first layer counts as a layer, else 1.

    Raises:
        LabelError: the model has fewer layers.
    """
    layers = sorted(set(wanted))
    there = range(first, saved.description.encoder.transformer.num_layers + 1)
    unknown = [layer for layer in layers if layer not in there]
    if unknown:
        raise LabelError(
            f"{saved.name} has layers {first} to {there[-1]}, the recipe asks for {unknown}; correct the recipe"
        )
    return tuple(layers or there)


def trunk(
    saved: SavedModel,
    layers: tuple[int, ...],
    data: DataConfig,
    config: ExtractConfig,
    *,
    untrained_seed: int | None = None,
) -> FeatureSource:
    """Return layers of a saved model, or of its architecture with random weights drawn from a seed.

    The saved model gives its tensors away: they are released one by one while they are prepared.

    Raises:
        ConfigError: the recipe normalises audio differently from the model's training.
    """
    audio = like_training(data, saved.description.audio, where=saved.name).audio
    settings: dict[str, str | int]
    device = pick_device()
    if untrained_seed is None:
        name, settings = saved.name, {"checkpoint": saved.fingerprint()}
        encoder = saved.encoder(shares=device.type == "cpu")
        saved.tensors.clear()
    else:
        with torch.random.fork_rng():
            torch.manual_seed(untrained_seed)
            encoder = SpeechEncoder(saved.description.encoder).eval()
        name, shape = "random weights", to_stored(saved.description.encoder)
        settings = {"seed": untrained_seed, "encoder": fingerprint.of_values(shape)}
    if config.precision == "auto":
        print(reason_for(choose_precision("auto", device), "auto", device), file=sys.stderr)
    encoder = pack(encoder.to(device), choose_precision(config.precision, device), in_place=True)
    return layers_of(encoder, layers, audio, config, name=name, settings=settings)


def layers_of(
    encoder: SpeechEncoder,
    layers: tuple[int, ...],
    audio: AudioConfig,
    config: ExtractConfig,
    *,
    name: str,
    settings: dict[str, str | int],
) -> FeatureSource:
    """Return layers of a trunk in evaluation mode, on its device.

    Args:
        encoder: the trunk.
        layers: layers to return, counted from 1; 0 is the input of the first.
        audio: how its audio is read.
        config: windows, batches and precision.
        name: readable name of the model.
        settings: settings that distinguish its features from others.
    """
    device = encoder.mask_vector.device
    precision = choose_precision(config.precision, device)
    settings = settings | ({precision: True} if precision != "float32" else {})
    encoder = pack(encoder, precision)
    batch_s = config.batch_s if config.batch_s is not None else (0.0 if device.type == "cpu" else 200.0)
    hop, window = encoder.config.hop, encoder.config.window
    longest = max(window, int(config.window_s * SAMPLE_RATE))
    size = (longest - window) // hop + 1
    overlap = min(size - 1, int(config.overlap_s * SAMPLE_RATE) // hop)

    @torch.no_grad()
    def compute(waveforms: Sequence[Tensor]) -> Pieces:
        if len(waveforms) == 1 and len(waveforms[0]) > longest:
            pieces = encode_windows(encoder, waveforms[0], layers, size=size, overlap=overlap)
            while True:
                with autocast(precision, device):  # left before each yield, so the caller never runs under autocast
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield 0, [features.float() for features in piece]
        counts = torch.tensor([len(waveform) for waveform in waveforms])
        padded = pad_sequence(list(waveforms), batch_first=True).to(device)
        with autocast(precision, device), first_inputs(encoder.transformer) as inputs:
            outputs = encoder(padded, counts, num_layers=max(layers)).layers
        chosen = [outputs[layer - 1] if layer else inputs[0] for layer in layers]
        for index, num_samples in enumerate(counts.tolist()):
            yield index, [layer[index, : (num_samples - window) // hop + 1].float() for layer in chosen]

    return FeatureSource(
        name=name,
        layers=layers,
        dim=encoder.config.transformer.dim,
        audio=audio,
        hop=hop,
        window=window,
        settings=settings,
        longest=longest,
        batch=0 if encoder.config.padding_in_norm else int(batch_s * SAMPLE_RATE),
        compute=compute,
    )


def weighted(source: FeatureSource, factors: Sequence[float]) -> FeatureSource:
    """Return a source whose only layer is the weighted sum of the given source's layers."""

    def compute(waveforms: Sequence[Tensor]) -> Pieces:
        for index, layers in source.compute(waveforms):
            total = layers[0] * factors[0]
            for layer, factor in zip(layers[1:], factors[1:], strict=True):
                total = total.add_(layer, alpha=factor)
            yield index, [total]

    return dataclasses.replace(
        source,
        name=f"{source.name} weighted",
        layers=(0,),
        settings=source.settings | {"weights": ",".join(f"{factor:g}" for factor in factors)},
        has_layers=False,
        compute=compute,
    )


def with_layer_norm(source: FeatureSource) -> FeatureSource:
    """Return a source whose frames are normalised, layer by layer, to mean 0 and variance 1."""

    def compute(waveforms: Sequence[Tensor]) -> Pieces:
        for index, layers in source.compute(waveforms):
            yield index, [normalised(layer) for layer in layers]

    return dataclasses.replace(source, settings=source.settings | {"layer_norm": True}, compute=compute)


def extract(
    source: FeatureSource, data: DataConfig, manifest: Manifest, rows: Sequence[Utterance], *, title: str
) -> Iterator[Piece]:
    """Yield the features of utterances, in order, or longest first in batches; the pieces of one are consecutive.

    Bad audio stops the run, or is reported and skipped, as `data` says.

    Raises:
        AudioError: a file cannot be used.
    """
    rows = in_batches(source, rows)
    yield from pieces_of(
        source, read_waveforms(data, manifest, rows, audio=source.audio, window=source.window, title=title)
    )


def in_batches(source: FeatureSource, rows: Sequence[Utterance]) -> Sequence[Utterance]:
    """Return utterances in the order for a source: longest first, if it takes several at a time."""
    return sorted(rows, key=lambda row: row.num_samples_16k, reverse=True) if source.batch else rows


def pieces_of(source: FeatureSource, read: Iterable[tuple[Utterance, Tensor]]) -> Iterator[Piece]:
    """Yield the features of utterances given with their (time,) waveforms; the pieces of one are consecutive."""
    for batch in _batches(read, source):
        waveforms = [waveform for _, waveform in batch]
        starts = [0] * len(batch)
        for index, layers in source.compute(waveforms):
            num_frames = source.count(len(waveforms[index]))
            yield Piece(row=batch[index][0], layers=layers, start=starts[index], num_frames=num_frames)
            starts[index] += len(layers[0])


def joined(pieces: Iterable[Piece]) -> Iterator[tuple[Utterance, list[Tensor]]]:
    """Join the pieces of each utterance: layers x (frames, dim)."""
    held: list[list[Tensor]] = []
    for piece in pieces:
        held.append(piece.layers)
        if piece.is_last:
            yield piece.row, held[0] if len(held) == 1 else [torch.cat(layer) for layer in zip(*held, strict=True)]
            held = []


def draw_hours(rows: Sequence[Utterance], hours: float, *, seed: int, purpose: str) -> list[Utterance]:
    """Draw whole utterances at random until their duration reaches `hours`."""
    order = torch.randperm(len(rows), generator=seeded_generator(seed, purpose)).tolist()
    chosen: list[Utterance] = []
    seconds = 0.0
    for row in (rows[index] for index in order):
        if seconds < hours * 3600:
            chosen.append(row)
            seconds += row.duration_s
    return chosen


def provenance(source: FeatureKind, layer: int, chosen: Sequence[Utterance]) -> Provenance:
    """Describe the data of a k-means fit: a layer's features of the chosen utterances."""
    ids = fingerprint.of_parts(["\n".join(row.id for row in chosen).encode()])
    hours = sum(row.duration_s for row in chosen) / 3600
    return Provenance(
        source=source.title(layer),
        settings=source.about(layer),
        frames_per_second=SAMPLE_RATE / source.hop,
        audio={"utterances": len(chosen), "hours": round(hours, 4), "ids": ids},
    )


def check_fitted_on(kmeans: KMeans, source: FeatureKind, *, where: Path | str) -> None:
    """Check that centroids were fitted on the same kind of features as `source`.

    Raises:
        LabelError: they were fitted on other features.
    """
    about, layer = kmeans.provenance_, source.layers[0]
    found = {"dim": kmeans.cluster_centers_.shape[1], "frames a second": about.frames_per_second} | about.settings
    expected = {"dim": source.dim, "frames a second": SAMPLE_RATE / source.hop} | source.about(layer)
    differ = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    if differ:
        # a setting that is off is not recorded
        is_switch = {name: True in (found.get(name), expected.get(name)) for name in differ}
        changes = ", ".join(
            f"{name} was {found.get(name, False if is_switch[name] else None)!r}, "
            f"is {expected.get(name, False if is_switch[name] else None)!r}"
            for name in differ
        )
        raise LabelError(
            f"{where}: fitted on {about.source or 'unknown features'}, these are {source.title(layer)} "
            f"({changes}); use the features and the checkpoint it was fitted on, or fit again with another out"
        )


def fit_kmeans(frames: Tensor, kmeans: KMeans, about: Provenance) -> KMeans:
    """Fit centroids to a (frames, dim) random sample held in memory, with a progress bar of the iterations."""
    kmeans = dataclasses.replace(kmeans, sample_bytes=max(1, frames.nbytes))
    with progress_bar(f"{about.source}: k-means {kmeans.n_clusters}", kmeans.max_iter) as (bar, task):
        return kmeans.fit(
            frames.to(pick_device()),
            provenance=about,
            report=lambda step: bar.update(task, completed=step.iteration),
        )


def _batches(
    read: Iterable[tuple[Utterance, Tensor]], source: FeatureSource
) -> Iterator[list[tuple[Utterance, Tensor]]]:
    """Group utterances, longest first, into padded batches no larger than `source.batch`."""
    batch: list[tuple[Utterance, Tensor]] = []
    for row, waveform in read:
        longest = max(len(waveform), len(batch[0][1]) if batch else 0)
        if batch and (longest > source.longest or longest * (len(batch) + 1) > source.batch):
            yield batch
            batch = []
        batch.append((row, waveform))
    if batch:
        yield batch
