"""Scores of predicted numbers: mean absolute error, correlations, and the share of explained variance."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["mae", "pearson", "r2", "ranks", "spearman"]

Values = NDArray[np.float64]


def mae(answers: Values, predicted: Values) -> float:
    """Return the mean absolute error."""
    return float(np.abs(answers - predicted).mean())


def r2(answers: Values, predicted: Values) -> float:
    """Return 1 minus the squared error over that of the mean of the answers; NaN if all answers are equal."""
    total = np.square(answers - answers.mean()).sum()
    return float(1 - np.square(answers - predicted).sum() / total) if total > 0 else float("nan")


def pearson(answers: Values, predicted: Values) -> float:
    """Return the correlation; NaN if all answers or all predictions are equal."""
    one, other = answers - answers.mean(), predicted - predicted.mean()
    norm = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float((one * other).sum() / norm) if norm > 0 else float("nan")


def spearman(answers: Values, predicted: Values) -> float:
    """Return the correlation of the ranks."""
    return pearson(ranks(answers), ranks(predicted))


def ranks(values: Values) -> Values:
    """Return the ranks of (any,) values from 1 on; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
