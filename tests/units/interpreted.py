"""Run the kernels of speechssl.units.fused on the CPU, in Triton's interpreter: a process of its own for test_fused.

Triton reads TRITON_INTERPRET as it is imported, so that it has to be set before. Prints what went wrong of each case.
"""

import itertools
import json
import os
import sys
import traceback
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechssl.units import fused
from speechssl.units.assignment import Nearest, grouped_sums, sorted_sums
from speechssl.units.kmeans import KMeans

LAYOUTS = ("contiguous", "every other row", "some columns", "transposed")
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    precision: str
    num_points: int
    clusters: int
    dim: int
    dtype: str = "float32"
    layout: str = "contiguous"
    is_roomy: bool = True
    offset: float = 0.0  # offset of all points, which moves the centroids far from zero
    is_tied: bool = False  # small integers: all is exact, and many centroids are equally near

    def __str__(self) -> str:
        return "-".join(map(str, vars(self).values()))


CASES = [
    *(Case(*each) for each in itertools.product(("float32", "tf32", "bfloat16"), (1, 131), (1, 100), (39,), TYPES)),
    *(Case(precision, 70, 300, 80, "float16", layout) for precision in ("tf32", "bfloat16") for layout in LAYOUTS),
    *(Case("float32", 130, 9, 128, "float32", layout) for layout in LAYOUTS),
    *(Case("bfloat16", 129, 20, 5, "bfloat16", layout) for layout in LAYOUTS),
    *(Case(precision, 90, 60, 96, is_roomy=False) for precision in ("tf32", "bfloat16")),
    *(Case("bfloat16", 20, 513, dim) for dim in (200, 1000)),
    *(Case(precision, 150, 300, dim, is_tied=True) for precision in ("float32", "tf32", "bfloat16") for dim in (3, 80)),
    Case("tf32", 150, 100, 3, "float16", offset=64.0, is_tied=True),
    *(Case(precision, 90, 50, 39, offset=300.0) for precision in ("float32", "tf32", "bfloat16")),
    *(Case(precision, 90, 150, 64, "float16", offset=100.0) for precision in ("tf32", "bfloat16")),
]


def drawn(case: Case) -> tuple[Tensor, Tensor]:
    """Return (points, dim) points with the type and strides of a case, and (clusters, dim) float32 centroids."""
    generator = torch.Generator().manual_seed(0)
    shape = {"every other row": (2 * case.num_points, case.dim), "some columns": (case.num_points, case.dim + 3)}
    size = shape.get(case.layout, (case.num_points, case.dim))
    if case.is_tied:
        points, centroids = (torch.randint(-2, 3, s, generator=generator) for s in (size, (case.clusters, case.dim)))
    else:
        points, centroids = (torch.randn(s, generator=generator) for s in (size, (case.clusters, case.dim)))
    points, centroids = (points + case.offset).to(TYPES[case.dtype]), centroids.float() + case.offset
    match case.layout:
        case "every other row":
            return points[1::2], centroids
        case "some columns":
            return points[:, 2:-1], centroids
        case "transposed":
            return points.T.contiguous().T, centroids
    return points, centroids


def check_assignment(case: Case) -> None:
    points, centroids = drawn(case)
    nearest = Nearest(centroids, case.precision, allow_fused=False)
    expected, distances = nearest(points)
    tiles = fused.tiles_for(case.precision, case.clusters, case.dim, is_roomy=case.is_roomy)
    assert tiles is not None
    factor = nearest.shifted.bfloat16() if case.precision == "bfloat16" else nearest.shifted
    centre = nearest.centre if nearest.is_far else None
    assert (centre is not None) == (case.offset > 0 or case.clusters == 1)  # one centroid has no spread
    labels, found = fused.assign(points, factor.contiguous(), nearest.norms, centre, tiles)
    torch.testing.assert_close(found, distances, rtol=1e-5, atol=1e-3)
    if case.is_tied:
        assert labels.tolist() == expected.tolist()
    every = nearest.partial(nearest.relative(points))
    excess = every.gather(1, labels[:, None])[:, 0] - every.amin(1)
    assert float(excess.max()) < 1e-4, "a label is not of the nearest centroid"
    assert int((labels != expected).sum()) <= len(points) // 100


