"""Dynamic time warping of many pairs at once."""

import numpy as np
import pytest

from speechssl.downstream import dtw
from speechssl.downstream.dtw import mean_path_costs
from tests.oracles.abx import oracle_path_mean


def _aligned(lattices: list[np.ndarray]) -> np.ndarray:
    sizes = np.array([lattice.size for lattice in lattices])
    rows, columns = np.array([lattice.shape for lattice in lattices]).T
    costs = np.concatenate([lattice.ravel() for lattice in lattices])
    return mean_path_costs(costs, np.cumsum(sizes) - sizes, columns, rows, columns)


@pytest.mark.parametrize("levels", [None, 2, 3], ids=["no ties", "many ties", "ties"])
@pytest.mark.parametrize("at_once", [1, 40, 2**15], ids=["one by one", "few", "all"])
def test_pairs_of_all_lengths_are_aligned_as_one_by_one(monkeypatch, levels, at_once):
    monkeypatch.setattr(dtw, "_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    lattices = [
        random.random(shape) if levels is None else random.integers(levels, size=shape).astype(float)
        for shape in random.integers(1, 9, size=(200, 2))
    ]
    assert _aligned(lattices) == pytest.approx([oracle_path_mean(lattice) for lattice in lattices], abs=1e-12)


def test_of_equally_cheap_paths_the_one_with_a_step_in_both_counts_although_its_mean_is_higher():
    assert _aligned([np.array([[1.0, 0.0], [9.0, 1.0]])]) == pytest.approx([2 / 2])  # round by the 0: 2 / 3
