"""Alignment and uniformity of features on the unit sphere (Wang and Isola 2020, arXiv:2005.10242)."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["alignment", "uniformity"]

Features = NDArray[np.float32]
_AT_ONCE = 512  # rows whose distances to all are in memory at a time


def alignment(features: Features, augmented: Features) -> float:
    """Return the mean squared distance of (pairs, dim) features from those of the same speech, changed; 0 is best."""
    return float(((_on_sphere(features) - _on_sphere(augmented)) ** 2).sum(1).mean())


def uniformity(features: Features) -> float:
    """Return the log of the mean of exp(-2 x squared distance) over pairs of different (frames, dim) features.

    0 if all directions are equal; about -4 if they are spread evenly in many dimensions, which is best.
    """
    points = _on_sphere(features)
    total = 0.0
    for start in range(0, len(points), _AT_ONCE):
        cosines = points[start : start + _AT_ONCE] @ points.T
        total += float(np.exp(-2 * (2 - 2 * cosines)).sum())
    count = len(points)
    itself = float(np.exp(-4 * (1 - (points**2).sum(1))).sum())  # not quite `count` if a frame is all zeros
    return float(np.log((total - itself) / (count * (count - 1))))


def _on_sphere(features: Features) -> NDArray[np.float64]:
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1.0)
