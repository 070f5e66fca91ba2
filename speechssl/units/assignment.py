"""Nearest centroids, and the sums over each cluster for a Lloyd iteration, one block of points at a time.

Squared distances come from one matrix product per tile: |x|^2 - 2 x.c + |c|^2. If the features lie far from zero, this
suffers from cancellation, so everything is taken relative to the mean of the centroids. On a GPU one fused kernel
computes all of it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from speechssl.units import fused

__all__ = ["ClusterSums", "Nearest", "Precision", "cluster_sums", "grouped_sums", "sorted_sums", "sum_clusters"]

_RUN = 512  # maximum rows of a run, which is summed in float32; the runs of a cluster are summed in float64


def grouped_sums(points: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sum points by cluster, without sorting if a kernel can hold the sums of all clusters.

    Args:
        points: (points, dim) of any float type.
        labels: (points,) int64, cluster of each point.
        clusters: number of clusters; a cluster without points has sum zero.

    Returns:
        (clusters, dim) float64 sums and (clusters,) int64 numbers of points.
    """
    if not fused.can_sum_narrow(points.device, points.dtype, clusters, points.shape[1]):
        return sorted_sums(points, labels, clusters)
    total = fused.sum_narrow(points, labels, clusters).sum(0, dtype=torch.float64)  # (clusters, dim + 1)
    return total[:, :-1], total[:, -1].long()


