"""Scores of classes, all from one table of counts: accuracy, balanced accuracy, macro F1."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["accuracy", "balanced_accuracy", "confusion", "macro_f1"]

Counts = NDArray[np.float64]  # (classes, classes): answers in rows, predictions in columns


def confusion(cells: NDArray[np.int64], weights: NDArray[np.float64], classes: int) -> Counts:
    """Count how often each class was predicted for each.

    Args:
        cells: (any,) answer x `classes` + prediction.
        weights: (any,) how often the cell occurred.
        classes: number of classes.
    """
    return np.bincount(cells, weights, classes * classes).reshape(classes, classes).astype(np.float64)


def accuracy(counts: Counts) -> float:
    """Return the share of right predictions; NaN without any."""
    total = counts.sum()
    return float(np.trace(counts) / total) if total else float("nan")


def balanced_accuracy(counts: Counts) -> float:
    """Return the mean of the classes' shares of right predictions, over the classes that occur as answers."""
    wanted = counts.sum(1)
    is_there = wanted > 0
    return float((np.diag(counts)[is_there] / wanted[is_there]).mean()) if is_there.any() else float("nan")


def macro_f1(counts: Counts) -> float:
    """Return the mean F1 of the classes that occur as answers or predictions."""
    both = counts.sum(0) + counts.sum(1)
    is_there = both > 0
    return float((2 * np.diag(counts)[is_there] / both[is_there]).mean()) if is_there.any() else float("nan")
