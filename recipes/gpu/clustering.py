"""Part 2, k-means: an iteration of ours against the plain expression in torch, flash-kmeans and fastkmeans; and disks.

Each contender starts from the same centroids and is timed on the assignment and on a whole iteration (assignment and
new means). The bounds are the products alone, at the rate that a large square product reaches on the same card, and one
reading of the points. Inertia is that of the centroids after some iterations, in float64, by one piece of code for all.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import plan
import torch
from card import Part, matrix_rate, memory_rate, spent
from plan import CLUSTERERS, FILES, PRECISIONS, SHAPES, STORED, clustering
from torch import Tensor

from speechssl.units.assignment import Nearest, Precision, sum_clusters
from speechssl.units.feature_shards import ShardPoints, write_shards
from speechssl.units.feeding import on_device
from speechssl.units.points import TensorPoints

ITERATIONS = 10  # after which inertia is compared
REPEATS = 5


@dataclass(frozen=True)
class Contender:
    """How somebody assigns, and how it iterates."""

    assign: Callable[[Tensor, Tensor], object] | None  # (points, dim), (clusters, dim); None: it offers whole fits only
    iterate: Callable[[Tensor, Tensor], Tensor]  # the same, to new centroids; for whole fits, one with one iteration
    iterate_four: Callable[[Tensor, Tensor], Tensor] | None = None  # a whole fit with four


def ours(precision: Precision, *, is_fused: bool) -> Contender:
    """Return what `KMeans` does for points in the device's memory."""

    def nearest(centroids: Tensor) -> Nearest:
        return Nearest(centroids.float(), precision, allow_fused=is_fused)

    def iterate(points: Tensor, centroids: Tensor) -> Tensor:
        return sum_clusters(TensorPoints(points).blocks(), nearest(centroids)).means(otherwise=centroids.float())

    return Contender(lambda points, centroids: nearest(centroids)(points), iterate)


