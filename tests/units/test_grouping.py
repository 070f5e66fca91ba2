"""Sums over sorted points as on a GPU, tested on the CPU: speechssl.units.assignment."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.units import assignment as grouping
from speechssl.units.assignment import sorted_sums


def oracle_sums(points: list[list[float]], labels: list[int], clusters: int) -> tuple[list[list[float]], list[int]]:
    """Add the points to their clusters one by one."""
    sums, counts = [[0.0] * len(points[0]) for _ in range(clusters)], [0] * clusters
    for point, label in zip(points, labels, strict=True):
        counts[label] += 1
        for dim, value in enumerate(point):
            sums[label][dim] += value
    return sums, counts


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 12), st.integers(1, 4), st.integers(1, 9))
def test_sums_and_counts_match_the_oracle(seed, num_points, clusters, dim, run):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_points, dim, generator=generator)
    labels = torch.randint(clusters, (num_points,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_RUN", run)
        sums, counts = sorted_sums(points, labels, clusters)
    expected, numbers = oracle_sums(points.tolist(), labels.tolist(), clusters)
    torch.testing.assert_close(sums, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert counts.tolist() == numbers


@pytest.mark.parametrize("labels", [[0] * 5, [4] * 5, [2, 2, 0, 4, 2], []], ids=["first", "last", "mixed", "none"])
def test_clusters_without_points_have_zeros(labels):
    points = torch.arange(1.0, 2 * len(labels) + 1).view(len(labels), 2)
    sums, counts = sorted_sums(points, torch.tensor(labels, dtype=torch.long), 5)
    assert counts.tolist() == [labels.count(cluster) for cluster in range(5)]
    assert (sums[counts == 0] == 0).all()
    assert sums.sum(0).tolist() == points.sum(0).tolist()


def test_many_clusters_and_other_types_are_summed_too():
    points = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)).half()
    labels = torch.arange(5000) % 3 * 20_000
    sums, counts = sorted_sums(points, labels, 2**15 + 10_000)
    assert counts.sum() == 5000
    expected = torch.stack([points[i::3].double().sum(0) for i in range(3)])
    torch.testing.assert_close(sums[::20_000], expected, rtol=1e-5, atol=1e-4)


def test_sums_are_the_same_each_time_and_large_clusters_lose_few_digits():
    points = torch.full((2**18, 2), 0.1) + 1000
    labels = torch.zeros(2**18, dtype=torch.long)
    sums, _ = sorted_sums(points, labels, 2)
    assert torch.equal(sums, sorted_sums(points, labels, 2)[0])
    torch.testing.assert_close(sums[0], points.double().sum(0), rtol=1e-5, atol=0)
