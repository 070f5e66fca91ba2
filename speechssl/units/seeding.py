"""First centroids from points in memory: k-means++ and k-means||. Both draw only distinct points."""

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
    "choose_seeds",
    "draw_sample",
    "kmeans_parallel",
    "kmeans_plus_plus",
    "measure_standard",
]

Seeding = Literal["k-means++", "k-means||"]

_ROUNDS = 5  # of k-means||; its authors find no gain in more
_COPIED = 2**24  # numbers, 64 MiB, of which k-means++ holds a copy
_OVERSAMPLING = 2.0  # candidates of a round, in clusters


def choose_seeds(points: Tensor, clusters: int, seeding: Seeding, generator: torch.Generator) -> Tensor:
    """Choose `clusters` rows of `points` as first centroids.

    Args:
        points: (points, dim) float32, on the device that shall do the work.
        clusters: how many to choose, at most the number of distinct points.
        seeding: how.
        generator: source of the draws, on the CPU.

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


def kmeans_plus_plus(
    points: Tensor, clusters: int, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Choose rows by k-means++ (Arthur and Vassilvitskii 2007), the best of a few candidates each time.

    Args:
        points: (points, dim) float32.
        clusters: how many to choose.
        generator: source of the draws, on the CPU.
        weights: (points,) float32, how often each point counts; None for once.

    Returns:
        (clusters,) int64 rows on the CPU, in the order of their choice.

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
        closest = distances.index_select(0, best)[0]  # by brackets, the host would wait for the number
        chosen = torch.cat([chosen, picks.index_select(0, best)])
    if len(points[chosen].unique(dim=0)) == clusters:
        return chosen.cpu()
    return _among_distinct(points, clusters, generator, weights)


def kmeans_parallel(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Choose rows by k-means|| (Bahmani et al. 2012): a few rounds of many draws, thinned out by k-means++.

    Args:
        points: (points, dim) float32.
        clusters: how many to choose.
        generator: source of the draws, on the CPU.

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
    if len(chosen) < clusters:  # too few points far from each other for so many draws
        return kmeans_plus_plus(points, clusters, generator)
    labels = Nearest(points[chosen])(points)[0]
    weights = torch.bincount(labels, minlength=len(chosen)).float()
    return chosen.cpu()[kmeans_plus_plus(points[chosen], clusters, generator, weights)]


def _among_distinct(points: Tensor, clusters: int, generator: torch.Generator, weights: Tensor | None) -> Tensor:
    """Choose again where equal points were taken twice, now with every value once.

    Raises:
        LabelError: there are too few values.
    """
    values, group = points.unique(dim=0, return_inverse=True)
    if len(values) < clusters:
        raise LabelError(
            f"only {len(values)} distinct frames for {clusters} clusters; give more audio or fewer clusters"
        )
    first = torch.full((len(values),), len(points), device=points.device)
    first.scatter_reduce_(0, group, torch.arange(len(points), device=points.device), "amin")
    if len(values) == len(points):  # all differ, and yet draws ran out: the rest are too close for float32
        return torch.randperm(len(points), generator=generator)[:clusters]
    often = torch.bincount(group, weights, minlength=len(values)).float()
    return first.cpu()[kmeans_plus_plus(values, clusters, generator, often)]


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Takes features to the units in which distances are measured: less `mean`, times `scale`."""

    mean: Tensor  # (dim,) float32
    scale: Tensor  # (dim,) float32, a factor

    @classmethod
    def none(cls, dim: int) -> Self:
        """Leave features as they are."""
        return cls(mean=torch.zeros(dim), scale=torch.ones(dim))

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        return type(self)(mean=self.mean.to(device), scale=self.scale.to(device))

    @cached_property
    def is_none(self) -> bool:
        """Whether features stay as they are; found out once, as a GPU has to be waited for."""
        return not bool(self.mean.any()) and bool((self.scale == 1).all())

    def apply(self, features: Tensor) -> Tensor:
        """Return (points, dim) features as float32 in the units of distances; on a GPU, any float type may stay."""
        if self.is_none:
            return features.float() if features.device.type == "cpu" else features
        return (features.float() - self.mean) * self.scale


def draw_sample(points: Points, *, at_most: int, generator: torch.Generator, ranks: Ranks) -> tuple[Tensor, int]:
    """Draw points at random, without replacement: one from each of so many stretches of equal length.

    Args:
        points: of this rank; those of all ranks count as one sequence, in the order of the ranks.
        at_most: how many to draw; all if there are no more.
        generator: source of the draws, on the CPU, the same on every rank.
        ranks: the processes.

    Returns:
        (sample, dim) float32 in random order, so that every beginning of it is a sample too, and the number of points
        of all ranks. Both are the same on every rank.
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
    """Measure mean and standard deviation of every dimension, in one pass over all points of all ranks."""
    moments = torch.zeros(3, points.dim, dtype=torch.float64)
    for block in points.blocks():
        check_finite(block)
        block = block.double()  # its sums are taken where it lies
        count = torch.full((points.dim,), float(len(block)))
        moments += torch.stack([count, block.sum(0).cpu(), block.square().sum(0).cpu()])
    count, total, squares = ranks.sum(moments.to(ranks.device)).cpu()
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
    return Standard(mean=mean.float(), scale=(1 / variance.sqrt().clamp(min=1e-6)).float())
