"""Isotropy of features."""

import math

import numpy as np
import pytest

from speechssl.downstream.isotropy import MeanCosine, iso_score


def test_the_mean_cosine_is_that_of_all_pairs():
    frames = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32) + 1
    tally = MeanCosine(4)
    for start in range(0, 30, 7):
        tally.add(frames[start : start + 7])
    tally.add(np.zeros((3, 4), np.float32))  # without a direction
    cosines = [
        float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))
        for i, one in enumerate(frames.astype(float))
        for j, other in enumerate(frames.astype(float))
        if i != j
    ]
    assert tally.value() == pytest.approx(np.mean(cosines), abs=1e-6)


def test_one_frame_has_no_mean():
    tally = MeanCosine(2)
    tally.add(np.ones((1, 2), np.float32))
    assert math.isnan(tally.value())


def _iso_score_by_its_steps(variances: np.ndarray) -> float:
    dim = len(variances)
    normalised = math.sqrt(dim) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (dim - math.sqrt(dim)))
    share = (dim - defect**2 * (dim - math.sqrt(dim))) ** 2 / dim**2
    return (dim * share - 1) / (dim - 1)


@pytest.mark.parametrize("variances", [[1, 2, 3.0], [5, 1, 1, 1e-3], [1, 0, 0.0], [2, 2.0]])
def test_the_score_is_that_of_its_definition(variances):
    assert iso_score(np.array(variances)) == pytest.approx(_iso_score_by_its_steps(np.array(variances)), abs=1e-12)


def test_it_goes_from_one_axis_to_all():
    assert iso_score(np.array([0, 0, 3.0])) == pytest.approx(0)
    assert iso_score(np.ones(7)) == pytest.approx(1)
    assert iso_score(np.zeros(3)) == 0
