"""Nearest centroids, and the sums over each cluster that a Lloyd iteration needs. One block at a time.

Squared distances come from one matrix product a tile, relative to the mean of the centroids: |x|^2 - 2 x.c + |c|^2
cancels badly where the features lie far from zero.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["ClusterSums", "Nearest", "Precision", "sum_clusters"]

Precision = Literal["float32", "tf32", "bfloat16"]

_CPU_TILE = 2**21  # distances held at once, 8 MiB: as much as stays in the cache
_TILE = 2**27  # on other devices, 512 MiB


class Nearest:
    """Finds the nearest of some centroids.

    Args:
        centroids: (clusters, dim) float32, on the device that shall do the work.
        precision: of the factors of the matrix product; it accumulates in float32 in any case. `tf32` is float32
            where the device has none.
    """

    def __init__(self, centroids: Tensor, precision: Precision = "float32") -> None:
        self.precision: Precision = precision
        self.device = centroids.device
        self.centre = centroids.mean(0)
        self.shifted = _rounded(centroids - self.centre, precision)  # (clusters, dim)
        self.norms = self.shifted.float().square().sum(1)
        elements = _CPU_TILE if self.device.type == "cpu" else _TILE
        self.tile = max(256, elements // len(centroids))
        self._products = torch.empty(0, device=self.device)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Assign points.

        Args:
            points: (points, dim) of any float type, on any device.

        Returns:
            (points,) int64 index of the nearest centroid, the first of equals, and (points,) float32 squared distance.
        """
        labels = torch.empty(len(points), dtype=torch.long, device=self.device)
        distances = torch.empty(len(points), device=self.device)
        for start in range(0, len(points), self.tile):
            part = points[start : start + self.tile].to(self.device) - self.centre
            nearest = (labels[start : start + self.tile], distances[start : start + self.tile])
            torch.min(self.partial(part), dim=1, out=(nearest[1], nearest[0]))
            nearest[1].add_(torch.linalg.vector_norm(part, dim=1).square_()).clamp_(min=0)
        return labels, distances

    def partial(self, part: Tensor) -> Tensor:
        """Return (points, clusters) squared distances less |x|^2 of (points, dim) points relative to the centre.

        The next call overwrites them.
        """
        if len(self._products) < len(part):
            self._products = torch.empty(len(part), len(self.shifted), device=self.device)
        out = self._products[: len(part)]
        factor = _rounded(part, self.precision)
        if factor.dtype == torch.bfloat16:
            products = torch.mm(factor, self.shifted.T, out_dtype=torch.float32)
            return torch.add(self.norms, products, alpha=-2, out=out)
        with _tf32(self.precision == "tf32" and self.device.type == "cuda"):
            return torch.addmm(self.norms, factor, self.shifted.T, alpha=-2, out=out)


@dataclass(frozen=True, kw_only=True)
class ClusterSums:
    """What an assignment of points adds up to."""

    sums: Tensor  # (clusters, dim) float64, of the points of each cluster
    counts: Tensor  # (clusters,) float64, their number
    inertia: Tensor  # () float64, sum of squared distances

    def means(self, otherwise: Tensor) -> Tensor:
        """Return the (clusters, dim) float32 means; `otherwise` has the rows of the clusters without points."""
        means = (self.sums / self.counts.clamp(min=1)[:, None]).float()
        return torch.where(self.counts[:, None] > 0, means, otherwise)


def sum_clusters(blocks: Iterable[Tensor], nearest: Nearest) -> ClusterSums:
    """Assign all points and add them up by cluster, in float64 over blocks."""
    clusters, dim = nearest.shifted.shape
    sums = torch.zeros(clusters, dim, dtype=torch.float64, device=nearest.device)
    counts = torch.zeros(clusters, dtype=torch.float64, device=nearest.device)
    inertia = torch.zeros((), dtype=torch.float64, device=nearest.device)
    for block in blocks:
        labels, distances = nearest(block)
        moved = block.to(nearest.device, torch.float32)
        sums += torch.zeros(clusters, dim, device=nearest.device).index_add_(0, labels, moved)
        counts += torch.bincount(labels, minlength=clusters)
        inertia += distances.double().sum()
    return ClusterSums(sums=sums, counts=counts, inertia=inertia)


def _rounded(values: Tensor, precision: Precision) -> Tensor:
    if precision != "bfloat16":
        return values
    values = values.bfloat16()
    return values if values.device.type == "cuda" else values.float()  # the CPU's product would round its result


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """Let CUDA round the factors of float32 products to 19 bits, inside."""
    if not wanted:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
