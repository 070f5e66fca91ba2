"""k-means as an estimator: speechssl.units.kmeans."""

import dataclasses
import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.cluster import KMeans as SklearnKMeans
from torch import Tensor

from speechssl.errors import LabelError
from speechssl.units.kmeans import KMeans, Provenance
from tests.oracles.kmeans import oracle_inertia, oracle_nearest

ALGORITHMS = ("nested", "lloyd")


def blobs(clusters: int, *, spread: float, seed: int = 0, dim: int = 4, frames: int = 100) -> Tensor:
    """Draw (clusters * frames, dim) points around random centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, 1, dim, generator=generator) * 10
    return (centres + spread * torch.randn(clusters, frames, dim, generator=generator)).flatten(0, 1)


@pytest.fixture(scope="module")
def fitted() -> KMeans:
    provenance = Provenance(source="mfcc", settings={"hop": 160}, frames_per_second=100.0, audio={"hours": 1.5})
    return KMeans(n_clusters=4, standardise=True, seed=3).fit(blobs(3, spread=1.0), provenance=provenance)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "batched"])
@pytest.mark.parametrize("seed", range(3))
def test_well_separated_blobs_are_recovered(seed, init, algorithm):
    points = blobs(8, spread=0.05, seed=seed)
    labels = KMeans(n_clusters=8, init=init, algorithm=algorithm, seed=seed).fit_predict(points).view(8, 100)
    assert (labels == labels[:, :1]).all()
    assert sorted(labels[:, 0].tolist()) == list(range(8))


@pytest.mark.parametrize("standardise", [False, True])
def test_inertia_never_rises_from_iteration_to_iteration(standardise):
    points = blobs(5, spread=8.0)
    kmeans = KMeans(n_clusters=7, algorithm="lloyd", standardise=standardise, tol=0.0)
    inertias = [dataclasses.replace(kmeans, max_iter=n).fit(points).inertia_ for n in range(12)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(inertias))
    assert inertias[-1] < 0.95 * inertias[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_inertia_is_within_two_percent_of_scikit_learns(algorithm):
    ours, theirs = 0.0, 0.0
    for seed in range(6):
        points = blobs(10, spread=6.0, seed=seed)
        ours += KMeans(n_clusters=10, algorithm=algorithm, seed=seed, tol=0.0).fit(points).inertia_
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # threadpoolctl looks at every library loaded
            theirs += SklearnKMeans(10, n_init=1, random_state=seed).fit(points.numpy()).inertia_
    assert ours <= 1.02 * theirs


def test_inertia_is_the_sum_of_squared_distances_and_score_is_minus_that():
    points = blobs(3, spread=3.0, frames=20)
    kmeans = KMeans(n_clusters=4).fit(points)
    expected = oracle_inertia(points.tolist(), kmeans.cluster_centers_.tolist())
    assert kmeans.inertia_ == pytest.approx(expected, rel=1e-4)
    assert kmeans.inertia == pytest.approx(expected / 60, rel=1e-4)
    assert kmeans.score(points) == pytest.approx(-expected, rel=1e-4)


def test_transform_gives_distances_and_predict_the_smallest():
    points = blobs(3, spread=3.0, frames=20)
    kmeans = KMeans(n_clusters=4).fit(points)
    distances = kmeans.transform(points)
    torch.testing.assert_close(distances, torch.cdist(points, kmeans.cluster_centers_), rtol=1e-3, atol=1e-3)
    nearest = [oracle_nearest(point, kmeans.cluster_centers_.tolist())[0] for point in points.tolist()]
    assert kmeans.predict(points).tolist() == distances.argmin(1).tolist() == nearest


def test_fit_follows_the_seed_and_nothing_else():
    points, fingerprints = blobs(5, spread=8.0), []
    for global_seed, seed in ((0, 1), (1, 1), (1, 2)):
        torch.manual_seed(global_seed)
        fingerprints.append(KMeans(n_clusters=7, seed=seed).fit(points).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_as_many_clusters_as_points_leave_no_distance():
    points = blobs(1, spread=5.0, frames=12)
    kmeans = KMeans(n_clusters=12).fit(points)
    assert kmeans.inertia_ == pytest.approx(0, abs=1e-3)
    assert sorted(kmeans.predict(points).tolist()) == list(range(12))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_coarser_products_cost_little_inertia(precision, algorithm):
    points = blobs(10, spread=3.0)
    exact = KMeans(n_clusters=10, algorithm=algorithm).fit(points)
    coarse = KMeans(n_clusters=10, algorithm=algorithm, precision=precision).fit(points)
    assert coarse.inertia_ <= 1.02 * exact.inertia_


def test_features_far_from_zero_are_clustered_as_if_they_lay_there():
    points = blobs(8, spread=0.5)
    near, far = (KMeans(n_clusters=8).fit(points + offset) for offset in (0.0, 4096.0))
    assert far.inertia_ == pytest.approx(near.inertia_, rel=1e-2)


def test_float16_features_and_numpy_arrays_are_taken_too():
    points = blobs(8, spread=0.5).half()
    kmeans = KMeans(n_clusters=8).fit(points.float())
    assert KMeans(n_clusters=8).fit(points).fingerprint == kmeans.fingerprint
    assert KMeans(n_clusters=8).fit(points.numpy()).fingerprint == kmeans.fingerprint
    assert torch.equal(kmeans.predict(points.numpy()), kmeans.predict(points))


def test_standardised_clusters_do_not_depend_on_the_units_of_a_dimension():
    points, factor = blobs(5, spread=4.0), torch.tensor([1.0, 100.0, 0.01, 1.0])
    one = KMeans(n_clusters=5, standardise=True).fit(points)
    other = KMeans(n_clusters=5, standardise=True).fit(points * factor + 3)
    assert torch.equal(one.predict(points), other.predict(points * factor + 3))
    assert one.inertia_ == pytest.approx(other.inertia_, rel=1e-3)


def test_without_standardisation_features_are_used_as_they_are():
    kmeans = KMeans(n_clusters=3).fit(blobs(3, spread=1.0))
    assert kmeans.mean_.tolist() == [0.0] * 4
    assert kmeans.scale_.tolist() == [1.0] * 4


def test_fit_stops_once_the_inertia_settles():
    steps = []
    KMeans(n_clusters=3).fit(blobs(3, spread=0.01), report=steps.append)
    assert 2 <= len(steps) < 15
    assert [step.is_last for step in steps] == [False] * (len(steps) - 1) + [True]


def test_partial_fit_keeps_the_running_mean_of_what_it_has_seen():
    points = blobs(3, spread=0.1)[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    kmeans = KMeans(n_clusters=3)
    for start in range(0, 300, 50):
        kmeans.partial_fit(points[start : start + 50])
    labels = kmeans.predict(points)
    means = torch.stack([points[labels == k].mean(0) for k in range(3)])
    torch.testing.assert_close(kmeans.cluster_centers_, means, rtol=1e-4, atol=1e-4)
    assert kmeans.counts_.tolist() == [100.0] * 3


def test_partial_fit_goes_on_from_a_fit():
    points = blobs(3, spread=0.1)
    kmeans = KMeans(n_clusters=3).fit(points)
    before = kmeans.cluster_centers_.clone()
    kmeans.partial_fit(points)
    torch.testing.assert_close(kmeans.cluster_centers_, before)
    assert kmeans.counts_.tolist() == [200.0] * 3


def test_scikit_learn_can_clone_and_set_it(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "cluster_centers_")
    assert copy.set_params(n_clusters=9).n_clusters == 9
    with pytest.raises(ValueError, match="no parameter clusters; it has n_clusters"):
        copy.set_params(clusters=9)


def test_constant_dimension_survives_standardisation():
    points = blobs(3, spread=1.0)
    points[:, 2] = 7.0
    assert torch.isfinite(KMeans(n_clusters=3, standardise=True).fit(points).cluster_centers_).all()


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "batched"])
@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.randn(3, 2), r"3 frames cannot make 4 clusters; give more audio or fewer clusters"),
        (torch.ones(9, 2), r"only 1 distinct frames for 4 clusters"),
        (torch.tensor([[0.0], [1.0]] * 5), r"only 2 distinct frames for 4 clusters"),
        (torch.full((9, 768), 0.1), r"only 1 distinct frames for 4 clusters"),
    ],
    ids=["too few", "all equal", "two values", "all equal, wide"],
)
def test_more_clusters_than_distinct_frames_is_an_error(points, message, init):
    with pytest.raises(LabelError, match=message):
        KMeans(n_clusters=4, init=init).fit(points)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_an_error(value, algorithm, fitted):
    points = blobs(2, spread=1.0)
    points[5, 1] = value
    for use in (KMeans(n_clusters=2, algorithm=algorithm).fit, KMeans(n_clusters=2).partial_fit, fitted.predict):
        with pytest.raises(LabelError, match="hold NaN or infinite values"):
            use(points)


@pytest.mark.parametrize("method", ["predict", "transform", "score", "partial_fit"])
def test_features_of_another_dimension_are_an_error(fitted, method):
    with pytest.raises(LabelError, match=r"shape \(7, 5\), expected 4 dimensions as the k-means was fitted on"):
        getattr(fitted, method)(torch.randn(7, 5))


def test_saved_clusters_load_unchanged(tmp_path, fitted):
    fitted.save(tmp_path / "folder" / "kmeans.safetensors")
    loaded = KMeans.load(tmp_path / "folder" / "kmeans.safetensors")
    for name in ("cluster_centers_", "mean_", "scale_", "counts_"):
        assert torch.equal(getattr(loaded, name), getattr(fitted, name))
    assert (loaded.inertia_, loaded.provenance_) == (fitted.inertia_, fitted.provenance_)
    assert (loaded.fingerprint, loaded.get_params()) == (fitted.fingerprint, fitted.get_params())
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["kmeans.safetensors"]


def test_the_file_says_what_it_was_fitted_on(tmp_path, fitted):
    fitted.save(tmp_path / "kmeans.safetensors")
    with safe_open(tmp_path / "kmeans.safetensors", "pt") as file:
        about = json.loads(file.metadata()["speechssl"])
    assert (about["version"], about["parameters"]["seed"], about["found"]["num_points"]) == (1, 3, 300)
    assert about["found"]["inertia"] == fitted.inertia_
    assert about["provenance"] == {
        "source": "mfcc",
        "settings": {"hop": 160},
        "frames_per_second": 100.0,
        "audio": {"hours": 1.5},
    }


@pytest.mark.parametrize("version", [None, 2])
def test_a_file_of_another_version_is_named(tmp_path, fitted, version):
    path = tmp_path / "kmeans.safetensors"
    fitted.save(path)
    about = {"inertia": 1.0} | ({} if version is None else {"version": version})
    save_file(load_file(path), path, {"speechssl": json.dumps(about)})
    with pytest.raises(LabelError, match=rf"a k-means file of version {version or 0}, expected version 1; run"):
        KMeans.load(path)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all", b"\x08\0\0\0\0\0\0\0{}      "])
def test_file_that_is_no_kmeans_is_named(tmp_path, content):
    path = tmp_path / "kmeans.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=r"kmeans\.safetensors: cannot read the k-means .*run `speechssl cluster`"):
        KMeans.load(path)


def test_truncated_file_is_named(tmp_path: Path, fitted):
    path = tmp_path / "kmeans.safetensors"
    fitted.save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(LabelError, match=r"kmeans\.safetensors: cannot read the k-means"):
        KMeans.load(path)


@pytest.mark.parametrize("name", ["cluster_centers_", "mean_", "scale_"])
def test_fingerprint_changes_with_every_number_and_nothing_else(fitted, name, tmp_path):
    fitted.save(tmp_path / "kmeans.safetensors")
    changed = KMeans.load(tmp_path / "kmeans.safetensors")
    changed.inertia_, changed.provenance_ = 0.0, Provenance(source="elsewhere")
    assert changed.fingerprint == fitted.fingerprint
    getattr(changed, name).view(-1)[-1] += 1e-3
    assert changed.fingerprint != fitted.fingerprint
    assert len(fitted.fingerprint) == 16  # as long as those in label files of earlier versions


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_gpu_finds_the_inertia_that_the_cpu_finds(precision):
    points = blobs(20, spread=3.0, dim=32, frames=2000)
    slow = KMeans(n_clusters=50).fit(points)
    fast = KMeans(n_clusters=50, precision=precision, device="cuda").fit(points)
    assert fast.inertia_ == pytest.approx(slow.inertia_, rel=2e-2)
    assert fast.cluster_centers_.device.type == "cpu"
    assert np.isfinite(fast.transform(points[:10]).cpu().numpy()).all()


def test_what_is_not_fitted_or_no_points_says_so():
    with pytest.raises(LabelError, match="not fitted yet; call fit first"):
        KMeans(n_clusters=2).predict(torch.zeros(3, 2))
    with pytest.raises(LabelError, match=r"expected features of the shape .* found list; give a tensor"):
        KMeans(n_clusters=2).fit([[0.0, 1.0]])
