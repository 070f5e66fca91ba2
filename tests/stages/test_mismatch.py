"""Distance of two sets of speech: speechssl.stages.mismatch."""

import math

import numpy as np
import pytest
import torch

from speechssl.stages.mismatch import Mismatch, frechet_distance, jensen_shannon, mismatch, told


def utterances(number: int, *, shift: float = 0.0, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(60, 3, generator=generator) + shift for _ in range(number)]


def test_the_divergence_is_0_for_equal_shares_and_1_for_none_in_common():
    assert jensen_shannon(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == 0
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 5.0])) == 1
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))  # of the middle of (1/2, 1/2) and (0, 1)
    assert jensen_shannon(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx(entropy - 0.5)


def test_the_frechet_distance_of_one_dimension_is_that_of_mean_and_deviation():
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, (500, 2)), generator.normal(2, 3, (400, 2))
    first[:, 1] = generator.normal(0, 1, 500)
    rotated = np.linalg.svd(generator.normal(size=(2, 2)))[0]
    expected = frechet_distance(first, second)
    assert frechet_distance(first @ rotated, second @ rotated) == pytest.approx(expected)
    diagonal = [(each - each.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(each.T))).T for each in (first, second)]
    scaled = [diagonal[0] * [1, 2] + [0, 1], diagonal[1] * [3, 5]]
    assert frechet_distance(*scaled) == pytest.approx((1 - 3) ** 2 + (2 - 5) ** 2 + 1)


def test_sets_of_one_kind_are_as_far_apart_as_halves_of_one():
    found = mismatch(utterances(20), utterances(20, seed=1), seed=0)
    assert found is not None
    assert found.divergence == pytest.approx(found.divergence_within, rel=0.4)
    assert found.frechet == pytest.approx(found.frechet_within, rel=0.8)
    assert found == mismatch(utterances(20), utterances(20, seed=1), seed=0)


def test_sets_of_two_kinds_are_farther_apart_than_halves_of_one():
    found = mismatch(utterances(20), utterances(10, shift=2.0, seed=1), seed=0)
    assert found is not None
    assert found.divergence > 5 * found.divergence_within
    assert found.frechet > 20 * found.frechet_within


def test_too_few_utterances_are_not_compared():
    assert mismatch(utterances(3), utterances(20), seed=0) is None
    assert mismatch([], [], seed=0) is None


@pytest.mark.parametrize(("divergence", "frechet", "is_far"), [(0.3, 9, True), (0.3, 0.4, False), (0.03, 9, False)])
def test_sets_that_both_distances_part_are_told(divergence, frechet, is_far):
    found = Mismatch(divergence=divergence, divergence_within=0.01, frechet=frechet, frechet_within=0.1)
    assert ("They are far apart" in told(found)) == is_far
    assert f"{divergence:.3f} bits" in told(found)
    assert "too few utterances" in told(None)
