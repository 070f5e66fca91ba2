"""k-means: speechssl.units.kmeans."""

import dataclasses
import itertools
import warnings
from pathlib import Path

import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from torch import Tensor

from speechssl.errors import LabelError
from speechssl.units import kmeans
from speechssl.units.kmeans import KMeans, assign, fit_kmeans
from tests.oracles.clusters import oracle_nearest


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _blobs(clusters: int, *, spread: float, seed: int = 0, dim: int = 4, frames: int = 100) -> Tensor:
    """Draw (clusters * frames, dim) points around random centres."""
    generator = _generator(seed)
    centres = torch.randn(clusters, 1, dim, generator=generator) * 10
    return (centres + spread * torch.randn(clusters, frames, dim, generator=generator)).flatten(0, 1)


def _fitted() -> KMeans:
    return fit_kmeans(_blobs(3, spread=1.0), 4, generator=_generator(), standardise=True, source="mfcc")


@pytest.mark.parametrize("seed", range(4))
def test_well_separated_blobs_are_recovered(seed: int) -> None:
    points = _blobs(8, spread=0.05, seed=seed)
    labels = fit_kmeans(points, 8, generator=_generator(seed)).predict(points).view(8, 100)
    assert (labels == labels[:, :1]).all()
    assert sorted(labels[:, 0].tolist()) == list(range(8))


@pytest.mark.parametrize("standardise", [False, True])
def test_inertia_never_rises_from_iteration_to_iteration(standardise: bool) -> None:
    points = _blobs(5, spread=8.0)
    inertias = [
        fit_kmeans(points, 7, generator=_generator(), iterations=n, tolerance=0.0, standardise=standardise).inertia
        for n in range(12)
    ]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(inertias))
    assert inertias[-1] < 0.95 * inertias[0]


def test_inertia_is_within_two_percent_of_scikit_learns() -> None:
    ours, theirs = 0.0, 0.0
    for seed in range(6):
        points = _blobs(10, spread=6.0, seed=seed)
        ours += fit_kmeans(points, 10, generator=_generator(seed), tolerance=0.0).inertia
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # threadpoolctl looks at every library loaded
            theirs += SklearnKMeans(10, n_init=1, random_state=seed).fit(points.numpy()).inertia_ / len(points)
    assert ours <= 1.02 * theirs


def test_reported_inertia_is_the_mean_squared_distance() -> None:
    points = _blobs(3, spread=3.0, frames=20)
    fitted = fit_kmeans(points, 4, generator=_generator())
    nearest = [oracle_nearest(point, fitted.centroids.tolist()) for point in points.tolist()]
    assert fitted.inertia == pytest.approx(sum(distance for _, distance in nearest) / 60, rel=1e-4)
    assert fitted.predict(points).tolist() == [index for index, _ in nearest]


def test_assignment_matches_the_oracle_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_CHUNK", 7)
    points, centroids = _blobs(3, spread=3.0, frames=11), _blobs(5, spread=3.0, frames=1, seed=1)
    labels, distances = assign(points, centroids)
    expected = [oracle_nearest(point, centroids.tolist()) for point in points.tolist()]
    assert labels.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(distances, torch.tensor([d for _, d in expected]), rtol=1e-3, atol=1e-2)


