"""k-means++ in batches against its definition and against k-means++: speechssl.units.seeding."""

import itertools
import json
from collections import Counter

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.errors import LabelError
from speechssl.units import seeding
from speechssl.units.kmeans import KMeans
from speechssl.units.seeding import batched_plus_plus, kmeans_plus_plus
from tests.oracles.kmeans import oracle_inertia


def clumps(count: int, size: int, dim: int, *, apart: float, seed: int = 0) -> Tensor:
    """Draw (count * size, dim) points around `count` centres, in random order."""
    generator = torch.Generator().manual_seed(seed)
    centres = apart * torch.randn(count, 1, dim, generator=generator)
    points = (centres + torch.randn(count, size, dim, generator=generator)).flatten(0, 1)
    return points[torch.randperm(len(points), generator=generator)]


def gain(points: list[list[float]], seed: int, candidate: int) -> float:
    """Return by how much a second seed lowers the sum of squared distances to the first."""
    return oracle_inertia(points, [points[seed]]) - oracle_inertia(points, [points[seed], points[candidate]])


def oracle_pairs(points: list[list[float]]) -> dict[frozenset[int], float]:
    """Return the probability of each pair of seeds, by going through all pairs of candidates for the second."""
    pairs: dict[frozenset[int], float] = Counter()
    for first in range(len(points)):
        squares = [oracle_inertia([point], [points[first]]) for point in points]
        for one, other in itertools.product(range(len(points)), repeat=2):
            best = max(one, other, key=lambda candidate: gain(points, first, candidate))
            pairs[frozenset((first, best))] += squares[one] * squares[other] / sum(squares) ** 2 / len(points)
    return pairs


def test_seeds_are_drawn_as_the_definition_says():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.2], [3.0, 0.1], [3.5, -2.0], [-2.0, 1.0]])
    draws = 3000
    found = Counter(
        frozenset(batched_plus_plus(points, 2, torch.Generator().manual_seed(seed)).tolist()) for seed in range(draws)
    )
    expected = oracle_pairs(points.tolist())
    assert sum(expected.values()) == pytest.approx(1)
    for pair, probability in expected.items():
        assert found[pair] / draws == pytest.approx(probability, abs=4 * (probability / draws) ** 0.5)


@pytest.mark.parametrize(("count", "dim"), [(20, 6), (150, 6), (150, 160)], ids=["few", "many", "wide"])
def test_seeds_are_nearly_as_good_as_those_of_whole_kmeans_plus_plus(count, dim):
    ours, theirs = 0.0, 0.0
    for seed in range(3):
        points = clumps(count, 1200 // count, dim, apart=2.0, seed=seed)
        for choose in (batched_plus_plus, kmeans_plus_plus):
            chosen = choose(points, 50, torch.Generator().manual_seed(seed))
            assert len(chosen.unique()) == 50
            inertia = oracle_inertia(points.tolist(), points[chosen].tolist())
            ours, theirs = (ours + inertia, theirs) if choose is batched_plus_plus else (ours, theirs + inertia)
    assert ours <= 1.06 * theirs


def test_every_clump_far_from_the_others_gets_a_seed():
    centres = 500 * torch.eye(40, 160)
    points = (centres[:, None] + clumps(1, 4000, 160, apart=0.0).view(40, 100, 160)).transpose(0, 1).flatten(0, 1)
    for seed in range(5):
        chosen = batched_plus_plus(points, 40, torch.Generator().manual_seed(seed))
        assert (chosen % 40).unique().tolist() == list(range(40))


@pytest.mark.parametrize("dim", [39, 256])
def test_batches_never_hold_a_point_twice(monkeypatch, dim):
    monkeypatch.setattr(seeding, "kmeans_plus_plus", lambda *_: pytest.fail("chosen again, one after the other"))
    for seed in range(5):
        points = clumps(40, 100, dim, apart=1.0, seed=seed)
        chosen = batched_plus_plus(points, 300, torch.Generator().manual_seed(seed))
        assert len(chosen.unique()) == 300


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_equal_points_are_taken_once_and_too_few_are_an_error(offset):
    points = (clumps(40, 1, 70, apart=1.0) + offset).repeat(20, 1)
    for seed in range(5):
        chosen = batched_plus_plus(points, 40, torch.Generator().manual_seed(seed))
        assert len(points[chosen].unique(dim=0)) == 40
    with pytest.raises(LabelError, match="only 40 distinct frames for 41 clusters"):
        batched_plus_plus(points, 41, torch.Generator())


def test_points_that_come_late_are_taken_if_the_first_are_too_few():
    points = torch.cat([torch.zeros(5000, 3), clumps(40, 1, 3, apart=1.0)])
    assert len(points[batched_plus_plus(points, 41, torch.Generator())].unique(dim=0)) == 41


@pytest.mark.parametrize(("clusters", "method"), [(8, "k-means++"), (40, "batched")])
def test_the_method_follows_from_the_clusters_and_is_saved(tmp_path, clusters, method):
    kmeans = KMeans(n_clusters=clusters).fit(clumps(60, 20, 3, apart=5.0))
    kmeans.save(tmp_path / "kmeans.safetensors")
    loaded = KMeans.load(tmp_path / "kmeans.safetensors")
    assert (kmeans.init, kmeans.seeding_) == (loaded.init, loaded.seeding_) == ("auto", method)
    named = KMeans(n_clusters=clusters, init=method).fit(clumps(60, 20, 3, apart=5.0))
    assert named.fingerprint == kmeans.fingerprint


def test_files_of_versions_that_did_not_choose_name_their_method(tmp_path):
    path = tmp_path / "kmeans.safetensors"
    KMeans(n_clusters=4, init="k-means||").fit(clumps(6, 20, 3, apart=5.0)).save(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["speechssl"])
    del about["found"]["seeding"]
    save_file(load_file(path), path, {"speechssl": json.dumps(about)})
    assert KMeans.load(path).seeding_ == "k-means||"


def test_seeds_of_a_first_batch_are_named_too():
    assert KMeans(n_clusters=40).partial_fit(clumps(60, 20, 3, apart=5.0)).seeding_ == "batched"
