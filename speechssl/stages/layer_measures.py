"""Part of stage `sweep`: measures of whole layers, beside those of units: ABX, CCA, speaker, isotropy, augmented pairs.

Features stream by and are not kept, except the frames of the phones that ABX compares, the mean of each utterance for
the speaker measure, and a sample of frames for augmented pairs.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.audio.reading import normalize_waveform
from speechssl.data.augment import AugmentConfig
from speechssl.data.batching import seeded_generator
from speechssl.data.utterances import Manifest, Utterance
from speechssl.downstream.abx import ItemFrames, score_abx
from speechssl.downstream.abx_cells import CONDITIONS, AbxConfig, AbxTask, plan_abx
from speechssl.downstream.augmented_pairs import alignment, uniformity
from speechssl.downstream.cca import JointSpread
from speechssl.downstream.isotropy import MeanCosine, iso_score
from speechssl.downstream.phone_items import PhoneItem
from speechssl.downstream.speaker_information import speaker_accuracy
from speechssl.errors import LabelError
from speechssl.stages.feature_source import FeatureSource, Piece, in_batches, pieces_of
from speechssl.stages.reading_data import DataConfig, read_waveforms
from speechssl.units.mfcc import FRAME_HOP, FRAME_WINDOW, LOG_MEL_DIM, log_mel
from speechssl.units.phone_alignments import Interval
from speechssl.units.quality import FeatureSpread, segments_of_frames

__all__ = ["AbxMeasure", "AugmentedPairs", "CcaMeasure", "Figures", "IsotropyMeasure", "Measure", "SpeakerMeasure"]

Figures = dict[str, float]  # by the name of the column
Phones = Mapping[str, Sequence[Interval]]
_PAIRED_UTTERANCES = 200
_PAIRED_FRAMES = 4000  # of all of them together
_NOISE_DB = (5.0, 20.0)  # ratio of speech to white noise, where the recipe names no noise


class Measure:
    """A measure of all layers of a source, from the pieces of its features."""

    notes: list[str]

    def listen(self, row: Utterance, waveform: Tensor) -> None:
        """See the (time,) waveform of an utterance before its features."""

    def add(self, piece: Piece) -> None:
        """Take the features of a piece."""
        raise NotImplementedError

    def figures(self) -> list[Figures]:
        """Return the figures of each layer."""
        raise NotImplementedError


class AbxMeasure(Measure):
    """ABX of phones, for those of four conditions for which there are triples; others are noted."""

    def __init__(self, items: Sequence[PhoneItem], config: AbxConfig, source: FeatureSource) -> None:
        """Choose the triples: of the items with a frame of this source."""
        self.config, self.items, self.notes = config, items, []
        self.tasks: list[AbxTask] = []
        for speakers, context in CONDITIONS:
            try:
                self.tasks.append(plan_abx(items, speakers, context, config))
            except LabelError as error:
                self.notes.append(str(error))
        if not self.tasks:
            raise LabelError(self.notes[0])
        used = set[int]().union(*(task.used for task in self.tasks))
        self.used = used
        self.frames = [ItemFrames(items, used, dim=source.dim, hop=source.hop) for _ in source.layers]

    def add(self, piece: Piece) -> None:
        """Copy the frames of the phones."""
        for frames, layer in zip(self.frames, piece.layers, strict=True):
            frames.add(piece.row.id, layer.cpu().numpy(), start=piece.start)

    def figures(self) -> list[Figures]:
        """Return the error of each condition; say what was left out."""
        found: list[Figures] = [{} for _ in self.frames]
        missing = [self.items[number].utterance for number in sorted(self.used) if not self.frames[0].has(number)]
        if missing:
            named = ", ".join(dict.fromkeys(missing[:3]))
            self.notes.append(f"ABX: {len(missing)} phones without a frame, or past the features, left out: of {named}")
        for task in self.tasks:
            for figures, frames in zip(found, self.frames, strict=True):
                score = score_abx(task, frames, self.config)
                figures[f"ABX {task.name}"] = score.error
                if score.interval is not None:
                    figures |= {
                        f"ABX {task.name} low": score.interval.low,
                        f"ABX {task.name} high": score.interval.high,
                    }
            self.notes.append(_told(task, score.cells, score.triples))
        return found


def _told(task: AbxTask, cells: int, triples: int) -> str:
    words = f"ABX {task.name}: {triples:,} triples in {cells:,} cells, {100 * task.drawn_share:.0f} % of the pairs"
    words += f", {task.items_left_out:,} phones over max_items" if task.items_left_out else ""
    words += f"; phones that are never X: {', '.join(task.single)}" if task.single else ""
    words += f"; speakers with one phone: {', '.join(task.alone)}" if task.alone else ""
    return words


class CcaMeasure(Measure):
    """Canonical correlation with log-mel energies and with phones, and with both moved by half the utterance.

    Frames without a phone are left out of both.
    """

    def __init__(self, phones: Phones, ids: Iterable[str], source: FeatureSource) -> None:
        """Collect the names of the phones of these utterances."""
        self.phones, self.source, self.notes = phones, source, []
        names = sorted({interval.phone for key in ids for interval in phones[key]})
        self.columns = {name: column for column, name in enumerate(names)}
        views = {"log-mel": LOG_MEL_DIM, "log-mel by chance": LOG_MEL_DIM}
        views |= {"phones": len(names), "phones by chance": len(names)}
        ends = np.cumsum(list(views.values())).tolist()
        self.views = {name: slice(end - dim, end) for (name, dim), end in zip(views.items(), ends, strict=True)}
        self.spreads = [JointSpread(source.dim, ends[-1]) for _ in source.layers]
        self.energies: dict[str, NDArray[np.float32]] = {}

    def listen(self, row: Utterance, waveform: Tensor) -> None:
        """Compute the energies nearest to the centres of the source's frames."""
        source, energies = self.source, log_mel(waveform).numpy()
        centres = np.arange(source.count(len(waveform))) * source.hop + source.window / 2
        nearest = np.round((centres - FRAME_WINDOW / 2) / FRAME_HOP).astype(np.int64)
        self.energies[row.id] = energies[nearest.clip(0, len(energies) - 1)]

    def add(self, piece: Piece) -> None:
        """Add the frames that have a phone, with phone and energies, to the moments."""
        key, span = piece.row.id, slice(piece.start, piece.start + len(piece.layers[0]))
        segment, is_inside = segments_of_frames(
            self.phones[key], piece.num_frames, hop=self.source.hop, window=self.source.window
        )
        columns = np.array([self.columns[interval.phone] for interval in self.phones[key]])[segment]
        one_hot = np.eye(len(self.columns), dtype=np.float32)[columns]
        views = [
            np.roll(view, shift, axis=0)
            for view in (self.energies[key], one_hot)
            for shift in (0, piece.num_frames // 2)
        ]
        others = np.concatenate(views, axis=1)[span][is_inside[span]]
        for spread, layer in zip(self.spreads, piece.layers, strict=True):
            spread.add(layer.cpu().numpy()[is_inside[span]], others)
        if piece.is_last:
            del self.energies[key]

    def figures(self) -> list[Figures]:
        """Return the correlations, and what chance gives."""
        return [
            {f"CCA {name}": spread.correlation(view) for name, view in self.views.items()} for spread in self.spreads
        ]


class SpeakerMeasure(Measure):
    """Accuracy of a linear classifier of speakers, on held-out utterances."""

    def __init__(self, speakers: Mapping[str, str], source: FeatureSource, *, seed: int) -> None:
        """Start without utterances."""
        self.speakers, self.seed, self.notes = speakers, seed, []
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.layers = len(source.layers)

    def add(self, piece: Piece) -> None:
        """Add the frames to the mean of the utterance."""
        if piece.row.id in self.speakers:
            total = np.stack([layer.cpu().numpy().astype(np.float64).sum(0) for layer in piece.layers])
            self.sums[piece.row.id] = self.sums.get(piece.row.id, 0.0) + total / piece.num_frames

    def figures(self) -> list[Figures]:
        """Return accuracy, its interval and chance."""
        found = []
        for layer in range(self.layers):
            means = np.stack([each[layer] for each in self.sums.values()]).astype(np.float32)
            score = speaker_accuracy(means, [self.speakers[key] for key in self.sums], seed=self.seed)
            found.append(
                {
                    "speaker accuracy": score.accuracy,
                    "speaker accuracy low": score.interval.low,
                    "speaker accuracy high": score.interval.high,
                    "speaker accuracy by chance": score.chance,
                }
            )
        left_out = f"; with too few, left out: {', '.join(score.left_out)}" if score.left_out else ""
        self.notes.append(f"speakers: {score.speakers} with {score.utterances} utterances each{left_out}")
        return found


class IsotropyMeasure(Measure):
    """Mean cosine of frames and IsoScore."""

    def __init__(self, spreads: Sequence[FeatureSpread]) -> None:
        """Take the spreads of the layers, to which the sweep adds all frames."""
        self.spreads, self.notes = spreads, []
        self.cosines = [MeanCosine(spread.dim) for spread in spreads]

    def add(self, piece: Piece) -> None:
        """Add the frames."""
        for cosine, layer in zip(self.cosines, piece.layers, strict=True):
            cosine.add(layer.cpu().numpy())

    def figures(self) -> list[Figures]:
        """Return both."""
        return [
            {"mean cosine": cosine.value(), "IsoScore": iso_score(spread.variances())}
            for cosine, spread in zip(self.cosines, self.spreads, strict=True)
        ]


class AugmentedPairs(Measure):
    """Alignment of frames with those of the same speech in noise, and uniformity of the frames.

    It reads a sample of the utterances again, changed: pairs are frames at the same time.
    """

    def __init__(
        self, data: DataConfig, augment: AugmentConfig, manifest: Manifest, source: FeatureSource, *, seed: int
    ) -> None:
        """Draw the utterances, and the same number of frames from each."""
        self.data, self.augment, self.source, self.seed, self.notes = data, augment, source, seed, []
        order = torch.randperm(len(manifest.utterances), generator=seeded_generator(seed, "augmented pairs")).tolist()
        self.rows = [manifest.utterances[index] for index in order[:_PAIRED_UTTERANCES]]
        self.manifest = manifest
        random = np.random.default_rng(seed)
        each = max(1, _PAIRED_FRAMES // len(self.rows))
        self.places = {  # ascending frames by utterance
            row.id: np.sort(random.permutation(source.count(row.num_samples_16k))[:each]) for row in self.rows
        }
        self.frames: dict[str, list[list[NDArray[np.float32]]]] = {}  # by utterance, then layer

    def add(self, piece: Piece) -> None:
        """Keep the drawn frames."""
        if piece.row.id in self.places:
            self._keep(self.frames, piece)

    def figures(self) -> list[Figures]:
        """Return both."""
        changed: dict[str, list[list[NDArray[np.float32]]]] = {}
        rows = in_batches(self.source, [row for row in self.rows if row.id in self.frames])
        for piece in pieces_of(self.source, self._changed(rows)):
            self._keep(changed, piece)
        found = []
        for layer in range(len(self.source.layers)):
            clean, noisy = (
                np.concatenate([part for row in rows for part in kept[row.id][layer]])
                for kept in (self.frames, changed)
            )
            found.append({"alignment": alignment(clean, noisy), "uniformity": uniformity(clean)})
        how = "recipe's noise and rooms" if self.augment.noise or self.augment.rooms else "white noise, 5 to 20 dB"
        self.notes.append(f"augmented pairs: {len(clean)} frames of {len(rows)} utterances; {how}")
        return found

    def _keep(self, kept: dict[str, list[list[NDArray[np.float32]]]], piece: Piece) -> None:
        places = self.places[piece.row.id]
        end = piece.start + len(piece.layers[0])
        places = places[(places >= piece.start) & (places < end)] - piece.start
        parts = kept.setdefault(piece.row.id, [[] for _ in piece.layers])
        for part, layer in zip(parts, piece.layers, strict=True):
            part.append(layer.cpu().numpy()[places])

    def _changed(self, rows: Sequence[Utterance]) -> Iterator[tuple[Utterance, Tensor]]:
        source = self.source
        plain = dataclasses.replace(source.audio, normalize=False)
        augmenter = self.augment.augmenter(source.audio, seed=self.seed)
        read = read_waveforms(
            self.data, self.manifest, rows, audio=plain, window=source.window, title=f"{source.name}: augmented"
        )
        for row, waveform in read:
            index = self.rows.index(row)
            changed = augmenter(waveform.clone(), epoch=0, index=index) if augmenter else self._noisy(waveform, index)
            if source.audio.normalize:
                normalize_waveform(changed)
            yield row, changed

    def _noisy(self, waveform: Tensor, index: int) -> Tensor:
        generator = seeded_generator(self.seed, "white noise", index)
        low, high = _NOISE_DB
        snr_db = low + (high - low) * float(torch.rand((), generator=generator))
        noise = torch.randn(len(waveform), generator=generator)
        return waveform + noise * waveform.square().mean().sqrt() / 10 ** (snr_db / 20)