def check_not_finite() -> None:
    for precision, clusters in itertools.product(("float32", "tf32", "bfloat16"), (20, 300)):
        points = torch.randn(70, 24)
        points[3, 2], points[5], points[9, 0] = torch.nan, torch.inf, -torch.inf
        labels, distances = Nearest(torch.randn(clusters, 24), precision)(points)
        assert (~distances.isfinite()).nonzero()[:, 0].tolist() == [3, 5, 9]
        assert ((labels >= 0) & (labels < clusters)).all()


def check_sums() -> None:
    for dtype, dim in ((torch.float32, 5), (torch.float16, 200), (torch.bfloat16, 5)):
        points = torch.randn(3000, dim).to(dtype)[1::2]
        labels = torch.randint(4, (1500,)) ** 2  # some without points, some with more than a run
        expected = torch.zeros(12, dim, dtype=torch.float64).index_add_(0, labels, points.double())
        sums, counts = sorted_sums(points, labels, 12)
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-4)
        assert counts.tolist() == torch.bincount(labels, minlength=12).tolist()


def check_narrow_sums() -> None:
    for dtype, clusters, dim in ((torch.float32, 100, 39), (torch.float16, 33, 15), (torch.bfloat16, 128, 63)):
        points = (torch.randn(3001, dim) * torch.logspace(-3, 3, dim) + 5).to(dtype)[1::2]
        labels = torch.randint(9, (1500,)) ** 2 % clusters
        expected, numbers = sorted_sums(points.double(), labels, clusters)
        sums, counts = grouped_sums(points, labels, clusters)
        torch.testing.assert_close(sums, expected, rtol=1e-6, atol=1e-2)
        assert counts.tolist() == numbers.tolist()


def check_fit() -> None:
    points = torch.randn(40, 5).mul(10).repeat_interleave(10, 0) + torch.randn(400, 5)
    fast = KMeans(n_clusters=8).fit(points)
    labels = fast.predict(points)
    slow = Nearest(fast.cluster_centers_, allow_fused=False)
    assert torch.equal(labels, slow(points)[0])
    assert abs(float(slow(points)[1].double().sum()) / fast.inertia_ - 1) < 1e-5


OTHERS = {"not finite": check_not_finite, "sums": check_sums, "narrow sums": check_narrow_sums, "fit": check_fit}


def make_the_interpreter_right() -> None:
    """Fix bugs of Triton 3.5 on a CPU: bounds of loops with numpy 2.4, and bfloat16."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    patch, cast, dot = interpreter._patch_lang_tensor, builder.cast_impl, builder.create_dot

    def patch_lang_tensor(tensor, *scope) -> None:  # from Triton 3.6 on it is told where to note what it changed
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    def cast_impl(self, source, target):
        if (source.dtype.scalar, target.scalar) == (tl.float32, tl.bfloat16):  # round; the interpreter cuts off
            rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16)
            return handle(rounded.numpy().view(np.uint16), tl.bfloat16)
        return cast(self, source, target)

    def widened(factor):
        if factor.dtype.scalar != tl.bfloat16:
            return factor
        return handle((factor.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    interpreter._patch_lang_tensor = patch_lang_tensor
    builder.cast_impl = builder.create_fp_trunc = cast_impl
    builder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)


def main() -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"
    assert "triton" not in sys.modules, "importing speechssl imports triton"
    make_the_interpreter_right()
    fused.is_available = lambda device: True
    fused._multiprocessors = lambda device: 1
    fused.sums_right = lambda *_, **__: True  # tried in `check_sums` and `check_narrow_sums`
    fused.choose_tiles = lambda device, dtype, clusters, dim, precision, has_centre: fused.tiles_for(
        precision, clusters, dim, is_roomy=True
    )
    checks = {str(case): (lambda case=case: check_assignment(case)) for case in CASES} | OTHERS
    wrong = {}
    for name, check in checks.items():
        torch.manual_seed(0)
        try:
            check()
            wrong[name] = ""
        except Exception:
            wrong[name] = traceback.format_exc()
    json.dump(wrong, sys.stdout)


if __name__ == "__main__":
    main()
