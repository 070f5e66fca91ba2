"""Stage `extract`: audio -> features of chosen layers -> files, in the formats of `speechssl.features`.

The manifest is divided into parts of some minutes, each written by a single process. A run that was killed resumes with
the missing parts, and several processes write the same bits as one.
"""

import json
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from speechssl import fingerprint
from speechssl.atomic import write_atomically
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import added, configuration, flatten, to_dict
from speechssl.data.labels import FrameLabels, read_labels
from speechssl.data.shifted import Shifted
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import CheckpointError, ConfigError, LabelError
from speechssl.features.description import (
    DESCRIPTION,
    Entry,
    FeaturesDescription,
    FormatName,
    NumberType,
    Pool,
    Stream,
    read_description,
    write_description,
    write_index,
)
from speechssl.features.feature_folder import FORMATS
from speechssl.features.part_writing import PartWriter, writing
from speechssl.features.part_writing import Utterance as Computed
from speechssl.hub.model_formats import read_saved
from speechssl.hub.saved import SavedModel
from speechssl.parallel import Ranks, start_ranks
from speechssl.provenance import source_commit
from speechssl.stages.feature_source import (
    FRONT_ENDS,
    ExtractConfig,
    FeatureSource,
    front_end,
    in_batches,
    joined,
    known_layers,
    pieces_of,
    trunk,
    weighted,
    with_layer_norm,
)
from speechssl.stages.preflight_audio import Reading, refuse_audio, tell_notes
from speechssl.stages.reading_data import DataConfig, read_data, read_waveforms, tell_left_out
from speechssl.train.checkpoint import software_versions
from speechssl.train.run_folder import hold_run_folder

__all__ = ["ExtractFeaturesConfig", "about_manifest", "extract_features"]

_BEGUN = "begun.json"  # description of an unfinished folder
_PARTS = "parts"  # contents of each finished part, until the index is written
_WEIGHTED = "weighted"
_AHEAD = 4  # utterances that are read ahead


