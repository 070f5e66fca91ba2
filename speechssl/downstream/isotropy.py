"""How evenly features use their dimensions: mean cosine of frames, and IsoScore; both in constant memory."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["MeanCosine", "iso_score"]


class MeanCosine:
    """Mean cosine of all pairs of different frames (Ethayarajh 2019): 0 for even directions, 1 for a single one."""

    def __init__(self, dim: int) -> None:
        """Start without frames, in `dim` dimensions."""
        self.count = 0
        self._sum = np.zeros(dim)

    def add(self, features: NDArray[np.float32]) -> None:
        """Add (frames, dim) features; frames that are all zeros have no direction and are left out."""
        lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
        is_there = lengths[:, 0] > 0
        self._sum += (features[is_there] / lengths[is_there]).sum(0)
        self.count += int(is_there.sum())

    def value(self) -> float:
        """Return the mean; NaN with fewer than two frames."""
        if self.count < 2:
            return float("nan")
        return float((self._sum @ self._sum - self.count) / (self.count * (self.count - 1)))


def iso_score(variances: NDArray[np.float64]) -> float:
    """Return the IsoScore (Rudman et al. 2022, arXiv:2108.07344) of features with these variances of their main axes.

    0 if one axis has all the variance, 1 if all have the same. Steps 3 to 6 of its definition reduce to
    (p - 1) / (dim - 1), with the participation ratio p, the squared sum of the variances over the sum of their squares.

    Args:
        variances: (dim,), to any scale, dim at least 2.
    """
    variances = variances.clip(min=0)
    squares = float((variances**2).sum())
    return (float(variances.sum()) ** 2 / squares - 1) / (len(variances) - 1) if squares > 0 else 0.0
