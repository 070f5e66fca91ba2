"""Triton kernels for k-means on a GPU: nearest centroids without a distance matrix in memory, and sums by cluster.

The plain implementations are `Nearest.partial` and `embedding_bag`, both in `speechssl.units.assignment`. Triton is
imported when the first kernel is needed; `is_available` is False without it. Each kernel is tested on random points
before its first use on a device: if it fails or its results differ, the plain implementation is used and a message is
printed.
"""

from __future__ import annotations  # annotations of the kernels are evaluated by Triton

import importlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl  # `_jitted` does so for Triton

__all__ = [
    "Product",
    "Tiles",
    "assign",
    "assigns_right",
    "can_sum_narrow",
    "can_sum_runs",
    "choose_tiles",
    "is_available",
    "sum_narrow",
    "sum_runs",
    "sums_right",
    "tiles_for",
]

Product = Literal["bf16", "tf32", "tf32x3", "ieee"]  # precision of `tl.dot`

_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_ROOMY = 9  # compute capability (H100, H200) with 227 KiB of shared memory, from which products read directly
_NARROW = 128  # maximum number of dimensions for the float32 kernel; above, cuBLAS is faster
_WAVES = 4  # programs per multiprocessor, which loop over the points
_ROWS_AT_ONCE = 16  # rows that `sum_runs` adds in parallel
_DIMS_AT_ONCE = 128  # dimensions per program of `sum_runs`
_NARROW_ROWS = 64  # rows that `sum_narrow` multiplies at once


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tile sizes of `assign`: rows x columns of distances at once, over chunks of the dimension."""

    rows: int  # points at once
    columns: int  # centroids at once
    chunk: int  # dimensions at once; like rows and columns a power of two, at least 16
    warps: int
    stages: int  # chunks in shared memory, loading or in use
    product: Product

    def hold_all(self, clusters: int, dim: int) -> bool:
        """Return whether all centroids fit into one tile, so that a program loads them once for many points."""
        return self.columns >= clusters and self.chunk >= dim


def is_available(device: torch.device) -> bool:
    """Return whether kernels can run on a device: an NVIDIA GPU that Triton supports, with Triton installed."""
    if device.type != "cuda" or torch.version.hip is not None or not _has_triton():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def choose_tiles(
    device: torch.device, dtype: torch.dtype, clusters: int, dim: int, precision: str, *, has_centre: bool = False
) -> Tiles | None:
    """Choose the tile sizes; None if the plain implementation is to be used.

    Args:
        device: device of the points and the centroids.
        dtype: number type of the points.
        clusters: number of centroids.
        dim: number of dimensions.
        precision: precision of the factors: float32, tf32 or bfloat16.
        has_centre: whether a centre has to be subtracted from the points.
    """
    if not is_available(device) or dtype not in _TYPES or clusters * dim >= 2**31:
        return None
    is_roomy = torch.cuda.get_device_capability(device)[0] == _ROOMY
    tiles = tiles_for(precision, clusters, dim, is_roomy=is_roomy)
    return tiles if tiles is not None and assigns_right(device, dtype, clusters, dim, tiles, has_centre) else None


def tiles_for(precision: str, clusters: int, dim: int, *, is_roomy: bool) -> Tiles | None:
    """Choose tile sizes for an H100-class GPU (`is_roomy`), or for all others, with at least 99 KiB of shared memory.

    They were chosen from the compiler's output for compute capabilities 9.0 and 8.0, not by measured time: the largest
    tiles that stay in registers and, on 9.0, whose products are not serialised (`tests/units/test_fused.py`).
    """
    width, columns = _power_of_two(dim), _power_of_two(clusters)
    product: Product
    match precision:
        case "float32" if dim > _NARROW:
            return None
        case "float32":
            return Tiles(rows=128, columns=min(columns, 128), chunk=16, warps=8, stages=2, product="ieee")
        case "bfloat16":
            product, chunk = "bf16", 32 if is_roomy or dim % 32 == 0 else 16
        case _:
            product, chunk = "tf32", 16
    if width <= 64 and columns <= 128:
        return Tiles(rows=64, columns=columns, chunk=width, warps=4, stages=3, product=product)
    widest = 256 if is_roomy and dim % chunk == 0 else 128  # a partial chunk needs more registers
    return Tiles(rows=128, columns=min(columns, widest), chunk=chunk, warps=8, stages=4, product=product)


def assign(
    points: Tensor, centroids: Tensor, norms: Tensor, centre: Tensor | None, tiles: Tiles
) -> tuple[Tensor, Tensor]:
    """Find the nearest centroids.

    Args:
        points: (points, dim) float16, bfloat16 or float32, with any strides.
        centroids: (clusters, dim) bfloat16 for products of that type, else float32.
        norms: (clusters,) float32, squared lengths of the centroids.
        centre: (dim,) float32, subtracted from the points; None for zero.
        tiles: tile sizes.

    Returns:
        (points,) int64 index of the nearest centroid, the first of equal ones, and (points,) float32 squared distance,
        which is not finite if the point is not.
    """
    (num_points, dim), clusters = points.shape, len(centroids)
    labels = torch.empty(num_points, dtype=torch.long, device=points.device)
    distances = torch.empty(num_points, device=points.device)
    if num_points == 0:
        return labels, distances
    points = _addressable(points)
    tensors = (points, centroids.contiguous(), norms, norms if centre is None else centre, labels, distances)
    programs = -(-num_points // tiles.rows)
    kernel = _assign
    if tiles.hold_all(clusters, dim):
        programs, kernel = min(programs, _WAVES * _multiprocessors(points.device)), _assign_narrow
    with _on(points.device):
        _jitted(kernel)[(programs,)](
            *tensors,
            num_points,
            clusters,
            *points.stride(),
            programs,
            DIM=dim,
            ROWS=tiles.rows,
            COLUMNS=tiles.columns,
            CHUNK=tiles.chunk,
            STAGES=tiles.stages,
            PRODUCT="ieee" if tiles.product == "bf16" else tiles.product,
            HAS_CENTRE=centre is not None,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
    return labels, distances


@cache
def assigns_right(
    device: torch.device, dtype: torch.dtype, clusters: int, dim: int, tiles: Tiles, has_centre: bool
) -> bool:
    """Test `assign` on random points; return whether the chosen centroids and distances are right."""
    number = max(1, min(4096, 2**24 // clusters))
    points, centroids = (_random(rows, dim, device, seed) for seed, rows in enumerate((number, clusters)))
    points = points.to(dtype)
    centre = torch.full((dim,), 0.5, device=device) if has_centre else None
    exact = points.double() - (0.5 if has_centre else 0.0)
    held = centroids.bfloat16() if tiles.product == "bf16" else centroids

    def difference() -> float:
        labels, distances = assign(points, held, held.float().square().sum(1), centre, tiles)
        least = torch.cdist(exact, held.double()).square().min(1)[0]
        chosen = (exact - held.double()[labels]).square().sum(1)
        return float(torch.maximum((chosen - least).abs(), (chosen - distances).abs()).max() / least.mean())

    return _is_right("assigns", difference, 1e-2 if tiles.product == "bf16" else 1e-3)


def sum_runs(points: Tensor, order: Tensor, cuts: Tensor) -> Tensor:
    """Sum runs of rows in a given order.

    Args:
        points: (points, dim) float16, bfloat16 or float32, with any strides.
        order: (points,) int64, row numbers in the order of the runs.
        cuts: (runs,) int64, ascending: the position in `order` where each run starts; it ends where the next starts.

    Returns:
        (runs, dim) float32 sums; zero for an empty run.
    """
    dim = points.shape[1]
    width = min(_DIMS_AT_ONCE, _power_of_two(dim))
    sums = torch.empty(len(cuts), dim, device=points.device)
    points = _addressable(points)
    with _on(points.device):
        _jitted(_sum_runs)[(len(cuts), -(-dim // width))](
            points,
            order,
            cuts,
            sums,
            len(cuts),
            len(order),
            *points.stride(),
            DIM=dim,
            ROWS=_ROWS_AT_ONCE,
            WIDTH=width,
            num_warps=4,
        )
    return sums


def can_sum_runs(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Return whether `sum_runs` is to be used."""
    return is_available(device) and dtype in _TYPES and sums_right(device, dtype, 3, dim, is_narrow=False)


