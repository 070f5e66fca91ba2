"""Initial centroids by k-means++ or k-means||, the random sample of points, and its standardisation."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from speechssl.errors import LabelError
from speechssl.parallel import Ranks
from speechssl.units.assignment import Nearest
from speechssl.units.points import Points, check_finite

__all__ = [
    "Seeding",
    "Standard",
    "batched_plus_plus",
    "choose_seeding",
    "choose_seeds",
    "draw_sample",
    "kmeans_parallel",
    "kmeans_plus_plus",
    "measure_standard",
]

Seeding = Literal["k-means++", "k-means||", "batched"]

_FEW = 32  # number of clusters below which k-means++ costs too little to be done in batches
_SEEDED = 8  # minimum number of points per cluster for k-means++ in batches; Lloyd iterations take more
_DIMS = 8  # number of dimensions for which it takes one more point per cluster, as iterations over wide points are slow
_ENOUGH = 32  # maximum number of points per cluster
_MOST = 16_384  # number of points from which on there are fewer per cluster
_LEAST = 4096  # minimum number of points that it takes
_WIDTH = 128  # number of dimensions in which it measures distances
_TURN = 4096  # number of points by which it finds the directions of most variance
_BATCH = 8  # maximum number of seeds per batch
_SHARE = 8  # seeds before a batch, and seeds after it, for each seed of it, so that the last ones find what is left
_ROUNDS = 5  # rounds of k-means||; its authors find no gain in more
_COPIED = 2**24  # maximum number of elements, 64 MiB, for which k-means++ keeps a transposed copy
_OVERSAMPLING = 2.0  # candidates per round of k-means||, as a multiple of the clusters


def choose_seeding(clusters: int) -> Seeding:
    """Choose the method that costs least for a number of clusters, at the same inertia after Lloyd iterations.

    k-means++ in batches bounds the points and dimensions that it looks at by itself.
    """
    return "k-means++" if clusters < _FEW else "batched"


def choose_seeds(points: Tensor, clusters: int, seeding: Seeding, generator: torch.Generator) -> Tensor:
    """Choose `clusters` distinct rows of `points` as initial centroids.

    Args:
        points: (points, dim) float32, on the device of the computation.
        clusters: number of rows, at most the number of distinct points.
        seeding: the method.
        generator: random generator on the CPU.

    Returns:
        (clusters,) int64 rows on the CPU, all different.

    Raises:
        LabelError: fewer distinct points than clusters.
    """
    match seeding:
        case "k-means++":
            return kmeans_plus_plus(points, clusters, generator)
        case "k-means||":
            return kmeans_parallel(points, clusters, generator)
        case "batched":
            return batched_plus_plus(points, clusters, generator)


def kmeans_plus_plus(
    points: Tensor, clusters: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Choose rows by k-means++ (Arthur and Vassilvitskii 2007), with the best of a few candidates for each.

    Args:
        points: (points, dim) float32.
        clusters: number of rows to choose.
        generator: random generator on the CPU.
        weights: (points,) float32 weight of each point; None for 1.

    Returns:
        (clusters,) int64 rows on the CPU, in the order of choice.

    Raises:
        LabelError: fewer distinct points than clusters.
    """
    candidates = 2 + int(math.log(clusters))
    draws = torch.rand(clusters, candidates, generator=generator, dtype=torch.float64).to(points.device)
    first = torch.ones(len(points), device=points.device) if weights is None else weights
    chosen = torch.searchsorted(first.double().cumsum(0), draws[0, :1] * first.double().sum()).clamp(
        max=len(points) - 1
    )
    norms, columns = points.square().sum(1), points.T
    if points.numel() <= _COPIED:
        columns = columns.contiguous()  # makes the products with few rows faster
    closest = (points - points[chosen]).square().sum(1)
    for step in range(1, clusters):
        total = (closest if weights is None else closest * weights).cumsum(0, dtype=torch.float64)
        if step % 16 == 1 and not float(total[-1]) > 0:
            break
        picks = torch.searchsorted(total, draws[step] * total[-1], right=True).clamp(max=len(points) - 1)
        distances = torch.addmm(norms, points[picks], columns, alpha=-2) + norms[picks, None]  # (candidates, points)
        distances = torch.minimum(distances, closest).clamp_(min=0)
        distances.scatter_(1, picks[:, None], 0.0)
        best = (distances if weights is None else distances * weights).sum(1).argmin(0, keepdim=True)
        closest = distances.index_select(0, best)[0]  # indexing by brackets would synchronise
        chosen = torch.cat([chosen, picks.index_select(0, best)])
    if len(points[chosen].unique(dim=0)) == clusters:
        return chosen.cpu()
    return _among_distinct(points, clusters, generator, weights)


