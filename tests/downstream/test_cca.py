"""Projection-weighted canonical correlation."""

import numpy as np
import pytest

from speechssl.downstream.cca import JointSpread


def _views(frames: int = 500) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    shared = random.normal(size=(frames, 2))
    one = np.c_[shared, random.normal(size=(frames, 3))] @ random.normal(size=(5, 5)) + 7
    other = np.c_[shared + random.normal(size=(frames, 2)), random.normal(size=frames)]
    return one, other


def _spread(one: np.ndarray, other: np.ndarray, piece: int = 500) -> JointSpread:
    spread = JointSpread(one.shape[1], other.shape[1])
    for start in range(0, len(one), piece):
        spread.add(one[start : start + piece], other[start : start + piece])
    return spread


def _oracle(one: np.ndarray, other: np.ndarray) -> float:
    """Take orthonormal bases of the centred views: their cosines are the correlations, their columns the variates."""
    one, other = one - one.mean(0), other - other.mean(0)
    basis, other_basis = (np.linalg.qr(view)[0] for view in (one, other))
    directions, correlations, _ = np.linalg.svd(basis.T @ other_basis, full_matrices=False)
    variates = basis @ directions
    weights = [sum(abs(float(variate @ neuron)) for neuron in one.T) for variate in variates.T]
    return float(np.average(correlations, weights=weights))


@pytest.mark.parametrize("piece", [500, 90, 1])
def test_the_correlation_is_that_of_all_frames_at_once(piece):
    one, other = _views()
    assert _spread(one, other, piece).correlation() == pytest.approx(_oracle(one, other), abs=1e-9)


def test_some_columns_of_the_other_view_count_alone():
    one, other = _views()
    expected = _oracle(one, other[:, 1:])
    assert _spread(one, other).correlation(slice(1, 3)) == pytest.approx(expected, abs=1e-9)


def test_a_linear_map_is_wholly_correlated_and_dependent_columns_do_no_harm():
    one, _ = _views()
    one_hot = np.eye(3)[np.arange(500) % 3]  # its columns sum to 1
    assert _spread(one, one @ np.diag([1.0, 2.0, 0.5, 3.0, 1.0])).correlation() == pytest.approx(1)
    assert _spread(np.c_[one_hot, one], one_hot).correlation() == pytest.approx(1)


def test_noise_has_what_chance_gives_and_a_constant_nothing():
    random = np.random.default_rng(1)
    noise = _spread(random.normal(size=(20_000, 5)), random.normal(size=(20_000, 5))).correlation()
    assert 0 < noise < 0.03
    assert _spread(np.ones((10, 2)), random.normal(size=(10, 2))).correlation() == 0
