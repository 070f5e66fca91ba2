"""Error rate of frames as a sequence: runs of equal classes are merged, and the sequences are aligned."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["edit_distance", "merged"]

Classes = NDArray[np.int64]


def merged(frames: Classes) -> Classes:
    """Merge runs of equal values of (frames,) into one each."""
    return frames[np.r_[True, frames[1:] != frames[:-1]]] if len(frames) else frames


def edit_distance(reference: Classes, hypothesis: Classes) -> int:
    """Return the least number of substitutions, deletions and insertions between two sequences.

    Examples:
        >>> edit_distance(np.array([1, 2, 3]), np.array([1, 3, 3, 4]))
        2
    """
    columns = np.arange(len(hypothesis) + 1)
    row = columns.copy()
    for token in reference:
        fits = np.minimum(row[:-1] + (hypothesis != token), row[1:] + 1)  # substitution or deletion
        best = np.r_[row[0] + 1, fits]
        row = np.minimum.accumulate(best - columns) + columns  # then insertions, each one column and one error
    return int(row[-1])
