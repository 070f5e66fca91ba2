"""One k-means wherever points lie, however cut: speechssl.units.points and speechssl.units.feature_shards."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechssl.errors import LabelError
from speechssl.units import points as points_module
from speechssl.units.feature_shards import HEADER, ShardPoints, write_shards
from speechssl.units.kmeans import KMeans
from speechssl.units.points import Points, StreamPoints, TensorPoints, reblock

ROWS, DIM = 1000, 5


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("points", "feature_shards"):
        monkeypatch.setattr(f"speechssl.units.{module}.BLOCK", 64)


@pytest.fixture(scope="module")
def features() -> Tensor:
    """(ROWS, DIM) float32 that float16 holds exactly."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(20, 1, DIM, generator=generator)
    return (centres + torch.randn(20, ROWS // 20, DIM, generator=generator)).flatten(0, 1).half().float()


@pytest.fixture
def sources(features: Tensor, tmp_path) -> dict[str, Points]:
    """The same points in memory, in streams of several batch sizes, and in files of both number types."""
    for dtype, size in (("float16", 300), ("float32", 1000), ("float16", 64)):
        write_shards(tmp_path / f"{dtype} {size}", features.split(17), dtype=dtype, rows_per_shard=size)
    return {
        "tensor": TensorPoints(features),
        "float16 tensor": TensorPoints(features.half()),
        "stream of 1": StreamPoints(lambda: features.split(1)),
        "stream of 200": StreamPoints(lambda: features.split(200)),
        "stream of arrays": StreamPoints(lambda: (part.numpy() for part in features.split(64))),
        **{path.name: ShardPoints(path) for path in tmp_path.iterdir()},
    }


def test_every_source_gives_the_same_rows(sources, features):
    rows = torch.tensor([0, 1, 63, 64, 299, 300, 301, 998, 999])
    for name, points in sources.items():
        assert (len(points), points.dim) == (ROWS, DIM), name
        assert torch.equal(torch.cat([block.float() for block in points.blocks()]), features), name
        assert {len(block) for block in list(points.blocks())[:-1]} == {64}, name
        assert torch.equal(points.gather(rows), features[rows]), name
        assert points.gather(rows[:0]).shape == (0, DIM), name


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("algorithm", ["nested", "lloyd"])
def test_every_source_gives_the_same_centroids(sources, features, algorithm, standardise):
    kmeans = KMeans(n_clusters=7, algorithm=algorithm, standardise=standardise, sample_bytes=400 * DIM * 4)
    centroids = {name: kmeans.fit(points).cluster_centers_ for name, points in sources.items()}
    centroids["function"] = kmeans.fit(lambda: features.split(31)).cluster_centers_
    for name, found in centroids.items():
        torch.testing.assert_close(found, centroids["tensor"], rtol=1e-5, atol=1e-5, msg=name)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=12))
def test_blocks_do_not_depend_on_how_the_rows_were_cut(sizes):
    rows = torch.arange(float(sum(sizes)))[:, None]
    blocks = list(reblock(rows.split(sizes), 1, where="here"))
    assert [len(block) for block in blocks[:-1]] == [points_module.BLOCK] * (len(blocks) - 1)
    assert torch.equal(torch.cat([rows[:0], *blocks]), rows)


def test_an_empty_stream_is_an_error():
    with pytest.raises(LabelError, match="stream of features is empty"):
        StreamPoints(list)


def test_a_stream_whose_dimension_changes_is_an_error(features):
    points = StreamPoints(lambda: [features, features[:, :3]])
    with pytest.raises(LabelError, match="features have 3 dimensions, expected 5 as in the first batch"):
        KMeans(n_clusters=3).fit(points)


def test_a_stream_that_gives_other_batches_the_second_time_is_an_error(features):
    lengths = iter((1000, 1000, 900))
    points = StreamPoints(lambda: [features[: next(lengths)]])
    with pytest.raises(LabelError, match="gave 900 points, expected 1000 as before"):
        list(points.blocks())


def test_a_batch_that_is_no_matrix_is_an_error():
    with pytest.raises(LabelError, match=r"shape \(5,\), expected \(points, dim\)"):
        StreamPoints(lambda: [torch.zeros(5)])