@configuration
class ExtractFeaturesConfig:
    """Features to write: model, layers, audio and file format."""

    out: Path  # folder for the features, index.tsv and features.json
    data: DataConfig
    model: str  # mfcc, log_mel, or a model: a folder, a file of another toolkit, hf://org/name
    layers: tuple[int, ...] | Literal["all", "weighted"] = ()  # from 1; 0: the first one's input; empty: the last one
    random_weights: int | None = added(None)  # seed of random weights that replace those of the model; None: keep them
    layer_norm: bool = added(False)  # normalise each frame of each layer to mean 0 and variance 1
    weights: tuple[float, ...] = ()  # one weight per layer, for layers=weighted; empty: equal weights
    cmn: bool = False  # subtract the mean of each utterance from its MFCC or log-mel
    format: FormatName = "npy"
    dtype: NumberType = "float32"
    pool: Pool = "none"  # mean: one row per utterance; segments: one row per run of equal units
    segments: Path | None = None  # label file with these units, for pool=segments
    extract: ExtractConfig = ExtractConfig()
    part_s: float = 600.0  # seconds of audio in a part; a killed run repeats its unfinished parts
    part_mb: float = 128.0  # features of a part, at most, before they are averaged
    processes: int = 1  # processes on this machine, for models on the CPU; use torchrun for several devices

    def __post_init__(self) -> None:
        is_front_end = self.model in FRONT_ENDS
        if is_front_end and self.layers:
            raise ConfigError(f"{self.model} has no layers; leave --layers out, or name a model")
        if self.cmn and not is_front_end:
            raise ConfigError(f"cmn is for mfcc and log_mel, {self.model} normalises by itself; leave it out")
        if is_front_end and self.random_weights is not None:
            raise ConfigError(f"{self.model} has no weights to replace; leave random_weights out, or name a model")
        if self.weights and self.layers != _WEIGHTED:
            raise ConfigError("weights are for layers=weighted; add it, or leave the weights out")
        if (self.pool == "segments") != (self.segments is not None):
            raise ConfigError(
                "means of segments need pool=segments and a label file that says where they are; give both"
            )
        if self.format == "lhotse" and self.pool != "none":
            raise ConfigError(
                "Lhotse stores frames at a constant rate, not means; take another format, or leave the pooling out"
            )
        for name in ("part_s", "part_mb", "processes"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be more than 0, found {getattr(self, name)}")


def extract_features(config: ExtractFeaturesConfig) -> Path:
    """Write the features of every utterance; return the folder. A finished folder is not written again.

    Raises:
        LabelError: the model lacks a layer, the weights do not match its layers, features overflow their number type,
            or segments do not match the audio.
        CheckpointError: the folder holds other features, finished or begun.
        PackageError: the package that writes the format is not installed.
        AudioError: a file cannot be used, and `data.bad_audio` says to stop.
    """
    FORMATS[config.format].require()
    ranks = start_ranks()
    if config.processes > 1 and ranks.world_size > 1:
        raise ConfigError("torchrun has started several processes already; leave processes out")
    with hold_run_folder(config.out, config, ranks):
        if not (config.out / DESCRIPTION).exists():
            _extract(config, ranks)
        ranks.wait()
    return config.out


def _extract(config: ExtractFeaturesConfig, ranks: Ranks) -> None:
    job = _Job.of(config)
    if ranks.is_first:
        reading = Reading(section="data", manifest=job.manifest, data=config.data, window=job.source.window)
        tell_notes(refuse_audio(reading))
        job.begin()
    ranks.wait()
    if config.processes == 1:
        job.work(ranks.rank, ranks.world_size)
    else:
        context = get_context("spawn")
        threads = max(1, torch.get_num_threads() // config.processes)
        with ProcessPoolExecutor(config.processes, context) as pool:
            shares = [pool.submit(_work, config, rank, threads, os.getpid()) for rank in range(config.processes)]
            for share in shares:
                share.result()
    ranks.wait()  # until all parts are written
    if ranks.is_first:
        job.finish()


def _work(config: ExtractFeaturesConfig, rank: int, threads: int, parent: int) -> None:
    """Write a share of the parts in a process of this machine, which ends when its parent process has ended."""
    torch.set_num_threads(threads)
    _Job.of(config).work(rank, config.processes, parent=parent)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The work of an extraction, the same in all processes."""

    config: ExtractFeaturesConfig
    manifest: Manifest
    source: FeatureSource
    description: FeaturesDescription
    labels: FrameLabels | None  # labels of the segments
    parts: tuple[range, ...]  # indices in the manifest

    @classmethod
    def of(cls, config: ExtractFeaturesConfig) -> "_Job":
        """Read the manifest and the model."""
        manifest = read_data(config.data)
        labels = read_labels(config.segments) if config.segments else None
        if labels is not None and config.data.bad_audio == "stop":
            labels.check(manifest, where=str(config.segments))
        source, fingerprint = _source(config)
        streams = tuple(_stream(source, layer, config) for layer in source.layers)
        description = FeaturesDescription(
            format=config.format,
            dtype=config.dtype,
            pool=config.pool,
            streams=streams,
            hop=source.hop,
            window=source.window,
            model=source.name,
            fingerprint=fingerprint,
            settings=flatten(
                {
                    "audio": to_dict(source.audio),
                    "extract": to_dict(config.extract),
                    "batch": source.batch,
                    "device": start_ranks().device.type,
                    "part_s": config.part_s,
                    "part_mb": config.part_mb,
                    "segments": labels.fingerprint() if labels is not None else None,
                }
            ),
            manifest=about_manifest(config.data, manifest),
            versions=software_versions(),
            commit=source_commit(),
        )
        parts = tuple(_parts(manifest.utterances, source, config))
        return cls(config=config, manifest=manifest, source=source, description=description, labels=labels, parts=parts)

    def begin(self) -> None:
        """Write the description of the folder, or compare with the one that is there.

        Raises:
            CheckpointError: other features were begun in the folder.
        """
        out = self.config.out
        if not (out / _BEGUN).exists():
            write_description(out, self.description, name=_BEGUN)
            return
        before, now = (flatten(to_dict(each)) for each in (read_description(out, name=_BEGUN), self.description))
        for name in now:
            is_same = before.get(name) == now.get(name) or name.startswith(("versions", "commit"))
            if not is_same:
                raise CheckpointError(
                    f"{out}: was begun with other features ({name} was {before.get(name)!r:.200}, is "
                    f"{now.get(name)!r:.200}); name another folder, or remove this one"
                )

    def work(self, rank: int, world_size: int, *, parent: int | None = None) -> None:
        """Write a share of the missing parts; stop if the process is orphaned."""
        for number in range(rank, len(self.parts), world_size):
            if parent is not None and os.getppid() != parent:
                return
            if not self._about_part(number).exists():
                self._write(number)

    def finish(self) -> None:
        """Write index and description, and remove the files of an unfinished folder."""
        out, entries, left_out = self.config.out, list[Entry](), dict[str, str]()
        for number in range(len(self.parts)):
            told = json.loads(self._about_part(number).read_text(encoding="utf-8"))
            rows = (dict(entry, segments=tuple(map(tuple, entry["segments"]))) for entry in told["entries"])
            entries += [Entry(**row) for row in rows]
            left_out |= told["left_out"]
        if not entries:
            first = next(iter(left_out.items()), ("", "the manifest lists none"))
            raise LabelError(f"{out}: no utterance could be used; the first, {first[0]}: {first[1]}")
        tell_left_out([*left_out], "bad audio" if self.labels is None else "bad audio or no units")
        description = replace(
            self.description,
            utterances=len(entries),
            frames=sum(entry.frames for entry in entries),
            rows=sum(entry.rows for entry in entries),
            left_out=left_out,
        )
        FORMATS[self.config.format].finish(out, description, entries, self.manifest)
        write_index(out, entries)
        write_description(out, description)
        (out / _BEGUN).unlink()
        shutil.rmtree(out / _PARTS)
        for pattern in (".*.tmp", "*/.*.tmp"):  # leftovers of killed processes
            for path in out.glob(pattern):
                path.unlink()

    def _about_part(self, number: int) -> Path:
        return self.config.out / _PARTS / f"{number:05d}.json"

    def _write(self, number: int) -> None:
        config, description = self.config, self.description
        rows = [self.manifest.utterances[place] for place in self.parts[number]]
        places = {row.id: place for place, row in enumerate(rows)}
        left_out: dict[str, str] = {}
        if self.labels is not None:
            left_out |= {
                row.id: f"{config.segments} has no units of it" for row in rows if row.id not in self.labels.units
            }
            rows = [row for row in rows if row.id not in left_out]
        waveforms = read_waveforms(
            config.data,
            self.manifest,
            in_batches(self.source, rows),
            audio=self.source.audio,
            window=self.source.window,
            title=f"features {number + 1}/{len(self.parts)}",
            left_out=left_out,
        )
        part = FORMATS[config.format].part(config.out, number, description)
        streams = [stream.name for stream in description.streams]
        writer = PartWriter(part, streams, dtype=config.dtype, pool=config.pool)
        with _ahead(waveforms) as read, writing(writer) as write:
            for row, layers in joined(pieces_of(self.source, read)):
                write(
                    Computed(
                        id=row.id,
                        samples=row.num_samples_16k,
                        first_sample=row.start * SAMPLE_RATE // row.sample_rate,
                        arrays=[layer.cpu().numpy() for layer in layers],
                        segments=self._segments(row, len(layers[0])),
                    )
                )
        entries = [asdict(entry) for entry in sorted(writer.entries, key=lambda entry: places[entry.id])]
        write_atomically(self._about_part(number), json.dumps({"entries": entries, "left_out": left_out}))

    def _segments(self, row: Utterance, num_frames: int) -> tuple[tuple[int, int], ...]:
        """Return the runs of equal units in an utterance, each as unit and number of frames."""
        if self.labels is None:
            return ()
        hop, window = self.source.hop, self.source.window
        units = self.labels.at_frames(row.id, start=0, num_frames=num_frames, hop=hop, window=window)
        runs, counts = torch.unique_consecutive(units, return_counts=True)
        return tuple(zip(runs.tolist(), counts.tolist(), strict=True))


def _source(config: ExtractFeaturesConfig) -> tuple[FeatureSource, str | None]:
    """Build the source of the features, and return it with the fingerprint of the model."""
    kind = FRONT_ENDS.get(config.model)
    if kind is not None:
        source = front_end(kind, config.data.audio, cmn=config.cmn)
        return (with_layer_norm(source) if config.layer_norm else source), None
    saved = read_saved(config.model)
    last = saved.description.encoder.transformer.num_layers
    match config.layers:
        case "all" | "weighted":
            layers = known_layers((), saved)
        case named:
            layers = known_layers(named or (last,), saved, first=0)
    source = trunk(saved, layers, config.data, config.extract, untrained_seed=config.random_weights)
    source = with_layer_norm(source) if config.layer_norm else source
    if config.layers == _WEIGHTED:
        source = _weighted(source, config.weights, saved)
    return source, None if config.random_weights is not None else str(source.settings["checkpoint"])


def _weighted(source: FeatureSource, weights: Sequence[float], saved: SavedModel) -> FeatureSource:
    """Return the weighted sum of all layers; their mean without weights.

    Raises:
        LabelError: the numbers of weights and layers differ.
    """
    if weights and len(weights) != len(source.layers):
        raise LabelError(
            f"{saved.name} has layers 1 to {len(source.layers)}, {len(weights)} weights were given; give one for each "
            "layer, and none for the input of the first"
        )
    return weighted(source, tuple(weights) or (1 / len(source.layers),) * len(source.layers))


def _stream(source: FeatureSource, layer: int, config: ExtractFeaturesConfig) -> Stream:
    name = f"layer_{layer}" if source.has_layers else FRONT_ENDS.get(config.model, _WEIGHTED)
    return Stream(name=name, title=source.title(layer), layer=layer, dim=source.dim, settings=source.about(layer))


def about_manifest(data: DataConfig, manifest: Manifest) -> dict[str, object]:
    """Describe a manifest, with a hash of the columns that identify its audio."""
    digest = fingerprint.begin(fingerprint.LONG)
    count, seconds = 0, 0.0
    for row in manifest.utterances:
        digest.update(
            f"{row.id}\t{row.path}\t{row.start}\t{row.num_samples}\t{row.sample_rate}\t{row.channel}\n".encode()
        )
        count, seconds = count + 1, seconds + row.duration_s
    paths = [str(path) for path in data.manifests]
    found = {"hash": digest.hexdigest(), "paths": paths, "utterances": count, "hours": round(seconds / 3600, 4)}
    return found | (manifest.described() if isinstance(manifest, Shifted) else {})


def _parts(rows: Sequence[Utterance], source: FeatureSource, config: ExtractFeaturesConfig) -> Iterator[range]:
    """Divide a manifest into parts by audio and size of features, independently of the number of processes."""
    most_samples, most_bytes = config.part_s * SAMPLE_RATE, config.part_mb * 2**20
    bytes_a_frame = source.dim * len(source.layers) * (2 if config.dtype == "float16" else 4)
    begin, samples, size = 0, 0, 0
    for place, row in enumerate(rows):
        if place > begin and (samples >= most_samples or size >= most_bytes):
            yield range(begin, place)
            begin, samples, size = place, 0, 0
        samples += row.num_samples_16k
        size += source.count(row.num_samples_16k) * bytes_a_frame
    if begin < len(rows):
        yield range(begin, len(rows))


@contextmanager
def _ahead(waveforms: Iterator[tuple[Utterance, Tensor]]) -> Iterator[Iterator[tuple[Utterance, Tensor]]]:
    """Read a few utterances ahead in a thread; an exception is raised at the place of its utterance."""
    waiting: queue.Queue[tuple[Utterance, Tensor] | BaseException | None] = queue.Queue(_AHEAD)
    is_over = threading.Event()

    def read() -> None:
        end: BaseException | None = None
        try:
            for item in waveforms:
                waiting.put(item)
                if is_over.is_set():
                    return
        except BaseException as error:  # re-raised by the consumer
            end = error
        waiting.put(end)

    def given() -> Iterator[tuple[Utterance, Tensor]]:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=read, name="audio", daemon=True)
    thread.start()
    try:
        yield given()
    finally:
        is_over.set()
        while thread.is_alive():  # it may be blocked on a full queue
            with suppress(queue.Empty):
                waiting.get(timeout=0.01)
        thread.join()