def batched_plus_plus(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Choose rows by k-means++ in batches: several seeds at once, among few points, in few dimensions.

    The candidates of a batch are drawn by the distances to the seeds before it, as in a round of k-means||; the best of
    a few is taken with regard to the seeds of its own batch too. So distances come from products of large matrices.

    Args:
        points: (points, dim) float32, in random order.
        clusters: number of rows to choose.
        generator: random generator on the CPU.

    Returns:
        (clusters,) int64 rows on the CPU, in the order of choice.

    Raises:
        LabelError: fewer distinct points than clusters.
    """
    candidates = 2 + int(math.log(clusters))
    draws = torch.rand(clusters, candidates, generator=generator, dtype=torch.float64).to(points.device)
    affordable = min(_MOST, min(_ENOUGH, points.shape[1] // _DIMS) * clusters)
    num_points = max(_SEEDED * clusters, _LEAST, affordable)
    narrow = _narrowed(points[:num_points], generator)
    norms, columns = narrow.square().sum(1), narrow.T.contiguous()
    chosen = (draws[0, :1] * len(narrow)).long()
    closest = (narrow - narrow.index_select(0, chosen)).square_().sum(1)
    products = torch.empty(_BATCH * candidates, len(narrow), device=points.device)
    while len(chosen) < clusters:
        size = min(_BATCH, max(1, min(len(chosen), clusters - len(chosen)) // _SHARE))
        batch = draws[len(chosen) : len(chosen) + size]
        total = closest.cumsum(0, dtype=torch.float64)
        picks = torch.searchsorted(total, batch * total[-1], right=True).clamp_(max=len(narrow) - 1)
        rows = picks.flatten()
        gains = products[: len(rows)]  # by how much a candidate is nearer to a point than the seeds are
        torch.addmm(closest - norms, narrow.index_select(0, rows), columns, alpha=2, out=gains)
        gains -= norms.index_select(0, rows)[:, None]
        before = closest.clone()
        for gain, pick in zip(gains.view(*batch.shape, -1), picks, strict=True):
            best = gain.sub_(before - closest).relu_().sum(1).argmax(0, keepdim=True)
            nearer, seed = gain.index_select(0, best), pick.index_select(0, best)
            closest = closest.sub_(nearer[0]).clamp_(min=0).index_fill_(0, seed, 0.0)
            chosen = torch.cat([chosen, seed])
    if len(points[chosen].unique(dim=0)) == clusters:
        return chosen.cpu()
    return kmeans_plus_plus(points, clusters, generator)


def _narrowed(points: Tensor, generator: torch.Generator) -> Tensor:
    """Return (points, width) float32 of (points, dim), from their mean, along random directions of much variance.

    The directions are random ones, turned by one step of subspace iteration (Halko et al. 2011, section 4.5). Points
    that vary alike along all dimensions keep their distances up to a factor, those that vary along few keep them.
    """
    mean = points.mean(0)
    if points.shape[1] <= _WIDTH:
        return points - mean
    directions = torch.randn(points.shape[1], _WIDTH, generator=generator).to(points.device)
    some = points[:_TURN] - mean
    directions = torch.linalg.qr(some.T @ (some @ directions))[0]
    return torch.addmm(mean @ directions, points, directions, beta=-1)


def kmeans_parallel(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Choose rows by k-means|| (Bahmani et al. 2012): a few rounds of many draws, reduced by k-means++.

    Args:
        points: (points, dim) float32.
        clusters: number of rows to choose.
        generator: random generator on the CPU.

    Returns:
        (clusters,) int64 rows on the CPU.

    Raises:
        LabelError: fewer distinct points than clusters.
    """
    chosen = torch.randint(len(points), (1,), generator=generator).to(points.device)
    closest = (points - points[chosen]).square().sum(1)
    for _ in range(_ROUNDS):
        probabilities = closest.double() * (_OVERSAMPLING * clusters / closest.double().sum())
        draws = torch.rand(len(points), generator=generator, dtype=torch.float64).to(points.device)
        more = (draws < probabilities).nonzero()[:, 0]
        if len(more):
            closest = torch.minimum(closest, Nearest(points[more])(points)[1])
            closest[more] = 0.0
            chosen = torch.cat([chosen, more])
    chosen = chosen.unique()
    if len(chosen) < clusters:  # too few distant points
        return kmeans_plus_plus(points, clusters, generator)
    labels = Nearest(points[chosen])(points)[0]
    weights = torch.bincount(labels, minlength=len(chosen)).float()
    return chosen.cpu()[kmeans_plus_plus(points[chosen], clusters, generator, weights)]


def _among_distinct(points: Tensor, clusters: int, generator: torch.Generator, weights: Tensor | None) -> Tensor:
    """Choose again among distinct points, after equal points were chosen twice.

    Raises:
        LabelError: fewer distinct points than clusters.
    """
    values, group = points.unique(dim=0, return_inverse=True)
    if len(values) < clusters:
        raise LabelError(
            f"only {len(values)} distinct frames for {clusters} clusters; give more audio or fewer clusters"
        )
    first = torch.full((len(values),), len(points), device=points.device)
    first.scatter_reduce_(0, group, torch.arange(len(points), device=points.device), "amin")
    if len(values) == len(points):  # all points differ, but by less than float32 distances resolve
        return torch.randperm(len(points), generator=generator)[:clusters]
    often = torch.bincount(group, weights, minlength=len(values)).float()
    return first.cpu()[kmeans_plus_plus(values, clusters, generator, often)]


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Standardisation of features before distances are computed: (features - mean) * scale."""

    mean: Tensor  # (dim,) float32
    scale: Tensor  # (dim,) float32

    @classmethod
    def none(cls, dim: int) -> Self:
        """Return the identity."""
        return cls(mean=torch.zeros(dim), scale=torch.ones(dim))

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        return type(self)(mean=self.mean.to(device), scale=self.scale.to(device))

    @cached_property
    def is_none(self) -> bool:
        """Whether this is the identity; cached, since the check synchronises with a GPU."""
        return not bool(self.mean.any()) and bool((self.scale == 1).all())

    def apply(self, features: Tensor) -> Tensor:
        """Standardise (points, dim) features to float32; on a GPU, the identity keeps the number type."""
        if self.is_none:
            return features.float() if features.device.type == "cpu" else features
        return (features.float() - self.mean) * self.scale


def draw_sample(points: Points, *, at_most: int, generator: torch.Generator, ranks: Ranks) -> tuple[Tensor, int]:
    """Draw points at random, without replacement: one from each of `at_most` segments of equal length.

    Args:
        points: points of this rank; those of all ranks form one sequence, in the order of the ranks.
        at_most: number of points to draw; all points if there are fewer.
        generator: random generator on the CPU, in the same state on every rank.
        ranks: the processes.

    Returns:
        (sample, dim) float32 in random order, so that every prefix is a random sample too, and the number of points of
        all ranks. Both are the same on every rank.
    """
    lengths = torch.zeros(ranks.world_size, dtype=torch.long, device=ranks.device)
    lengths[ranks.rank] = len(points)
    lengths = ranks.sum(lengths).cpu()
    num_points, first = int(lengths.sum()), int(lengths[: ranks.rank].sum())
    size = min(at_most, num_points)
    edges = torch.arange(size + 1) * num_points // max(size, 1)
    widths = edges.diff()
    rows = edges[:-1] + (torch.rand(size, generator=generator, dtype=torch.float64) * widths).long()
    begin, end = torch.searchsorted(rows, torch.tensor([first, first + len(points)])).tolist()
    own = points.gather(rows[begin:end] - first)
    order = torch.randperm(size, generator=generator).to(own.device)
    if ranks.world_size == 1:
        return own.index_select(0, order), num_points
    sample = torch.zeros(size, points.dim, device=ranks.device)
    sample[begin:end] = own.to(ranks.device)
    return ranks.sum(sample)[order.to(ranks.device)], num_points


def measure_standard(points: Points, ranks: Ranks) -> Standard:
    """Compute the standardisation of every dimension in one pass over all points of all ranks."""
    moments = torch.zeros(3, points.dim, dtype=torch.float64)
    for block in points.blocks():
        check_finite(block)
        block = block.double()  # summed on its device
        count = torch.full((points.dim,), float(len(block)))
        moments += torch.stack([count, block.sum(0).cpu(), block.square().sum(0).cpu()])
    count, total, squares = ranks.sum(moments.to(ranks.device)).cpu()
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
    return Standard(mean=mean.float(), scale=(1 / variance.sqrt().clamp(min=1e-6)).float())