@pytest.fixture
def folder(features, tmp_path):
    write_shards(tmp_path / "features", features.split(100), rows_per_shard=300)
    return tmp_path / "features"


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (7, r"00001\.rows: the shard has 2993 bytes, expected 3000 .*, and ends in the middle of row 299; write"),
        (20, r"00001\.rows: the shard has 2980 bytes, expected 3000 \(300 rows of 10\); write"),
    ],
)
def test_a_shard_that_was_cut_off_is_named(folder, cut, message):
    shard = folder / "00001.rows"
    shard.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(LabelError, match=message):
        ShardPoints(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "00003.rows").unlink()
    with pytest.raises(LabelError, match=r"00003\.rows: the shard is missing"):
        ShardPoints(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header | {"version": 2}, "expected version 1, .* found version 2"),
        (lambda header: header | {"dtype": "int8"}, "expected version 1, float16 or float32 .*, int8"),
        (lambda header: header | {"dim": 4}, "the shard has 3000 bytes, expected 2400"),
        (lambda header: [], "cannot read the header"),
    ],
    ids=["version", "type", "dimension", "no table"],
)
def test_a_header_that_does_not_fit_is_an_error(folder, change: Callable, message):
    path = folder / HEADER
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(LabelError, match=message):
        ShardPoints(folder)


def test_a_folder_without_header_is_no_features(tmp_path):
    with pytest.raises(LabelError, match=r"features\.json: cannot read the header"):
        ShardPoints(tmp_path)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([torch.zeros(3, 4), torch.zeros(3, 5)], "features have 5 dimensions, expected 4"),
        ([torch.tensor([[float("nan")]])], "NaN, infinite values or some too large for float16"),
        ([torch.tensor([[1e6]])], "NaN, infinite values or some too large for float16"),
        ([], "no features to write"),
    ],
    ids=["dimension", "nan", "overflow", "nothing"],
)
def test_what_cannot_be_written_leaves_no_header(tmp_path, batches, message):
    with pytest.raises(LabelError, match=message):
        write_shards(tmp_path / "features", batches)
    assert not (tmp_path / "features" / HEADER).exists()


def test_features_are_not_written_over(folder):
    with pytest.raises(LabelError, match="holds features already"):
        write_shards(folder, [torch.zeros(1, DIM)])


def test_shards_are_dealt_to_processes_in_order(folder, features):
    parts = [ShardPoints(folder, rank=rank, world_size=3) for rank in range(3)]
    rows = [torch.cat([block.float() for block in part.blocks()]) for part in parts]
    assert torch.equal(torch.cat(rows), features)
    with pytest.raises(LabelError, match="4 shards with rows cannot be shared by 9 processes"):
        ShardPoints(folder, rank=1, world_size=9)


def test_values_that_are_not_finite_are_found_in_files_too(folder):
    shard = folder / "00002.rows"
    spoilt = np.frombuffer(shard.read_bytes(), np.float16).copy()
    spoilt[77] = np.nan
    shard.write_bytes(spoilt.tobytes())
    with pytest.raises(LabelError, match="hold NaN or infinite values"):
        KMeans(n_clusters=3, sample_bytes=100 * DIM * 4).fit(ShardPoints(folder))


def test_points_that_all_fit_into_the_sample_are_read_no_more(features):
    opened = []
    KMeans(n_clusters=3, tol=0.0).fit(lambda: opened.append(1) or features.split(64))
    iterations = len(opened)
    opened.clear()
    KMeans(n_clusters=3, max_iter=1).fit(lambda: opened.append(1) or features.split(64))
    assert len(opened) == iterations


def test_reading_files_keeps_the_resident_size_small(tmp_path):
    def batches() -> Iterator[Tensor]:
        for index in range(16):
            yield torch.full((2**16, 128), float(index))

    write_shards(tmp_path / "features", batches(), rows_per_shard=10**7)  # 256 MiB in one file
    points = ShardPoints(tmp_path / "features")
    before, most = resident_bytes(), 0
    for block in points.blocks():
        block.sum()
        most = max(most, resident_bytes())
    points.gather(torch.arange(0, len(points), 50))
    assert max(most, resident_bytes()) - before < 160 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
