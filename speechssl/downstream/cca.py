"""How much of two views of the same frames is linear in each other: projection-weighted CCA, in constant memory.

Canonical correlations of features with log-mel energies or with phones, layer by layer, follow Pasad, Chou and Livescu
2021 (arXiv:2107.04734); their mean is weighted as in Morcos, Raghu and Bengio 2018 (PWCCA).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["JointSpread"]

_LEAST = 1e-6  # variances below this share of the largest are rounding of float32 features, no direction of their own


class JointSpread:
    """Means and second moments of pairs of vectors, in float64 (merged as in `units.quality.FeatureSpread`)."""

    def __init__(self, dim: int, other_dim: int) -> None:
        """Start without pairs, of vectors with `dim` and `other_dim` dimensions."""
        self.dim = dim
        self.count = 0
        self._mean = np.zeros(dim + other_dim)
        self._scatter = np.zeros((dim + other_dim, dim + other_dim))

    def add(self, features: NDArray[np.float32], others: NDArray[np.float32]) -> None:
        """Add (frames, dim) features with their (frames, other_dim) other view."""
        if not len(features):
            return
        both = np.c_[features, others].astype(np.float64)
        mean = both.mean(0)
        offset, total = mean - self._mean, self.count + len(both)
        centred = both - mean
        self._scatter += centred.T @ centred + np.outer(offset, offset) * (self.count * len(both) / total)
        self._mean += offset * (len(both) / total)
        self.count = total

    def correlation(self, columns: slice = slice(None)) -> float:
        """Return the mean canonical correlation, each weighted by what it carries of the features; from 0 to 1.

        Args:
            columns: dimensions of the other view that count.

        The weight of a canonical variate is the sum of its absolute inner products with the dimensions of the
        features. 0 if either view is constant. With few frames for the dimensions chance is far above 0.
        """
        features, across = self._scatter[: self.dim, : self.dim], self._scatter[: self.dim, self.dim :][:, columns]
        one = _whitening(features)
        other = _whitening(self._scatter[self.dim :, self.dim :][columns, columns])
        if not one.size or not other.size:
            return 0.0
        directions, correlations, _ = np.linalg.svd(one.T @ across @ other, full_matrices=False)
        weights = np.abs(features @ one @ directions).sum(0)
        return float((weights * correlations.clip(0, 1)).sum() / weights.sum())


def _whitening(scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (dim, rank) matrix that makes the centred view's dimensions orthonormal."""
    variances, axes = np.linalg.eigh(scatter)
    is_there = variances > max(_LEAST * variances[-1], 0)
    return axes[:, is_there] / np.sqrt(variances[is_there])
