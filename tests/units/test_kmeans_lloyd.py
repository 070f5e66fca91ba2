"""Lloyd iterations and seeds against the definition: speechssl.units.lloyd, assignment and seeding."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.errors import LabelError
from speechssl.parallel import Ranks
from speechssl.units import seeding
from speechssl.units.assignment import ClusterSums, Nearest, cluster_sums, sum_clusters
from speechssl.units.kmeans import KMeans
from speechssl.units.lloyd import LloydConfig, Problem, Shortcut, Step, refill, run_lloyd
from speechssl.units.points import TensorPoints
from speechssl.units.seeding import choose_seeds, kmeans_plus_plus
from tests.oracles.kmeans import oracle_inertia, oracle_lloyd, oracle_nearest


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


shapes = st.tuples(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 12), st.integers(1, 6))


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 9), st.sampled_from([0.0, 100.0]))
def test_assignment_and_sums_match_the_oracle(shape, tile, offset):
    seed, num_points, clusters, dim = shape
    points, centroids = drawn(seed, num_points, dim) + offset, drawn(seed + 1, clusters, dim) + offset
    nearest = Nearest(centroids)
    nearest.tile = tile
    labels, distances = nearest(points)
    expected = [oracle_nearest(point, centroids.tolist()) for point in points.tolist()]
    for label, distance, point, (_, smallest) in zip(labels, distances, points, expected, strict=True):
        assert float((point.double() - centroids[label].double()).square().sum()) == pytest.approx(smallest, abs=1e-3)
        assert float(distance) == pytest.approx(smallest, abs=1e-3)
    sums = sum_clusters(points.split(7), nearest)
    assert sums.counts.tolist() == torch.bincount(labels, minlength=clusters).tolist()
    assert float(sums.inertia) == pytest.approx(oracle_inertia(points.tolist(), centroids.tolist()), abs=1e-2)
    moved = torch.tensor(oracle_lloyd(points.tolist(), centroids.tolist(), 1))
    torch.testing.assert_close(sums.means(centroids), moved, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_of_equally_near_centroids_the_first_is_taken(offset):
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]) + offset
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [-1.0, -1.0], [-3.0, 3.0]]) + offset
    expected = [oracle_nearest(point, corners.tolist())[0] for point in points.tolist()]
    assert Nearest(corners)(points)[0].tolist() == expected == [0, 0, 0, 3, 1]


def test_bfloat16_rounds_the_factors_and_nothing_after_them():
    points, centroids = drawn(0, 200, 64), drawn(1, 30, 64)
    products = points.bfloat16().double() @ centroids.bfloat16().double().T
    expected = centroids.bfloat16().double().square().sum(1) - 2 * products
    found = Nearest(centroids, "bfloat16").partial(points).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(found, expected.bfloat16().double(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("clusters", [7, 2**15 + 1])
def test_sums_of_clusters_are_those_of_their_points(clusters):
    points = drawn(0, 500, 3)
    labels = torch.randint(clusters, (500,), generator=torch.Generator().manual_seed(1))
    labels[:2] = torch.tensor([clusters - 1, 0])
    expected = torch.zeros(clusters, 3).index_add_(0, labels, points)
    torch.testing.assert_close(cluster_sums(points, labels, torch.bincount(labels, minlength=clusters)), expected)


def test_memory_does_not_grow_with_points_times_clusters():
    points, nearest = drawn(0, 200_000, 4), Nearest(drawn(1, 2000, 4))
    nearest(points[:5000])
    before = resident_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most is counted from here
    nearest(points)
    assert resident_kib("VmHWM") - before < 50 * 2**10  # all distances are 1.5 GiB


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5))
def test_the_shortcut_finds_what_the_plain_path_finds_ties_too(seed, clusters, count):
    generator = torch.Generator().manual_seed(seed)
    points, centroids = (torch.randint(-2, 3, (n, 6), generator=generator).float() for n in (100, clusters))
    directions = torch.eye(6)[:, torch.randperm(6, generator=generator)[:count]]  # so that all is exact, and many tie
    labels, distances = Shortcut(centroids, directions)(points)
    expected = [oracle_nearest(point, centroids.tolist()) for point in points.tolist()]
    assert labels.tolist() == Nearest(centroids)(points)[0].tolist() == [label for label, _ in expected]
    torch.testing.assert_close(distances, torch.tensor([each for _, each in expected]), rtol=1e-3, atol=1e-3)


def test_the_shortcut_proves_most_labels_and_works_out_the_rest(monkeypatch):
    points = drawn(0, 1500, 96) * torch.cat([torch.full((8,), 5.0), torch.full((88,), 0.3)])
    centroids, directions = points[::15].clone(), torch.eye(96)[:, :8]
    shortcut, asked = Shortcut(centroids, directions), []
    exact = shortcut.exact.__call__
    monkeypatch.setattr(shortcut, "exact", lambda rows: (asked.append(len(rows)), exact(rows))[1])
    labels, distances = shortcut(points)
    assert 0 < sum(asked) < 750
    expected = Nearest(centroids)(points)
    assert torch.equal(labels, expected[0])
    torch.testing.assert_close(distances, expected[1], rtol=1e-4, atol=1e-2)


def test_a_fit_takes_the_shortcut_and_ends_where_it_would_without(monkeypatch):
    points = drawn(0, 200, 1, 6).mul(10).add(drawn(1, 200, 20, 6)).flatten(0, 1) @ drawn(2, 6, 128)
    taken: list = []
    made = Shortcut.__init__
    monkeypatch.setattr(Shortcut, "__init__", lambda self, *given: (taken.append(1), made(self, *given))[1])
    short = KMeans(n_clusters=150).fit(points)
    assert taken
    monkeypatch.setattr("speechssl.units.lloyd.Shortcut", lambda centroids, _: Nearest(centroids))
    plain = KMeans(n_clusters=150).fit(points)
    torch.testing.assert_close(short.cluster_centers_, plain.cluster_centers_, rtol=1e-4, atol=1e-3)
    assert short.inertia_ == pytest.approx(plain.inertia_, rel=1e-4)


def alone(points: Tensor) -> Problem:
    ranks = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
    return Problem(
        points=TensorPoints(points), num_points=len(points), sample=points, scaled=lambda block: block, ranks=ranks
    )


def test_momentum_reaches_sooner_what_iterations_without_it_end_at():
    without, sooner = 0, 0
    for seed in range(4):
        points, traces = drawn(seed, 3000, 8), {}
        start = Step(iteration=0, size=3000, centroids=points[:30], inertia=0.0, gain=0.0)
        for momentum in (0.0, LloydConfig().momentum):
            inertias: list[float] = []
            config = LloydConfig(momentum=momentum)
            run_lloyd(alone(points), start, config, lambda step, kept=inertias: kept.append(step.inertia))
            traces[momentum] = inertias
        slow, fast = traces.values()
        without += len(slow)
        sooner += sum(inertia > slow[-1] for inertia in fast)
    assert sooner < 0.8 * without


def test_rough_products_err_by_no_more_than_rounded_factors_and_only_for_wide_points():
    points, centroids = drawn(0, 300, 128), drawn(1, 40, 128)
    exact = Nearest(centroids).partial(points).clone()
    error = (Nearest(centroids, rough=True).partial(points) - exact).abs()
    assert (error <= 2 * 2**-7 * (points.abs() @ centroids.abs().T)).all()
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"
    narrow = points[:, :39].contiguous(), centroids[:, :39].contiguous()
    assert torch.equal(Nearest(narrow[1], rough=True).partial(narrow[0]), Nearest(narrow[1]).partial(narrow[0]))


@pytest.mark.parametrize(
    ("changes", "is_rough"),
    [({}, True), ({"algorithm": "lloyd"}, False), ({"tol": 0.5}, False)],
    ids=["nested", "lloyd", "ends early"],
)
def test_the_first_iterations_may_round_products_and_the_last_never_does(monkeypatch, changes, is_rough):
    asked: list[bool] = []
    add_up = Problem.add_up
    monkeypatch.setattr(
        Problem, "add_up", lambda *given, rough=False: (asked.append(rough), add_up(*given, rough=rough))[1]
    )
    KMeans(n_clusters=10, **changes).fit(drawn(0, 3000, 100))
    assert asked[-2:] == [False, False]  # the last iteration, and the inertia
    assert asked[1] == is_rough
    assert is_rough or not any(asked[1:])


def test_products_are_exact_in_the_end_though_no_iteration_gains_little(monkeypatch):
    asked: list[bool] = []
    add_up = Problem.add_up

    def of_other_points(_: Problem, *given: object, rough: bool) -> ClusterSums:
        asked.append(rough)
        return add_up(alone(drawn(len(asked), 50, 2)), *given)

    monkeypatch.setattr(Problem, "add_up", of_other_points)
    start = Step(iteration=0, size=50, centroids=drawn(0, 3, 2), inertia=0.0, gain=0.0)
    run_lloyd(alone(drawn(0, 50, 2)), start, LloydConfig(max_iter=30), lambda _: None)
    assert asked == [True] * 20 + [False] * 10


def resident_kib(name: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0])


@pytest.mark.parametrize("seed", range(5))
def test_full_iterations_are_lloyds(seed):
    points, steps = drawn(seed, 80, 3), []
    kmeans = KMeans(n_clusters=5, algorithm="lloyd", seed=seed, tol=0.0)
    kmeans.fit(points, report=steps.append)
    for before, after in itertools.pairwise(steps):
        expected = oracle_lloyd(points.tolist(), before.centroids.tolist(), 1)
        torch.testing.assert_close(after.centroids, torch.tensor(expected), rtol=1e-4, atol=1e-4)
        assert after.inertia * 80 == pytest.approx(oracle_inertia(points.tolist(), before.centroids.tolist()), rel=1e-4)


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "batched"])
def test_seeds_are_different_points_that_spread(init):
    points = drawn(0, 20, 1, 3).mul(100).add(drawn(1, 20, 50, 3)).flatten(0, 1)  # 20 groups, far apart
    chosen = choose_seeds(points, 20, init, torch.Generator().manual_seed(0))
    assert len(chosen.unique()) == 20
    assert len((chosen // 50).unique()) >= 19


def test_rounds_of_many_draws_take_about_two_candidates_a_cluster_each(monkeypatch):
    candidates = []
    monkeypatch.setattr(
        seeding,
        "kmeans_plus_plus",
        lambda points, *args: candidates.append(len(points)) or kmeans_plus_plus(points, *args),
    )
    for seed in range(5):
        choose_seeds(drawn(seed, 4000, 8), 20, "k-means||", torch.Generator().manual_seed(seed))
    assert sum(candidates) / 5 == pytest.approx(1 + 5 * 2 * 20, rel=0.05)  # the first, and five rounds


def test_seeds_are_drawn_by_weight_too():
    points, weights = drawn(0, 30, 2), torch.zeros(30)
    weights[[3, 8, 11]] = 1.0
    chosen = kmeans_plus_plus(points, 3, torch.Generator().manual_seed(0), weights)
    assert sorted(chosen.tolist()) == [3, 8, 11]


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "batched"])
def test_equal_points_are_taken_once(init):
    values = drawn(0, 6, 4)
    points = values.repeat(50, 1)
    for seed in range(5):
        chosen = choose_seeds(points, 6, init, torch.Generator().manual_seed(seed))
        assert len(points[chosen].unique(dim=0)) == 6
    with pytest.raises(LabelError, match="only 6 distinct frames for 7 clusters"):
        choose_seeds(points, 7, init, torch.Generator())


@pytest.mark.parametrize(("size", "world_size"), [(10, 1), (7, 3), (10, 4), (2, 3)])
def test_processes_share_the_first_points_of_the_sample_between_them(size, world_size):
    sample = torch.arange(10.0)[:, None]
    parts = []
    for rank in range(world_size):
        ranks = Ranks(rank=rank, world_size=world_size, device=torch.device("cpu"))
        points = TensorPoints(sample)
        problem = Problem(points=points, num_points=10, sample=sample, scaled=lambda block: block, ranks=ranks)
        parts.append(torch.cat([*problem.blocks(size)]).flatten().tolist())
    assert list(itertools.chain.from_iterable(parts)) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_empty_clusters_move_to_the_farthest_points_in_turn():
    sample = torch.tensor([[0.0], [1.0], [50.0], [48.0], [90.0]])
    centroids = torch.tensor([[0.5], [-900.0], [-900.0]])
    assert refill(sample, centroids, torch.tensor([1, 2])).tolist() == [[0.5], [90.0], [48.0]]


@pytest.mark.parametrize("algorithm", ["nested", "lloyd"])
def test_no_cluster_ends_up_empty(monkeypatch, algorithm):
    points = drawn(0, 4, 1, 4).mul(10).add(0.1 * drawn(1, 4, 100, 4)).flatten(0, 1)
    monkeypatch.setattr("speechssl.units.kmeans.choose_seeds", lambda *_: torch.zeros(4, dtype=torch.long))
    kmeans = KMeans(n_clusters=4, algorithm=algorithm).fit(points)
    assert kmeans.counts_.min() > 0
    again = KMeans(n_clusters=4, algorithm=algorithm).fit(points)
    assert kmeans.fingerprint == again.fingerprint


def test_samples_grow_and_the_last_iterations_see_all_points():
    points, steps = drawn(0, 5000, 2), []
    KMeans(n_clusters=10).fit(points, report=steps.append)
    sizes = [step.size for step in steps]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (320, 5000)


def test_wide_features_are_first_clustered_along_few_directions(monkeypatch):
    points = drawn(0, 20, 1, 6).mul(10).add(drawn(1, 20, 100, 6)).flatten(0, 1) @ drawn(2, 6, 192)
    points += 0.1 * drawn(3, 2000, 192)
    steps: list = []
    kmeans = KMeans(n_clusters=20).fit(points, report=steps.append)
    widths = [step.centroids.shape[1] for step in steps]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (16, 192)
    monkeypatch.setattr("speechssl.units.kmeans._WIDE", 193)
    assert kmeans.inertia_ == pytest.approx(KMeans(n_clusters=20).fit(points).inertia_, rel=1e-2)
    expected = oracle_inertia(points.tolist(), kmeans.cluster_centers_.tolist())
    assert kmeans.inertia_ == pytest.approx(expected, rel=1e-4)


def test_features_without_leading_directions_are_clustered_as_they_are():
    steps: list = []
    KMeans(n_clusters=5).fit(drawn(0, 2000, 192), report=steps.append)
    assert {step.centroids.shape[1] for step in steps} == {192}


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize(("algorithm", "dim"), [("nested", 3), ("nested", 128), ("lloyd", 3)])
@pytest.mark.parametrize("after", [1, 3, 8])
def test_an_interrupted_fit_ends_as_if_it_had_not_been(tmp_path, algorithm, dim, after):
    points, steps = drawn(0, 3000, 3) @ torch.eye(3, dim), []
    kmeans = KMeans(n_clusters=10, algorithm=algorithm, sample_bytes=1000 * 4 * dim, tol=0.0)
    whole = kmeans.fit(points, report=steps.append).fingerprint
    assert len(steps) > 9

    def stop(step: object) -> None:
        if step.iteration == after:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        kmeans.fit(points, unfinished=tmp_path / "fit.safetensors", report=stop)
    resumed: list = []
    kmeans.fit(points, unfinished=tmp_path / "fit.safetensors", report=resumed.append)
    assert resumed[0].iteration == after + 1
    assert (kmeans.fingerprint, kmeans.n_iter_) == (whole, len(steps))
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_fit_of_a_version_without_momentum_goes_on(tmp_path):
    path = tmp_path / "fit.safetensors"
    with pytest.raises(InterruptionError):
        KMeans(n_clusters=4).fit(drawn(0, 300, 3), unfinished=path, report=raise_interrupted)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    save_file({"centroids": load_file(path)["centroids"]}, path, about)
    resumed: list[Step] = []
    KMeans(n_clusters=4).fit(drawn(0, 300, 3), unfinished=path, report=resumed.append)
    assert resumed[0].iteration == 2


@pytest.mark.parametrize(
    ("changes", "points", "message"),
    [
        ({"seed": 1}, drawn(0, 300, 3), "seed was 0, is 1"),
        ({}, drawn(1, 300, 3), "points was"),
        ({}, drawn(0, 299, 3), "num_points was 300, is 299"),
    ],
    ids=["parameter", "other points", "fewer points"],
)
def test_a_fit_of_something_else_is_not_gone_on_with(tmp_path, changes, points, message):
    path = tmp_path / "fit.safetensors"
    with pytest.raises(InterruptionError):
        KMeans(n_clusters=4).fit(drawn(0, 300, 3), unfinished=path, report=raise_interrupted)
    with pytest.raises(LabelError, match=rf"fit\.safetensors: holds another unfinished k-means \(.*{message}"):
        KMeans(n_clusters=4, **changes).fit(points, unfinished=path)


def test_a_broken_unfinished_fit_is_named(tmp_path):
    (tmp_path / "fit.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(LabelError, match=r"fit\.safetensors: cannot read the unfinished k-means"):
        KMeans(n_clusters=4).fit(drawn(0, 300, 3), unfinished=tmp_path / "fit.safetensors")


def raise_interrupted(_: object) -> None:
    raise InterruptionError
