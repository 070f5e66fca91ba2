"""Stage `sweep`: compare every layer and every number of units K with phones; features are never written to disk.

Further measures of the layers say which one to take for which task (`layer_measures`); they see the same features.

For each source of features (a model, the same model untrained, MFCC, log-mel) the audio is read twice: once to sample
frames for k-means, once to label and count. Memory besides the model: the sample (`fit_frames` x 4 bytes x the
dimensions of all layers together), three times its widest layer during k-means, and the features of one utterance. BASE
has 12 x 768 dimensions: 3.7 GB for 100,000 frames; name `layers` or lower `fit_frames` if that is too much.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from speechssl.atomic import write_atomically
from speechssl.config import added, configuration
from speechssl.data.augment import AugmentConfig
from speechssl.data.utterances import Manifest, Utterance
from speechssl.downstream.abx_cells import AbxConfig
from speechssl.downstream.phone_items import PhoneItem, items_of, read_items
from speechssl.downstream.speaker_information import unit_speaker_information
from speechssl.errors import ConfigError, LabelError
from speechssl.hub.model_formats import read_saved
from speechssl.parallel import Ranks, pick_device
from speechssl.stages.feature_source import (
    ExtractConfig,
    FeatureSource,
    Piece,
    draw_hours,
    extract,
    fit_kmeans,
    front_end,
    in_batches,
    known_layers,
    pieces_of,
    provenance,
    trunk,
)
from speechssl.stages.layer_measures import (
    AbxMeasure,
    AugmentedPairs,
    CcaMeasure,
    Figures,
    IsotropyMeasure,
    Measure,
    SpeakerMeasure,
)
from speechssl.stages.preflight_audio import Reading, refuse_audio, tell_notes
from speechssl.stages.reading_data import DataConfig, read_data, read_waveforms, tell_left_out
from speechssl.stages.sweep_table import (
    Kind,
    LayerRow,
    SweepRow,
    footnote,
    layer_table,
    layers_for_tasks,
    rows_from_json,
    suggest,
    to_json,
    unit_table,
)
from speechssl.train.run_folder import claim_run_folder, locked
from speechssl.units.kmeans import KMeans
from speechssl.units.mfcc import FRAME_WINDOW
from speechssl.units.phone_alignments import Interval, read_phones
from speechssl.units.quality import FeatureSpread, UnitTally
from speechssl.units.reservoir import FrameSample

__all__ = ["MeasureName", "SweepConfig", "sweep"]

Phones = dict[str, list[Interval]]
MeasureName = Literal["pnmi", "abx", "cca", "speaker", "isotropy", "alignment"]


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
    measures: tuple[MeasureName, ...] = added(("pnmi",))  # pnmi: units; the others: see docs/how_to/layers.md
    abx: AbxConfig = added(AbxConfig())
    abx_items: Path | None = added(None)  # .item file of the phones to compare; None: those of the alignments
    augment: AugmentConfig = added(AugmentConfig())  # of augmented pairs; without noise and rooms: white noise

    def __post_init__(self) -> None:
        if not self.clusters or min(self.clusters) < 2:
            raise ConfigError(f"clusters must list numbers from 2 up, found {list(self.clusters)}")
        if self.fit_frames < max(self.clusters):
            raise ConfigError(f"fit_frames={self.fit_frames} cannot make {max(self.clusters)} clusters; raise it")
        if self.checkpoint is None and (self.random_weights or self.layers or not self.baselines):
            raise ConfigError("without checkpoint there are only baselines; name the folder of a run or a model")
        if not self.measures or len(set(self.measures)) != len(self.measures):
            raise ConfigError(f"measures must list one or more, each once, found {list(self.measures)}")
        if self.augment.changes_speed:
            raise ConfigError("augment.speeds moves frames, so that they form no pairs; leave it out here")


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
    layers: list[LayerRow] = []
    notes: list[str] = []
    items = _items(config, manifest, phones) if "abx" in config.measures else []
    for number, (kind, source) in enumerate(_sources(config)):
        done, done_layers = (config.out / f"{name}-{number}.json" for name in ("source", "layers"))
        if not done.exists():
            collected = _Collected(config, manifest, phones, items, source)
            of_units = _measure(config, manifest, phones, kind, source, collected)
            if config.measures != ("pnmi",):
                figures = {"figures": collected.figures(), "notes": collected.notes}
                write_atomically(done_layers, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
            write_atomically(done, to_json(of_units))
        rows += rows_from_json(done.read_text(encoding="utf-8"))
        if config.measures != ("pnmi",):
            there = json.loads(done_layers.read_text(encoding="utf-8"))
            layers += [
                LayerRow(source=source.name, kind=kind, layer=layer, figures=figures)
                for layer, figures in zip(source.layers, there["figures"], strict=True)
            ]
            notes = there["notes"]
    _write(config, manifest, rows, layers, notes)
    return table


def _write(
    config: SweepConfig, manifest: Manifest, rows: list[SweepRow], layers: list[LayerRow], notes: list[str]
) -> None:
    """Write the figures, and last the table."""
    suggestions = [suggest(rows, tolerance=config.tolerance)] if rows else []
    figures = {
        "suggestion": " ".join(suggestions),
        "hours": manifest.duration_s / 3600,
        "rows": json.loads(to_json(rows)),
    }
    lines = [*suggestions, "", *unit_table(rows), "", footnote(rows, manifest)] if rows else []
    if layers:
        for_tasks = layers_for_tasks(layers)
        figures |= {"for_tasks": for_tasks, "layers": json.loads(to_json(layers)), "notes": notes}
        lines = [*for_tasks, *lines] if for_tasks else lines
        lines += ["", *layer_table(layers), "", *(f"- {note}" for note in notes)]
        lines += [] if rows else ["", footnote(rows, manifest)]
    write_atomically(config.out / "sweep.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    write_atomically(config.out / "sweep.md", "\n".join(lines) + "\n")


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


def _items(config: SweepConfig, manifest: Manifest, phones: Phones) -> list[PhoneItem]:
    """Return the phones that ABX compares: those with a speaker."""
    if config.abx_items is not None:
        there = {row.id for row in manifest.utterances}
        items = read_items(config.abx_items)
        found = [item for item in items if item.utterance in there]
        tell_left_out(sorted({item.utterance for item in items} - there), f"items of {config.abx_items} without audio")
        if not found:
            raise LabelError(
                f"{config.abx_items}: names no utterance of the manifest with phones; expected ids like "
                f"{manifest.utterances[0].id!r}, found {items[0].utterance!r}"
            )
        return found
    return items_of(phones, _speakers(config, manifest))


def _speakers(config: SweepConfig, manifest: Manifest) -> dict[str, str]:
    """Return the speakers of the utterances that have one."""
    speakers = {row.id: row.speaker for row in manifest.utterances if row.speaker}
    if not speakers:
        raise LabelError(
            f"{config.data.manifests[0]}: no utterance has a speaker, which measures={','.join(config.measures)} "
            "need; add the column speaker, or leave out abx and speaker"
        )
    tell_left_out([row.id for row in manifest.utterances if not row.speaker], "no speaker, for abx and speaker")
    return speakers


class _Collected:
    """Figures of the layers of one source, collected while its features stream by."""

    def __init__(
        self, config: SweepConfig, manifest: Manifest, phones: Phones, items: list[PhoneItem], source: FeatureSource
    ) -> None:
        """Prepare the measures that the recipe names."""
        self.spreads = [FeatureSpread(source.dim) for _ in source.layers]
        self.measures: list[Measure] = []
        self.speakers = _speakers(config, manifest) if "speaker" in config.measures else {}
        self.by_unit: list[Figures] = [{} for _ in source.layers]
        for name in config.measures:
            match name:
                case "abx":
                    self.measures.append(AbxMeasure(items, config.abx, source))
                case "cca":
                    self.measures.append(CcaMeasure(phones, (row.id for row in manifest.utterances), source))
                case "speaker":
                    self.measures.append(SpeakerMeasure(self.speakers, source, seed=config.seed))
                case "isotropy":
                    self.measures.append(IsotropyMeasure(self.spreads))
                case "alignment":
                    pairs = AugmentedPairs(config.data, config.augment, manifest, source, seed=config.seed)
                    self.measures.append(pairs)

    def listen(self, read: Iterable[tuple[Utterance, Tensor]]) -> Iterator[tuple[Utterance, Tensor]]:
        """Show the waveforms to the measures on their way."""
        for row, waveform in read:
            for measure in self.measures:
                measure.listen(row, waveform)
            yield row, waveform

    def add(self, piece: Piece) -> None:
        """Take the features of a piece."""
        for layer, spread in zip(piece.layers, self.spreads, strict=True):
            spread.add(layer.cpu().numpy())
        for measure in self.measures:
            measure.add(piece)

    def figures(self) -> list[Figures]:
        """Return the figures of each layer."""
        found: list[Figures] = [{"effective rank": spread.effective_rank()} for spread in self.spreads]
        for figures in (*(measure.figures() for measure in self.measures), self.by_unit):
            found = [before | more for before, more in zip(found, figures, strict=True)]
        return found

    @property
    def notes(self) -> list[str]:
        """What was measured on, and what was left out."""
        return [note for measure in self.measures for note in measure.notes]


def _measure(
    config: SweepConfig, manifest: Manifest, phones: Phones, kind: Kind, source: FeatureSource, collected: _Collected
) -> list[SweepRow]:
    """Measure all layers and Ks of one source."""
    samples = _sample(config, manifest, source, collected)
    if "pnmi" not in config.measures:
        return []
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
    counts: dict[tuple[int, int], dict[str, np.ndarray]] = {key: {} for key in fitted}  # by utterance with a speaker
    for row_id, units in _units(config, manifest, source, fitted):
        labelled.add(row_id)
        for key, found in units.items():
            tallies[key].add(found, phones[row_id])
            moved[key].add(np.roll(found, len(found) // 2), phones[row_id])
            if row_id in collected.speakers:
                counts[key][row_id] = np.bincount(found, minlength=key[1])
    tell_left_out([row.id for row in manifest.utterances if row.id not in labelled], "bad audio")
    for (index, clusters), of_key in counts.items() if collected.speakers else ():
        speakers = [collected.speakers[row_id] for row_id in of_key]
        information = unit_speaker_information(np.stack(list(of_key.values())), speakers, seed=config.seed)
        names_of = (f"speaker in {clusters} units", f"speaker in {clusters} units by chance")
        collected.by_unit[index] |= dict(zip(names_of, information, strict=True))
    return [
        SweepRow(
            source=source.name,
            kind=kind,
            layer=source.layers[index],
            clusters=clusters,
            dim=source.dim,
            effective_rank=collected.spreads[index].effective_rank(),
            quality=tally.quality(),
            chance=moved[index, clusters].quality().pnmi,
        )
        for (index, clusters), tally in tallies.items()
    ]


def _sample(config: SweepConfig, manifest: Manifest, source: FeatureSource, collected: _Collected) -> list[Tensor]:
    """Draw the same random frames from every layer, and show all frames to the measures."""
    there = sum(source.count(row.num_samples_16k) for row in manifest.utterances)
    size = max(1, min(config.fit_frames, there))
    sample = FrameSample(size, source.dim, num_layers=len(source.layers), seed=config.seed)
    read = read_waveforms(
        config.data,
        manifest,
        in_batches(source, manifest.utterances),
        audio=source.audio,
        window=source.window,
        title=f"{source.name}: frames to fit",
    )
    for piece in pieces_of(source, collected.listen(read)):
        sample.add(piece.row.id, piece.layers, start=piece.start, num_frames=piece.num_frames)
        collected.add(piece)
    frames = sample.gather(Ranks(rank=0, world_size=1, device=pick_device()))
    if not len(frames[0]):
        raise LabelError(f"{source.name}: no utterance with phones has usable audio; see the reasons above")
    return frames


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