def plain(precision: Precision) -> Contender:
    """Return what anybody writes first: distances by one product, in tiles that fit, and `index_add_`."""
    rows = 2**27

    def assign(points: Tensor, centroids: Tensor) -> Tensor:
        norms = centroids.float().square().sum(1)
        tiles = points.split(max(1, rows // len(centroids)))
        return torch.cat([(norms - 2 * (tile @ centroids.T)).argmin(1) for tile in tiles])

    def iterate(points: Tensor, centroids: Tensor) -> Tensor:
        labels = assign(points, centroids)
        sums = torch.zeros(centroids.shape, device=points.device).index_add_(0, labels, points.float())
        counts = torch.bincount(labels, minlength=len(centroids))[:, None]
        return torch.where(counts > 0, sums / counts.clamp(min=1), centroids.float())

    return Contender(
        partial(_with_tf32, precision == "tf32", assign), partial(_with_tf32, precision == "tf32", iterate)
    )


def flash(points: Tensor) -> Contender:
    """Return flash-kmeans' kernels, as its own loop calls them; the squared lengths are taken once, as there."""
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton
    from flash_kmeans.centroid_update_triton import triton_centroid_update_sorted_euclid

    squares = torch.cat([tile.square().sum(1) for tile in points.split(2**20)])[None]

    def assign(points: Tensor, centroids: Tensor) -> Tensor:
        return euclid_assign_triton(points[None], centroids.to(points.dtype)[None].contiguous(), squares)

    def iterate(points: Tensor, centroids: Tensor) -> Tensor:
        centroids = centroids.to(points.dtype)[None].contiguous()
        labels = euclid_assign_triton(points[None], centroids, squares)
        return triton_centroid_update_sorted_euclid(points[None], labels, centroids)[0].float()

    return Contender(assign, iterate)


def fast(points: Tensor) -> Contender:
    """Return fits of fastkmeans' loop, given the points on the device; its interface takes them on the host."""
    from fastkmeans.kmeans import _kmeans_torch_double_chunked

    squares = torch.cat([tile.square().sum(1) for tile in points.split(2**20)])

    def fit(iterations: int, points: Tensor, centroids: Tensor) -> Tensor:
        arguments = {"max_iters": iterations, "tol": -1.0, "max_points_per_centroid": None, "use_triton": True}
        clusters, device, dtype = len(centroids), points.device, points.dtype
        return _kmeans_torch_double_chunked(points, squares, clusters, device, dtype, **arguments)[0]

    return Contender(None, partial(fit, 1), partial(fit, 4))


def build(name: str, precision: Precision, points: Tensor) -> Contender:
    """Return a contender by name.

    Raises:
        ImportError: it is not installed.
    """
    match name:
        case plan.OURS:
            return ours(precision, is_fused=True)
        case plan.OURS_PLAIN:
            return ours(precision, is_fused=False)
        case plan.FLASH:
            return flash(points)
        case plan.FAST:
            return fast(points)
        case _:
            return plain(precision)


def measure(part: Part, number: int, dim: int, clusters: int, precision: Precision) -> None:
    """Time all contenders at one size and precision."""
    work = clustering(number, dim, clusters, precision)
    points, centroids = draw(part, number, dim, clusters)
    held = points.bfloat16() if precision == "bfloat16" else points
    flops = 2.0 * number * dim * clusters
    bound = flops / matrix_rate(part.device, precision)
    reading = held.nbytes / memory_rate(part.device)
    reference = None
    for name in CLUSTERERS:
        if part.is_over:
            return
        with part.surviving(work, name):
            if name in (plan.FLASH, plan.FAST) and (precision == "float32" or part.is_rehearsal):
                part.add(work, name, failed="needs a GPU" if part.is_rehearsal else "takes float32 in tf32: see there")
                continue
            try:
                one = build(name, precision, held)
            except ImportError as error:
                part.add(work, name, failed=f"not installed: {error.name}")
                continue
            assigning, whole = seconds(one, held, centroids, part)
            inertia = None
            if one.assign is not None:  # whole fits choose their first centroids
                moved = centroids
                for _ in range(ITERATIONS):
                    moved = one.iterate(held, moved)
                inertia = mean_distance(points, moved)
                reference = reference or inertia
            part.add(
                work,
                name,
                points_per_s=number / whole,
                iteration_s=whole,
                assignment_s=assigning,
                of_products=bound / assigning if assigning else None,
                of_reading=reading / assigning if assigning else None,
                inertia=None if inertia is None else inertia / reference,
            )


def seconds(one: Contender, points: Tensor, centroids: Tensor, part: Part) -> tuple[float | None, float]:
    """Time the assignment and an iteration; of whole fits, what three iterations add, by three."""

    def median(work: Callable[[Tensor, Tensor], object]) -> float:
        repeats = 1 if part.is_rehearsal else REPEATS
        return statistics.median(spent(lambda: work(points, centroids), part.device, repeats=repeats))

    if one.assign is not None:
        return median(one.assign), median(one.iterate)
    assert one.iterate_four is not None
    return None, (median(one.iterate_four) - median(one.iterate)) / 3


def draw(part: Part, number: int, dim: int, clusters: int) -> tuple[Tensor, Tensor]:
    """Draw points around twice as many centres as clusters, and first centroids among them; float32, on the device."""
    generator = torch.Generator(part.device).manual_seed(part.seed)
    random = {"device": part.device, "generator": generator}
    centres = torch.randn(2 * clusters, dim, **random)
    points = torch.empty(number, dim, device=part.device)
    for tile in points.split(2**20):
        torch.randn(tile.shape, out=tile, generator=generator)
        tile += centres[torch.randint(2 * clusters, (len(tile),), **random)]
    return points, points[torch.randperm(number, **random)[:clusters]].clone()


def mean_distance(points: Tensor, centroids: Tensor) -> float:
    """Return the mean squared distance to the nearest centroid, labels by float32, distances in float64."""
    total = torch.zeros((), dtype=torch.float64, device=points.device)
    nearest = Nearest(centroids, "float32")
    for tile in points.split(2**18):
        labels = nearest(tile)[0]
        total += (tile.double() - centroids[labels].double()).square().sum()
    return float(total) / len(points)


def out_of_core(part: Part) -> None:
    """Time an iteration over features in files against reading the files, both with what the system has cached."""
    number, dim, clusters = (4000, 64, 10) if part.is_rehearsal else STORED
    work = FILES
    folder = Path(tempfile.mkdtemp(prefix="speechssl-gpu-"))
    with part.surviving(work, plan.OURS):
        generator = torch.Generator().manual_seed(part.seed)
        block = torch.randn(min(number, 2**18), dim, generator=generator)

        def blocks() -> Iterator[Tensor]:
            for start in range(0, number, len(block)):
                yield block[: number - start]

        write_shards(folder, blocks())
        size = sum(path.stat().st_size for path in folder.glob("*.rows"))
        nearest = Nearest(block[:clusters].to(part.device), "bfloat16")
        begun = time.perf_counter()
        for path in sorted(folder.glob("*.rows")):
            with path.open("rb", buffering=0) as file:
                while file.read(2**26):
                    pass
        reading = time.perf_counter() - begun

        def iterate() -> float:
            read = ShardPoints(folder).blocks()
            return sum_clusters(read if part.is_rehearsal else on_device(read, part.device), nearest).inertia.item()

        (iterating,) = spent(iterate, part.device, repeats=1, warm_up=1)
        values = {"points_per_s": number / iterating, "gb_per_s": size / iterating / 1e9}
        part.add(work, plan.OURS, **values, reading_gb_per_s=size / reading / 1e9, of_reading=reading / iterating)
    shutil.rmtree(folder, ignore_errors=True)


def _with_tf32(wanted: bool, work: Callable[[Tensor, Tensor], Tensor], points: Tensor, centroids: Tensor) -> Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = wanted
    try:
        return work(points, centroids if points.dtype == centroids.dtype else centroids.to(points.dtype))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def main() -> None:
    """Measure each size in each precision, 16 bits first; the files before float32."""
    part = Part(__doc__)
    for precision in PRECISIONS:
        if precision == "float32" and not part.is_over:
            out_of_core(part)
        for number, dim, sizes in SHAPES:
            for clusters in sizes:
                if not part.is_over:
                    few = (2000, dim, min(clusters, 20)) if part.is_rehearsal else (number, dim, clusters)
                    measure(part, *few, precision)


if __name__ == "__main__":
    main()
