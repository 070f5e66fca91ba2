"""Scores of a head's predictions by name, of any selection of utterances, with intervals of the mean over seeds."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speechssl.asr.scoring.intervals import Interval
from speechssl.downstream.bootstrap import Indices, draws, interval_of
from speechssl.downstream.class_scores import accuracy, balanced_accuracy, confusion, macro_f1
from speechssl.downstream.frame_errors import edit_distance, merged
from speechssl.downstream.value_scores import mae, pearson, r2, spearman

__all__ = ["ClassScorer", "FrameScorer", "Scorer", "ValueScorer", "intervals_of", "mean_scores"]


class Scorer(Protocol):
    """The predictions for some utterances, ready to be scored."""

    def scores(self, indices: Indices | None = None) -> dict[str, float]:
        """Score the utterances with these indices, repeated as often as they occur; None for all of them once."""
        ...


class ClassScorer:
    """Scores of classes of utterances."""

    def __init__(self, answers: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> None:
        """Take (utterances,) classes."""
        self._cells, self._classes = answers * classes + predicted, classes

    def counts(self, indices: Indices | None = None) -> NDArray[np.float64]:
        """Return the (classes, classes) table: answers in rows, predictions in columns."""
        cells = self._cells if indices is None else self._cells[indices]
        return confusion(cells, np.ones(len(cells)), self._classes)

    def scores(self, indices: Indices | None = None) -> dict[str, float]:
        """Return accuracy, balanced accuracy and macro F1."""
        return _class_scores(self.counts(indices))


class FrameScorer:
    """Scores of classes of frames; the error rate is that of their merged sequences, summed over utterances."""

    def __init__(
        self, answers: Sequence[NDArray[np.int64]], predicted: Sequence[NDArray[np.int64]], classes: int
    ) -> None:
        """Take the (frames,) classes of each utterance; frames with an answer below 0 are left out."""
        self._classes, cells = classes, []
        self._errors, self._tokens = np.zeros((2, len(answers)), np.int64)
        for number, (wanted, found) in enumerate(zip(answers, predicted, strict=True)):
            wanted, found = wanted[wanted >= 0], found[wanted >= 0]
            cell, count = np.unique(wanted * classes + found, return_counts=True)
            cells.append(np.stack([np.full(len(cell), number), cell, count]))
            reference = merged(wanted)
            self._errors[number], self._tokens[number] = edit_distance(reference, merged(found)), len(reference)
        self._owners, self._cells, self._counts = np.concatenate(cells, 1)

    def counts(self, indices: Indices | None = None) -> NDArray[np.float64]:
        """Return the (classes, classes) table of frames: answers in rows, predictions in columns."""
        return confusion(self._cells, self._counts * self._drawn(indices)[self._owners], self._classes)

    def scores(self, indices: Indices | None = None) -> dict[str, float]:
        """Return accuracy, balanced accuracy and macro F1 of frames, and the error rate of sequences."""
        drawn = self._drawn(indices)
        tokens = float(drawn @ self._tokens)
        rate = float(drawn @ self._errors) / tokens if tokens else float("nan")
        return _class_scores(self.counts(indices)) | {"error_rate": rate}

    def _drawn(self, indices: Indices | None) -> NDArray[np.float64]:
        """Return how often each utterance counts."""
        size = len(self._errors)
        return np.ones(size) if indices is None else np.bincount(indices, minlength=size).astype(np.float64)


class ValueScorer:
    """Scores of numbers of utterances."""

    def __init__(self, answers: NDArray[np.float64], predicted: NDArray[np.float64]) -> None:
        """Take (utterances,) numbers."""
        self._answers, self._predicted = answers, predicted

    def scores(self, indices: Indices | None = None) -> dict[str, float]:
        """Return mean absolute error, Pearson's and Spearman's correlation, and R2."""
        chosen = slice(None) if indices is None else indices
        answers, predicted = self._answers[chosen], self._predicted[chosen]
        return {
            "mae": mae(answers, predicted),
            "pearson": pearson(answers, predicted),
            "spearman": spearman(answers, predicted),
            "r2": r2(answers, predicted),
        }


def mean_scores(scorers: Sequence[Scorer], indices: Indices | None = None) -> dict[str, float]:
    """Return the mean of each score over the predictions of several seeds for the same utterances."""
    each = [scorer.scores(indices) for scorer in scorers]
    return {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}


def intervals_of(
    scorers: Sequence[Scorer], blocks: Sequence[str], *, samples: int = 1000, seed: int = 0
) -> Mapping[str, Interval]:
    """Return the 95 % bootstrap interval of each mean score over seeds; `blocks` as in `bootstrap.draws`."""
    drawn = [mean_scores(scorers, indices) for indices in draws(blocks, samples=samples, seed=seed)]
    return {name: interval_of([scores[name] for scores in drawn]) for name in drawn[0]}


def _class_scores(counts: NDArray[np.float64]) -> dict[str, float]:
    return {
        "accuracy": accuracy(counts),
        "balanced_accuracy": balanced_accuracy(counts),
        "macro_f1": macro_f1(counts),
    }
