"""Transcripts of dev against its texts: the best measure of confidence, its map to accuracy, and how far both err."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rapidfuzz.distance import Levenshtein

from speechssl.asr.calibration import (
    Bin,
    Isotonic,
    bins_of,
    calibration_error,
    choose_measure,
    cross_fitted,
    fit_isotonic,
    right_letters,
)
from speechssl.asr.confidence import Measure
from speechssl.errors import ManifestError
from speechssl.stages.scored import Scored
from speechssl.stages.selftrain_recipe import KeepConfig
from speechssl.text.vocabulary import Vocabulary

__all__ = ["Judged", "draw_reliability", "judge"]

_BINS = 10  # those of `asr.calibration`
PROBABILITIES = ("posterior", "certainty", "agreement")  # measures from 0 to 1, whose own calibration has a meaning


@dataclass(frozen=True, kw_only=True)
class _Letters:
    """Letters of dev's transcripts, gaps of words left out: posterior, whether right, number of the utterance."""

    posteriors: tuple[float, ...]
    is_right: tuple[float, ...]  # 1 or 0
    utterances: tuple[int, ...]

    @classmethod
    def of(cls, scored: Sequence[Scored], references: Sequence[str], vocabulary: Vocabulary) -> Self:
        """Align each transcript with its reference, which may hold letters that the vocabulary lacks."""
        posteriors: list[float] = []
        is_right: list[float] = []
        utterances: list[int] = []
        for number, (each, reference) in enumerate(zip(scored, references, strict=True)):
            spelt = [(vocabulary.decode([token.id]), token.probability) for token in each.tokens]
            said = [(letter, probability) for letters, probability in spelt for letter in letters]
            posteriors += [probability for _, probability in said]
            right = right_letters("".join(letter for letter, _ in said), "".join(reference.split()))
            is_right += map(float, right)
            utterances += [number] * len(said)
        return cls(posteriors=tuple(posteriors), is_right=tuple(is_right), utterances=tuple(utterances))

    @property
    def ones(self) -> list[float]:
        """Weights: each letter counts once."""
        return [1.0] * len(self.is_right)

    @cached_property
    def expected(self) -> list[float]:
        """Expected accuracy of each, by a map fitted on other utterances."""
        return cross_fitted(self.posteriors, self.is_right, self.ones, utterances=self.utterances).tolist()

    def as_json(self) -> dict[str, Any]:
        if not self.is_right:
            return {"letters": 0, "right": None, "ece_of_posterior": None, "ece_of_map": None}
        return {
            "letters": len(self.is_right),
            "right": sum(self.is_right) / len(self.is_right),
            "ece_of_posterior": calibration_error(self.posteriors, self.is_right, self.ones),
            "ece_of_map": calibration_error(self.expected, self.is_right, self.ones),  # cross-fitted
        }

    def bins(self) -> dict[str, list[Bin]]:
        """Return the bins of each posterior, before and after the map."""
        if not self.is_right:
            return {}
        values = {"letters, posterior": self.posteriors, "letters, calibrated": self.expected}
        return {name: bins_of(each, self.is_right, self.ones) for name, each in values.items()}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Dev, with its errors, and what was fitted on it."""

    scored: tuple[Scored, ...]
    references: tuple[str, ...]
    errors: tuple[int, ...]  # wrong letters
    measure: Measure
    areas: Mapping[Measure, float]  # area under the risk-coverage curve by measure
    spelt: _Letters

    @property
    def letters(self) -> list[int]:
        """Letters of each reference."""
        return [len(each) for each in self.references]

    @property
    def accuracy(self) -> list[float]:
        """Share of right letters of each utterance."""
        pairs = zip(self.errors, self.letters, strict=True)
        return [max(0.0, 1 - errors / letters) for errors, letters in pairs]

    @property
    def values(self) -> list[float]:
        """The measure of each utterance."""
        return [each.measures[self.measure] for each in self.scored]

    @cached_property
    def map(self) -> Isotonic:
        """Map of the measure to the expected accuracy."""
        return fit_isotonic(self.values, self.accuracy, self.letters)

    @cached_property
    def expected(self) -> list[float]:
        """Expected accuracy of each utterance, by a map fitted on others."""
        return cross_fitted(self.values, self.accuracy, self.letters).tolist()

    def as_json(self) -> dict[str, Any]:
        """Return the measure, its map, and the calibration errors."""
        own = calibration_error(self.values, self.accuracy, self.letters) if self.measure in PROBABILITIES else None
        return {
            "measure": self.measure,
            "areas": dict(self.areas),
            "map": dataclasses.asdict(self.map),
            "ece_of_measure": own,
            "ece_of_map": calibration_error(self.expected, self.accuracy, self.letters),  # cross-fitted
            "ece_by_chance": self.ece_by_chance(),
            "letters": self.spelt.as_json(),
        }

    def ece_by_chance(self) -> float | None:
        """Return the calibration error that is left to a map that knows the accuracy of each bin.

        Bins of few utterances differ from what is expected of them. This is the mean over bins that are drawn from
        those of dev with replacement, each compared with its own. Bins of a single utterance cannot tell: None.
        """
        if len(self.errors) < 2 * _BINS:
            return None
        values = [np.asarray(each, np.float64) for each in (self.expected, self.accuracy, self.letters)]
        order = np.argsort(values[0], kind="stable")
        parts = np.array_split(order, _BINS)
        generator = np.random.default_rng(0)
        drawn = []
        for _ in range(200):
            gaps, weights = [], []
            for part in parts:
                again = generator.choice(part, len(part))
                own, other = (np.average(values[1][each], weights=values[2][each]) for each in (part, again))
                gaps.append(abs(own - other))
                weights.append(values[2][part].sum())
            drawn.append(np.average(gaps, weights=weights))
        return float(np.mean(drawn))

    def picture(self, title: str) -> bytes:
        """Return a PNG of true over expected accuracy, before and after the map."""
        bins = {"after calibration": bins_of(self.expected, self.accuracy, self.letters)}
        if self.measure in PROBABILITIES:
            bins = {f"{self.measure} itself": bins_of(self.values, self.accuracy, self.letters)} | bins
        return draw_reliability(bins | self.spelt.bins(), title=title)


def judge(scored: Sequence[Scored], vocabulary: Vocabulary, keep: KeepConfig) -> Judged:
    """Compare transcripts with their texts, choose the measure of confidence and fit its map.

    Raises:
        ManifestError: fewer than two utterances have a text.
    """
    pairs = [(each, vocabulary.reference(each.row.text or "")) for each in scored]
    pairs = [(each, reference) for each, reference in pairs if reference]
    if len(pairs) < 2:
        raise ManifestError(f"dev: {len(pairs)} utterances have a text, expected two or more; name a transcribed set")
    errors = [Levenshtein.distance(reference, each.text) for each, reference in pairs]
    letters = [len(reference) for _, reference in pairs]
    measures = {name: [each.measures[name] for each, _ in pairs] for name in pairs[0][0].measures}
    best, areas = choose_measure(measures, errors, letters)
    return Judged(
        scored=tuple(each for each, _ in pairs),
        references=tuple(reference for _, reference in pairs),
        errors=tuple(errors),
        measure=best if keep.measure == "auto" else keep.measure,
        areas=areas,
        spelt=_Letters.of([each for each, _ in pairs], [reference for _, reference in pairs], vocabulary),
    )


def draw_reliability(found: Mapping[str, Sequence[Bin]], *, title: str) -> bytes:
    """Return a PNG: true over expected accuracy of the bins of each map, with the diagonal of a perfect one."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color="grey", linestyle=":")
    for name, bins in found.items():
        axes.plot([each.expected for each in bins], [each.accuracy for each in bins], "o-", markersize=4, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("expected share of right letters")
    axes.set_ylabel("share of right letters")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="upper left", fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
