"""The kernels against the plain implementations: in Triton's interpreter, through its compiler, and on a GPU."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechssl.units import fused
from speechssl.units.assignment import Nearest, grouped_sums, sorted_sums, sum_clusters
from speechssl.units.feeding import on_device
from speechssl.units.kmeans import KMeans
from speechssl.units.points import StreamPoints, block_rows
from tests.units import interpreted

ROOT = Path(__file__).parents[2]
PRECISIONS = ("float32", "tf32", "bfloat16")
needs_triton = pytest.mark.skipif(sys.platform != "linux" or not fused._has_triton(), reason="needs Triton")


@pytest.fixture(scope="module")
def wrong() -> dict[str, str]:
    """Return the errors of each case, from a process with Triton's interpreter."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.units.interpreted"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.parametrize("case", [*map(str, interpreted.CASES), *interpreted.OTHERS])
def test_interpreted_kernels_find_what_the_plain_forms_find(wrong, case):
    assert not wrong[case], wrong[case]


@needs_triton
@pytest.mark.parametrize(
    ("capability", "precision", "dtype", "clusters", "dim"),
    [
        (90, "bfloat16", "fp32", 500, 768),
        (90, "tf32", "fp32", 100, 39),
        (80, "bfloat16", "fp16", 2000, 768),
    ],
)
def test_compiled_kernels_stay_in_registers_and_shared_memory(
    capability, precision, dtype, clusters, dim, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns that its default will change
    is_roomy = capability == 90
    tiles = fused.tiles_for(precision, clusters, dim, is_roomy=is_roomy)
    kernel = compiled(tiles, capability, dtype, clusters, dim)
    report = assembled(kernel.asm["ptx"], tmp_path)
    assert "0 bytes spill stores, 0 bytes spill loads" in report
    assert "Performance Loss" not in report  # products that wait for each other
    assert kernel.metadata.shared <= (227 if is_roomy else 99) * 2**10
    product = "wgmma.mma_async" if is_roomy else "mma.sync"
    assert (product in kernel.asm["ptx"]) == (precision != "float32")


def compiled(tiles: fused.Tiles, capability: int, dtype: str, clusters: int, dim: int):
    """Compile a kernel of `assign` as it is launched for contiguous points, without a GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = fused._assign_narrow if tiles.hold_all(clusters, dim) else fused._assign
    names = list(inspect.signature(kernel).parameters)
    factor = "*bf16" if tiles.product == "bf16" else "*fp32"
    pointers = {"points": f"*{dtype}", "centroids": factor, "norms": "*fp32", "centre": "*fp32"}
    pointers |= {"labels": "*i64", "distances": "*fp32"}
    types = pointers | dict.fromkeys(("num_points", "clusters", "row_stride", "programs"), "i32")
    product = "ieee" if tiles.product == "bf16" else tiles.product
    constants = {"column_stride": 1, "DIM": dim, "ROWS": tiles.rows, "COLUMNS": tiles.columns, "CHUNK": tiles.chunk}
    constants |= {"STAGES": tiles.stages, "PRODUCT": product, "HAS_CENTRE": False}
    aligned = [*pointers, "row_stride"] if dim % 16 == 0 else [*pointers]
    source = ASTSource(
        fused._jitted(kernel),
        {name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def assembled(ptx: str, folder: Path) -> str:
    """Return what ptxas says of registers and spills."""
    import triton

    path = folder / "kernel.ptx"
    path.write_text(ptx)
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE).group(1)
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [str(ptxas), "-v", f"--gpu-name={target}", str(path), "-o", str(folder / "kernel.cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_kernels_are_not_wanted_without_a_gpu():
    assert not fused.is_available(torch.device("cpu"))
    assert fused.choose_tiles(torch.device("cpu"), torch.float32, 100, 39, "float32") is None


@pytest.mark.parametrize(("is_roomy", "precision"), [(True, "float32"), (False, "float32")])
def test_wide_float32_products_are_left_to_the_library(is_roomy, precision):
    assert fused.tiles_for(precision, 500, 768, is_roomy=is_roomy) is None
    assert fused.tiles_for(precision, 100, 39, is_roomy=is_roomy) is not None


def test_a_missing_triton_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    assert not fused._has_triton.__wrapped__()


def test_without_a_c_compiler_there_are_no_kernels(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert not fused._has_triton.__wrapped__()


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def needs_a_gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


@needs_a_gpu
@pytest.mark.parametrize(("offset", "dtype"), [(0.0, torch.float32), (50.0, torch.float16)])
@pytest.mark.parametrize(("clusters", "dim"), [(100, 39), (500, 39), (500, 768), (77, 100)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu_labels_are_those_of_the_plain_form(precision, clusters, dim, offset, dtype):
    points = (drawn(0, 20_011, dim + 8) + offset).to("cuda", dtype)[5:, 8:]
    centroids = drawn(1, clusters, dim).cuda() + offset
    plain = Nearest(centroids, precision, allow_fused=False)
    labels, distances = Nearest(centroids, precision)(points)
    expected, smallest = plain(points)
    tolerance = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 1e-4}[precision]  # tf32 is rounded or cut off
    torch.testing.assert_close(distances, smallest, rtol=tolerance, atol=tolerance * dim)
    assert float((labels == expected).double().mean()) > (0.98 if precision == "tf32" else 0.999)
    assert float(distances.double().sum()) == pytest.approx(float(smallest.double().sum()), rel=tolerance)


@needs_a_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dim", [3, 80])
def test_on_a_gpu_the_first_of_equally_near_centroids_is_taken(precision, dim):
    generator = torch.Generator().manual_seed(0)
    points, centroids = (torch.randint(-2, 3, (n, dim), generator=generator).float().cuda() for n in (5000, 700))
    expected = Nearest(centroids.cpu())(points.cpu())[0]
    assert torch.equal(Nearest(centroids, precision)(points)[0].cpu(), expected)


@needs_a_gpu
@pytest.mark.parametrize("add_up", [grouped_sums, sorted_sums])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("clusters", "dim"), [(100, 39), (500, 768), (3, 200)])
def test_on_a_gpu_sums_are_those_of_the_cpu_and_the_same_each_time(clusters, dim, dtype, add_up):
    points = drawn(0, 50_001, dim).to("cuda", dtype)
    labels = torch.randint(clusters, (50_001,), generator=torch.Generator().manual_seed(0)).cuda()
    labels[labels == 1] = 0
    expected = torch.zeros(clusters, dim, dtype=torch.float64).index_add_(0, labels.cpu(), points.cpu().double())
    (sums, counts), (again, _) = (add_up(points, labels, clusters) for _ in range(2))
    assert torch.equal(sums, again)
    torch.testing.assert_close(sums.cpu(), expected, rtol=1e-5, atol=1e-3)
    assert torch.equal(counts.cpu(), labels.cpu().bincount(minlength=clusters))


@needs_a_gpu
@pytest.mark.parametrize("allow_fused", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu_nothing_waits_within_an_iteration(precision, allow_fused):
    points = drawn(0, 40_000, 39).cuda()
    nearest = Nearest(points[:100].clone(), precision, allow_fused=allow_fused)
    sum_clusters(points.split(10_000), nearest)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum_clusters(points.split(10_000), nearest)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_blocks_of_the_host_arrive_whole(dtype, monkeypatch):
    monkeypatch.setattr("speechssl.units.feeding._BYTES", 4 * 39 * 5000)
    points = drawn(0, 100_000, 39).to(dtype)
    found = [block.clone() for block in on_device(points.split(777), torch.device("cuda", 0))]
    assert [len(block) for block in found] == [5000] * 20
    assert torch.equal(torch.cat(found).cpu(), points)


@needs_a_gpu
@pytest.mark.parametrize("algorithm", ["nested", "lloyd"])
def test_on_a_gpu_a_fit_is_the_same_each_time_and_for_a_stream(algorithm):
    points = drawn(0, 50, 1, 39).mul(10).add(drawn(1, 50, 4000, 39)).flatten(0, 1)
    kmeans = KMeans(n_clusters=60, algorithm=algorithm, device="cuda", sample_bytes=2**22, precision="tf32")
    first, again = (kmeans.fit(points.cuda()).fingerprint for _ in range(2))
    assert first == again
    inertia = kmeans.inertia_
    kmeans.fit(StreamPoints(lambda: points.split(1234)))
    assert kmeans.inertia_ == pytest.approx(inertia, rel=1e-3)
    assert kmeans.inertia_ == pytest.approx(KMeans(n_clusters=60, algorithm=algorithm).fit(points).inertia_, rel=2e-2)


def test_blocks_on_a_gpu_are_large():
    rows = block_rows(torch.empty(1, 39, device="meta"))
    assert rows % 16_384 == 0
    assert 2**29 < rows * 39 * 4 <= 2**30
    assert block_rows(torch.empty(1, 39)) == 16_384


TRIED = fused.Tiles(rows=128, columns=128, chunk=16, warps=8, stages=2, product="ieee")


@pytest.fixture
def untried(monkeypatch):
    """Have kernels tried on the CPU, by their plain forms: nothing is remembered from test to test."""
    monkeypatch.setattr(fused, "assigns_right", fused.assigns_right.__wrapped__)
    monkeypatch.setattr(fused, "sums_right", fused.sums_right.__wrapped__)

    def assign(points, centroids, norms, centre, tiles):
        return Nearest(centroids.float(), allow_fused=False)(points.float() - (0.0 if centre is None else centre))

    monkeypatch.setattr(fused, "assign", assign)
    return assign


def tried(**changes) -> bool:
    asked = {"clusters": 7, "dim": 39, "tiles": TRIED, "has_centre": False, "dtype": torch.float32} | changes
    return fused.assigns_right(torch.device("cpu"), **asked)


@pytest.mark.parametrize("has_centre", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_kernel_that_is_right_is_used(untried, has_centre, dtype, capsys):
    assert tried(has_centre=has_centre, dtype=dtype)
    assert tried(tiles=dataclasses.replace(TRIED, product="bf16"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda labels, distances: (labels.roll(1), distances), "its numbers are off by"),
        (lambda labels, distances: (labels, distances + 1), "its numbers are off by"),
        (lambda labels, distances: (labels, distances * torch.nan), "its numbers are off by nan"),
        (lambda labels, distances: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
    ids=["labels", "distances", "nan", "fails"],
)
def test_a_kernel_that_is_wrong_or_fails_is_not_used_and_that_is_said(untried, monkeypatch, changed, said, capsys):
    monkeypatch.setattr(fused, "assign", lambda *arguments: changed(*untried(*arguments)))
    assert not tried()
    told = capsys.readouterr().err
    assert said in told and "its plain form is used" in told


@pytest.mark.parametrize("is_narrow", [False, True])
def test_sums_are_tried_too(untried, monkeypatch, is_narrow, capsys):
    def runs(points, order, cuts):
        parts = torch.arange(len(order)).tensor_split(cuts[1:])
        return torch.stack([points[order][part].float().sum(0) for part in parts])

    def narrow(points, labels, clusters):
        cuts = torch.searchsorted(labels, torch.arange(clusters))
        return torch.cat([runs(points, torch.arange(len(points)), cuts), torch.ones(clusters, 1)], 1)[None]

    monkeypatch.setattr(fused, "sum_runs", runs)
    monkeypatch.setattr(fused, "sum_narrow", narrow)
    asked = {"dtype": torch.float32, "clusters": 3, "dim": 5, "is_narrow": is_narrow}
    assert fused.sums_right(torch.device("cpu"), **asked)
    monkeypatch.setattr(fused, "sum_runs", lambda *arguments: runs(*arguments) * 1.01)
    monkeypatch.setattr(fused, "sum_narrow", lambda *arguments: narrow(*arguments) * 1.01)
    assert not fused.sums_right(torch.device("cpu"), **asked)
    assert "the kernel that sums cannot be used" in capsys.readouterr().err