def test_fit_follows_the_generator_and_nothing_else() -> None:
    points, fingerprints = _blobs(5, spread=8.0), []
    for global_seed, seed in ((0, 1), (1, 1), (1, 2)):
        torch.manual_seed(global_seed)
        fingerprints.append(fit_kmeans(points, 7, generator=_generator(seed)).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_empty_clusters_are_refilled(monkeypatch: pytest.MonkeyPatch) -> None:
    points = _blobs(4, spread=0.1)
    monkeypatch.setattr(kmeans, "_seed", lambda points, clusters, _: points[:1].repeat(clusters, 1))
    fitted = fit_kmeans(points, 4, generator=_generator())
    assert torch.bincount(fitted.predict(points), minlength=4).min() > 0


def test_as_many_clusters_as_points_leave_no_distance() -> None:
    points = _blobs(1, spread=5.0, frames=12)
    fitted = fit_kmeans(points, 12, generator=_generator())
    assert fitted.inertia == pytest.approx(0, abs=1e-3)
    assert sorted(fitted.predict(points).tolist()) == list(range(12))


def test_standardised_clusters_do_not_depend_on_the_units_of_a_dimension() -> None:
    points, factor = _blobs(5, spread=4.0), torch.tensor([1.0, 100.0, 0.01, 1.0])
    one = fit_kmeans(points, 5, generator=_generator(), standardise=True)
    other = fit_kmeans(points * factor + 3, 5, generator=_generator(), standardise=True)
    assert torch.equal(one.predict(points), other.predict(points * factor + 3))
    assert one.inertia == pytest.approx(other.inertia, rel=1e-3)


def test_without_standardisation_features_are_used_as_they_are() -> None:
    fitted = fit_kmeans(_blobs(3, spread=1.0), 3, generator=_generator())
    assert fitted.mean.tolist() == [0.0] * 4
    assert fitted.scale.tolist() == [1.0] * 4


def test_fit_stops_once_the_inertia_settles() -> None:
    seen: list[int] = []

    def count(steps: range, number: int) -> object:
        assert number == 100
        return (seen.append(step) or step for step in steps)

    fit_kmeans(_blobs(3, spread=0.01), 3, generator=_generator(), progress=count)
    assert 2 <= len(seen) < 10


def test_constant_dimension_survives_standardisation() -> None:
    points = _blobs(3, spread=1.0)
    points[:, 2] = 7.0
    assert torch.isfinite(fit_kmeans(points, 3, generator=_generator(), standardise=True).centroids).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.randn(3, 2), r"3 frames cannot make 4 clusters; give more audio or fewer clusters"),
        (torch.ones(9, 2), r"only 1 distinct frames for 4 clusters"),
        (torch.tensor([[0.0], [1.0]] * 5), r"only 2 distinct frames for 4 clusters"),
    ],
    ids=["too few", "all equal", "two values"],
)
def test_more_clusters_than_distinct_frames_is_an_error(points: Tensor, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        fit_kmeans(points, 4, generator=_generator())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_an_error(value: float) -> None:
    points = _blobs(2, spread=1.0)
    points[5, 1] = value
    with pytest.raises(LabelError, match="hold NaN or infinite values"):
        fit_kmeans(points, 2, generator=_generator())


def test_saved_clusters_load_unchanged(tmp_path: Path) -> None:
    fitted = _fitted()
    fitted.save(tmp_path / "folder" / "kmeans.safetensors")
    loaded = KMeans.load(tmp_path / "folder" / "kmeans.safetensors")
    for name in ("centroids", "mean", "scale"):
        assert torch.equal(getattr(loaded, name), getattr(fitted, name))
    assert (loaded.inertia, loaded.source, loaded.fingerprint) == (fitted.inertia, "mfcc", fitted.fingerprint)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["kmeans.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all", b"\x08\0\0\0\0\0\0\0{}      "])
def test_file_that_is_no_kmeans_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "kmeans.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=r"kmeans\.safetensors: cannot read the k-means .*run `speechssl cluster`"):
        KMeans.load(path)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kmeans.safetensors"
    _fitted().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(LabelError, match=r"kmeans\.safetensors: cannot read the k-means"):
        KMeans.load(path)


@pytest.mark.parametrize("name", ["centroids", "mean", "scale"])
def test_fingerprint_changes_with_every_number(name: str) -> None:
    fitted = _fitted()
    changed = getattr(fitted, name).clone()
    changed.view(-1)[-1] += 1e-3
    assert dataclasses.replace(fitted, **{name: changed}).fingerprint != fitted.fingerprint


def test_fingerprint_does_not_depend_on_inertia_or_source() -> None:
    fitted = _fitted()
    assert dataclasses.replace(fitted, inertia=0.0, source="elsewhere").fingerprint == fitted.fingerprint