def can_sum_narrow(device: torch.device, dtype: torch.dtype, clusters: int, dim: int) -> bool:
    """Return whether `sum_narrow` is to be used: all sums fit into one tile, and there are enough clusters."""
    is_made_for = is_available(device) and dtype in _TYPES and 32 <= clusters <= 128 and dim < 64
    return is_made_for and sums_right(device, dtype, clusters, dim, is_narrow=True)


@cache
def sums_right(device: torch.device, dtype: torch.dtype, clusters: int, dim: int, *, is_narrow: bool) -> bool:
    """Test `sum_narrow` or `sum_runs` on random points; return whether the sums are right."""
    points = _random(5000, dim, device, 0).to(dtype)
    labels = torch.arange(5000, device=device) * clusters // 5000
    expected = torch.zeros(clusters, dim, dtype=torch.float64, device=device).index_add_(0, labels, points.double())

    def difference() -> float:
        if is_narrow:
            found = sum_narrow(points, labels, clusters).sum(0, dtype=torch.float64)[:, :-1]
        else:
            cuts = torch.searchsorted(labels, torch.arange(clusters, device=device))
            found = sum_runs(points, torch.arange(5000, device=device), cuts)
        return float((found - expected).abs().max() / expected.abs().max())

    return _is_right("sums", difference, 1e-4)