def sorted_sums(points: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sum points by cluster like `grouped_sums`, by sorting, for any number of clusters and dimensions."""
    short = labels.to(torch.int16 if clusters < 2**15 else torch.int32)  # radix sort is faster with fewer bits
    ascending, order = torch.sort(short, stable=True)
    edges = torch.searchsorted(ascending, torch.arange(clusters + 1, dtype=short.dtype, device=short.device))
    regular = torch.arange(0, len(points), _RUN, device=short.device)
    cuts = torch.cat([edges[:-1], regular]).sort()[0]  # their number does not depend on the labels; some runs are empty
    if fused.can_sum_runs(points.device, points.dtype, points.shape[1]):
        runs = fused.sum_runs(points, order, cuts)
    else:
        runs = embedding_bag(order, points.float(), cuts, mode="sum")  # (runs, dim)
    first = torch.searchsorted(cuts, edges[:-1])  # first run of each cluster
    return embedding_bag(torch.arange(len(cuts), device=cuts.device), runs.double(), first, mode="sum"), edges.diff()


Precision = Literal["float32", "tf32", "bfloat16"]

_CPU_TILE = 2**20  # number of distances held at once, 4 MiB, which fits into the cache
_ROUGH_DIMS = 96  # number of dimensions from which on the conversion to bfloat16 takes less time than it saves
_TILE = 2**27  # the same on other devices, 512 MiB
_FAR = (
    4.0  # distance of the centroids' mean from zero, in their standard deviations; two bits of float32 are lost there
)


class Nearest:
    """Finds the nearest centroid of each point.

    Args:
        centroids: (clusters, dim) float32, on the device of the computation.
        precision: number type of the factors of the matrix product, which accumulates in float32. `tf32` is float32 on
            devices without it.
        allow_fused: use the kernel of `speechssl.units.fused` if available; otherwise distances are written to memory.
        rough: let a CPU round the factors of float32 products to bfloat16, if it has instructions for that.
    """

    def __init__(
        self, centroids: Tensor, precision: Precision = "float32", *, allow_fused: bool = True, rough: bool = False
    ) -> None:
        self.precision: Precision = precision
        self.allow_fused = allow_fused
        self.device = centroids.device
        self.rough = (
            rough and precision == "float32" and self.device.type == "cpu" and centroids.shape[1] >= _ROUGH_DIMS
        )
        mean = centroids.mean(0)
        distance = float(mean.square().sum())
        spread = float(_squared_lengths(centroids).mean()) - distance
        self.is_far = distance > _FAR**2 * spread
        self.centre = mean if self.is_far else torch.zeros_like(mean)
        self.shifted = _rounded(centroids - mean if self.is_far else centroids, precision)  # (clusters, dim)
        self.norms = self.shifted.float().square().sum(1)  # no square root, whose rounding would break ties
        elements = _CPU_TILE if self.device.type == "cpu" else _TILE
        self.tile = max(256, elements // len(centroids))
        self.doubled = -2 * self.shifted if self.rough else self.shifted
        self._products = torch.empty(0, device=self.device)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Assign points.

        Args:
            points: (points, dim) of any float type, on any device.

        Returns:
            (points,) int64 index of the nearest centroid, the first of equal ones, and (points,) float32 squared
            distance.
        """
        tiles = self.fused_tiles(points.dtype)
        if tiles is not None and points.device == self.device:
            return fused.assign(points, self.shifted, self.norms, self.centre if self.is_far else None, tiles)
        labels = torch.empty(len(points), dtype=torch.long, device=self.device)
        distances = torch.empty(len(points), device=self.device)
        for start in range(0, len(points), self.tile):
            part = self.relative(points[start : start + self.tile])
            label, distance = labels[start : start + self.tile], distances[start : start + self.tile]
            _smallest(self.partial(part), label, distance)
            distance.add_(_squared_lengths(part)).clamp_(min=0)
        return labels, distances

    def fused_tiles(self, dtype: torch.dtype) -> fused.Tiles | None:
        """Return the tiles of the fused kernel for a number type; None if the kernel is not to be used."""
        if not self.allow_fused:
            return None
        clusters, dim = self.shifted.shape
        return fused.choose_tiles(self.device, dtype, clusters, dim, self.precision, has_centre=self.is_far)

    def relative(self, points: Tensor) -> Tensor:
        """Return points as float32 relative to the centre; without a copy if nothing has to be done."""
        points = points.to(self.device, torch.float32)
        return points - self.centre if self.is_far else points

    def partial(self, part: Tensor) -> Tensor:
        """Return (points, clusters) squared distances minus |x|^2, for (points, dim) points relative to the centre.

        The next call overwrites the result.
        """
        if len(self._products) < len(part):
            self._products = torch.empty(len(part), len(self.shifted), device=self.device)
        out = self._products[: len(part)]
        factor = _rounded(part, self.precision)
        if factor.dtype == torch.bfloat16:
            products = torch.mm(factor, self.shifted.T, out_dtype=torch.float32)
            return torch.add(self.norms, products, alpha=-2, out=out)
        if self.rough:
            with _bfloat16_products():
                products = torch.mm(factor, self.doubled.T, out=out)  # addmm would not be rounded
            return products.add_(self.norms)
        with _tf32(self.precision == "tf32" and self.device.type == "cuda"):
            return torch.addmm(self.norms, factor, self.shifted.T, alpha=-2, out=out)


@dataclass(frozen=True, kw_only=True)
class ClusterSums:
    """Sums over the points of each cluster."""

    sums: Tensor  # (clusters, dim) float64, sum of the points of each cluster
    counts: Tensor  # (clusters,) float64, number of points of each cluster
    inertia: Tensor  # () float64, sum of squared distances

    def means(self, otherwise: Tensor) -> Tensor:
        """Return the (clusters, dim) float32 means; clusters without points get the rows of `otherwise`."""
        means = (self.sums / self.counts.clamp(min=1)[:, None]).float()
        return torch.where(self.counts[:, None] > 0, means, otherwise)


def sum_clusters(blocks: Iterable[Tensor], nearest: Nearest) -> ClusterSums:
    """Assign all points and sum them by cluster, in float64 over blocks; without synchronisation on a GPU."""
    clusters, dim = nearest.shifted.shape
    sums = torch.zeros(clusters, dim, dtype=torch.float64, device=nearest.device)
    counts = torch.zeros(clusters, dtype=torch.float64, device=nearest.device)
    inertia = torch.zeros((), dtype=torch.float64, device=nearest.device)
    for block in blocks:
        if nearest.device.type == "cpu":
            points = block.to(nearest.device, torch.float32)
            labels, distances = nearest(points)
            members = torch.bincount(labels, minlength=clusters)
            sums += cluster_sums(points, labels, members)
        else:
            points = block.to(nearest.device)
            labels, distances = nearest(points)
            own, members = grouped_sums(points, labels, clusters)
            sums += own
        counts += members
        inertia += distances.sum(dtype=torch.float64)
    return ClusterSums(sums=sums, counts=counts, inertia=inertia)


def cluster_sums(points: Tensor, labels: Tensor, members: Tensor) -> Tensor:
    """Return the (clusters, dim) float32 sums of (points, dim) float32 points by their (points,) int64 labels.

    Args:
        points: the points.
        labels: cluster of each point.
        members: (clusters,) int64, number of points of each cluster.
    """
    if points.device.type != "cpu":
        return grouped_sums(points, labels, len(members))[0].float()
    short = np.int16 if len(members) < 2**15 else np.int64  # numpy sorts short integers by radix
    order = torch.from_numpy(np.argsort(labels.numpy().astype(short), kind="stable"))
    return embedding_bag(order, points, members.cumsum(0) - members, mode="sum")


def _squared_lengths(rows: Tensor) -> Tensor:
    """Return (rows,) float32 of (rows, dim) float32, without a copy of them."""
    return torch.linalg.vector_norm(rows, dim=1).square_()


def _smallest(values: Tensor, index: Tensor, smallest: Tensor) -> None:
    """Write the column of the smallest value of each row, the first of equal ones, and the value.

    Args:
        values: (rows, columns) float32.
        index: (rows,) int64, written.
        smallest: (rows,) float32, written.
    """
    if values.device.type != "cpu":
        torch.min(values, dim=1, out=(smallest, index))
        return
    values.numpy().argmin(1, out=index.numpy())  # several times faster than torch's
    torch.gather(values, 1, index[:, None], out=smallest[:, None])


def _rounded(values: Tensor, precision: Precision) -> Tensor:
    if precision != "bfloat16":
        return values
    values = values.bfloat16()
    return (
        values if values.device.type == "cuda" else values.float()
    )  # a bfloat16 product on CPU would round its result


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """Let CUDA round the factors of float32 products to 19 bits while the block runs."""
    if not wanted:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Let the CPU round the factors of float32 products to bfloat16 while the block runs, if that is faster on it."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # missing in the stubs
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
