"""Dynamic time warping of many pairs of sequences at once: the mean cost of a frame pair along the cheapest path.

A step goes one frame on in either sequence or in both, at equal weight. The mean depends on the path where several are
equally cheap; then, seen from the end, the step in both is taken first and a step in the second before one in the
first, as in torchdtw (the aligner of fastabx), so that equal costs give equal means in both.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["mean_path_costs"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
_AT_ONCE = 2**15  # cells of one diagonal that are computed together: a few arrays of them fit the processor's cache


def mean_path_costs(costs: Floats, starts: Counts, strides: Counts, rows: Counts, columns: Counts) -> Floats:
    """Return the mean cost along the cheapest path of each pair.

    Pairs of similar lengths are computed together, one anti-diagonal of their lattices at a time.

    Args:
        costs: (cells,) costs of all lattices, row by row.
        starts: (pairs,) index of the first cell of each lattice.
        strides: (pairs,) cells from one row of a lattice to its next.
        rows: (pairs,) frames of the first sequence, at least 1.
        columns: (pairs,) frames of the second sequence, at least 1.

    Returns:
        (pairs,) sum of the costs along the path, divided by its number of cells.
    """
    means = np.empty(len(starts))
    order = np.lexsort((columns, rows))
    first = 0
    while first < len(order):
        longest = int(rows[order[first : first + _AT_ONCE]].max())
        some = order[first : first + max(1, _AT_ONCE // longest)]
        means[some] = _of_similar(costs, starts[some], strides[some], rows[some], columns[some])
        first += len(some)
    return means


def _of_similar(costs: Floats, starts: Counts, strides: Counts, rows: Counts, columns: Counts) -> Floats:
    """Compute pairs whose lattices fit a common grid; cells outside a lattice cost infinity."""
    height, width = int(rows.max()), int(columns.max())
    row = np.arange(height)[:, None]
    cell = starts + row * (strides - 1)  # (height, pairs): index of a cell of row i on diagonal k, less k
    is_row = row < rows
    # sums and lengths of the best paths to each cell of the last two diagonals, below a row 0 that no path enters
    sums, before = np.full((2, height + 1, len(starts)), np.inf)
    lengths, lengths_before = np.zeros((2, height + 1, len(starts)))
    before[0] = 0.0  # the path to the first cell comes from here
    means = np.empty(len(starts))
    for diagonal in range(height + width - 1):
        column = diagonal - row
        is_cell = is_row & (column >= 0) & (column < columns)
        here = np.where(is_cell, costs[np.where(is_cell, cell + diagonal, 0)], np.inf)
        both, second, first = before[:-1], sums[1:], sums[:-1]
        takes_second = second <= first
        shorter = np.where(takes_second, second, first)
        takes_both = both <= shorter
        new_sums, new_lengths = np.full_like(sums, np.inf), np.zeros_like(lengths)
        new_sums[1:] = here + np.where(takes_both, both, shorter)
        steps = np.where(takes_second, lengths[1:], lengths[:-1])
        new_lengths[1:] = 1 + np.where(takes_both, lengths_before[:-1], steps)
        before, sums, lengths_before, lengths = sums, new_sums, lengths, new_lengths
        ending = np.flatnonzero(rows + columns - 2 == diagonal)
        means[ending] = sums[rows[ending], ending] / lengths[rows[ending], ending]
    return means