def sum_narrow(points: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Sum points by cluster without sorting; each program handles a part of the points.

    The sums are a product of a one-hot matrix with the points. float32 numbers are split into three bfloat16 numbers,
    which hold all their digits.

    Args:
        points: (points, dim) float16, bfloat16 or float32, with any strides.
        labels: (points,) int64, cluster of each point.
        clusters: number of clusters.

    Returns:
        (programs, clusters, dim + 1) float32 sums; the last column is the number of points.
    """
    dim = points.shape[1]
    programs = max(1, min(-(-len(points) // _NARROW_ROWS), _WAVES * _multiprocessors(points.device)))
    sums = torch.empty(programs, clusters, dim + 1, device=points.device)
    points = _addressable(points)
    with _on(points.device):
        _jitted(_sum_narrow)[(programs,)](
            points,
            labels,
            sums,
            len(points),
            clusters,
            *points.stride(),
            programs,
            DIM=dim,
            ROWS=_NARROW_ROWS,
            COLUMNS=_power_of_two(clusters),
            WIDTH=_power_of_two(dim + 1),
            PARTS=3 if points.dtype == torch.float32 else 1,
            STAGES=3,
            num_warps=4,
        )
    return sums


# Kernels: compiled by Triton, not run by Python.


def _assign(  # type: ignore[no-untyped-def]
    points,
    centroids,
    norms,
    centre,
    labels,
    distances,
    num_points,
    clusters,
    row_stride,
    column_stride,
    programs,
    DIM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
    PRODUCT: tl.constexpr,  # noqa: N803
    HAS_CENTRE: tl.constexpr,  # noqa: N803
):
    """Kernel of `assign`: a program handles ROWS points and loops over all centroids, COLUMNS at a time."""
    begin = tl.program_id(0) * ROWS
    row = tl.arange(0, ROWS)  # offsets within a tile fit into 32 bits, which saves registers
    first = tl.minimum(row, num_points - 1 - begin)[:, None] * row_stride  # past the end, the last point is repeated
    points += begin.to(tl.int64) * row_stride
    lengths = tl.zeros((ROWS,), tl.float32)
    smallest = tl.full((ROWS,), float("inf"), tl.float32)
    nearest = tl.zeros((ROWS,), tl.int32)
    for LATER in tl.static_range(2):  # noqa: N806 - the lengths of the points are computed with the first tile only
        for start in range(LATER * COLUMNS, clusters if LATER else COLUMNS, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            second = tl.minimum(column, clusters - 1)[None, :] * DIM
            products = tl.zeros((ROWS, COLUMNS), tl.float32)
            for chunk in range(0, DIM, CHUNK):
                dim = chunk + tl.arange(0, CHUNK)
                if DIM % CHUNK == 0:
                    x = tl.load(points + (first + dim[None, :] * column_stride))
                    c = tl.load(centroids + (second + dim[:, None]))
                else:
                    x = tl.load(points + (first + dim[None, :] * column_stride), mask=dim[None, :] < DIM, other=0.0)
                    c = tl.load(centroids + (second + dim[:, None]), mask=dim[:, None] < DIM, other=0.0)
                if HAS_CENTRE:
                    x = x.to(tl.float32) - tl.load(centre + dim, mask=dim < DIM, other=0.0)[None, :]
                if not LATER:
                    lengths += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
                products = tl.dot(x.to(c.dtype), c, products, input_precision=PRODUCT)
            found = tl.load(norms + column, mask=column < clusters, other=float("inf"))[None, :] - 2.0 * products
            least = tl.min(found, 1)
            place = tl.min(tl.where(found == least[:, None], column[None, :], 2147483647), 1)
            nearest = tl.where(least < smallest, place, nearest)
            smallest = tl.where(least < smallest, least, smallest)
    smallest += lengths
    is_point = row < num_points - begin
    tl.store(labels + begin + row, nearest.to(tl.int64), mask=is_point)
    tl.store(distances + begin + row, tl.where(smallest < 0.0, 0.0, smallest), mask=is_point)  # keeps NaN


def _assign_narrow(  # type: ignore[no-untyped-def]
    points,
    centroids,
    norms,
    centre,
    labels,
    distances,
    num_points,
    clusters,
    row_stride,
    column_stride,
    programs,
    DIM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
    PRODUCT: tl.constexpr,  # noqa: N803
    HAS_CENTRE: tl.constexpr,  # noqa: N803
):
    """Kernel of `assign` if all centroids fit into one tile: a program keeps them and loops over the points."""
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    dim = tl.arange(0, CHUNK)
    is_dim = dim < DIM
    second = tl.minimum(column, clusters - 1)[None, :] * DIM
    c = tl.load(centroids + (second + dim[:, None]), mask=is_dim[:, None], other=0.0)
    norm = tl.load(norms + column, mask=column < clusters, other=float("inf"))
    mean = tl.load(centre + dim, mask=is_dim & HAS_CENTRE, other=0.0)
    for block in tl.range(tl.program_id(0), tl.cdiv(num_points, ROWS), programs, num_stages=STAGES):
        begin = block * ROWS
        first = tl.minimum(row, num_points - 1 - begin)[:, None] * row_stride + dim[None, :] * column_stride
        x = tl.load(points + begin.to(tl.int64) * row_stride + first, mask=is_dim[None, :], other=0.0)
        if HAS_CENTRE:
            x = x.to(tl.float32) - mean[None, :]
        lengths = tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
        found = norm[None, :] - 2.0 * tl.dot(x.to(c.dtype), c, input_precision=PRODUCT)
        least = tl.min(found, 1)
        place = tl.min(tl.where(found == least[:, None], column[None, :], COLUMNS), 1)
        smallest = least + lengths
        is_point = row < num_points - begin
        tl.store(labels + begin + row, tl.where(least < float("inf"), place, 0).to(tl.int64), mask=is_point)
        tl.store(distances + begin + row, tl.where(smallest < 0.0, 0.0, smallest), mask=is_point)


def _sum_runs(  # type: ignore[no-untyped-def]
    points,
    order,
    cuts,
    sums,
    num_runs,
    num_points,
    row_stride,
    column_stride,
    DIM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
):
    """Kernel of `sum_runs`: a program handles one run and WIDTH dimensions."""
    run = tl.program_id(0)
    start = tl.load(cuts + run)
    end = tl.load(cuts + run + 1, mask=run + 1 < num_runs, other=num_points)
    dim = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for begin in range(start, end, ROWS):
        place = begin + tl.arange(0, ROWS)
        row = tl.load(order + place, mask=place < end, other=0)
        is_there = (place < end)[:, None] & (dim < DIM)[None, :]
        x = tl.load(points + row[:, None] * row_stride + dim[None, :] * column_stride, mask=is_there, other=0.0)
        total += x.to(tl.float32)
    tl.store(sums + run.to(tl.int64) * DIM + dim, tl.sum(total, 0), mask=dim < DIM)


def _sum_narrow(  # type: ignore[no-untyped-def]
    points,
    labels,
    sums,
    num_points,
    clusters,
    row_stride,
    column_stride,
    programs,
    DIM: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    PARTS: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
):
    """Kernel of `sum_narrow`: a program loops over blocks of ROWS points, and keeps the sums of all clusters."""
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    dim = tl.arange(0, WIDTH)
    total = tl.zeros((COLUMNS, WIDTH), tl.float32)
    for block in tl.range(tl.program_id(0), tl.cdiv(num_points, ROWS), programs, num_stages=STAGES):
        begin = block * ROWS
        is_point = row < num_points - begin
        first = tl.minimum(row, num_points - 1 - begin)[:, None] * row_stride + dim[None, :] * column_stride
        x = tl.load(points + begin.to(tl.int64) * row_stride + first, mask=(dim < DIM)[None, :], other=0.0)
        x = tl.where((dim == DIM)[None, :], 1.0, x.to(tl.float32))
        label = tl.load(labels + begin + row, mask=is_point, other=-1).to(tl.int32)
        is_member = (label[None, :] == column[:, None]).to(tl.float32)
        for _ in tl.static_range(PARTS):
            part = x.to(tl.float16) if points.dtype.element_ty == tl.float16 else x.to(tl.bfloat16)
            total = tl.dot(is_member.to(part.dtype), part, total)
            x -= part.to(tl.float32)
    place = tl.program_id(0).to(tl.int64) * clusters * (DIM + 1) + column[:, None] * (DIM + 1) + dim[None, :]
    tl.store(sums + place, total, mask=(column < clusters)[:, None] & (dim <= DIM)[None, :])


# Helpers: plain Python.


@cache
def _jitted(kernel: Callable[..., Any]) -> Any:
    """Compile a kernel with Triton."""
    triton = importlib.import_module("triton")
    globals()["tl"] = importlib.import_module("triton.language")
    varying = ["num_points", "clusters", "programs", "num_runs"]  # arguments that do not specialise the kernel
    named = kernel.__code__.co_varnames
    return triton.jit(kernel, do_not_specialize=[name for name in varying if name in named])


def _addressable(points: Tensor) -> Tensor:
    """Return points with contiguous rows whose offsets within a tile fit into 32 bits."""
    return points if points.stride(1) == 1 and points.stride(0) < 2**23 else points.contiguous()


def _is_right(does: str, difference: Callable[[], float], at_most: float) -> bool:
    """Return whether a kernel differs from the plain implementation only by rounding; print a message if not."""
    try:
        found = difference()
        reason = "" if found <= at_most else f"its numbers are off by {found:.2g}"  # also for NaN
    except Exception as error:  # any error of a compiler or driver; the plain implementation still works
        reason = f"{type(error).__name__}: {error}"
    if reason:
        message = f"k-means: the kernel that {does} cannot be used on this GPU ({reason}); its plain form is used"
        print(message, file=sys.stderr)
    return not reason


def _random(rows: int, dim: int, device: torch.device, seed: int) -> Tensor:
    return torch.randn(rows, dim, device=device, generator=torch.Generator(device).manual_seed(seed))


@cache
def _has_triton() -> bool:
    """Return whether Triton is installed, and a C compiler and Python's headers, which it needs for its launchers."""
    compilers = (os.environ.get("CC", ""), "gcc", "clang")
    headers = Path(sysconfig.get_path("include", "posix_prefix"))
    if not any(map(shutil.which, compilers)) or not (headers / "Python.h").exists():
        return False
    try:
        importlib.import_module("triton.language")
    except ImportError:  # missing, or built for another machine
        return False
    return True


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make this device the current one while the block runs; on CPU, for Triton's interpreter, do nothing."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number` and 16."""
    return max(16, 1 << (number - 1).bit_length())
