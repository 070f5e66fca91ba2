"""First centroids from points in memory: k-means++ and k-means||. Both draw only distinct points."""

import math
from typing import Literal

import torch
from torch import Tensor

from speechssl.errors import LabelError
from speechssl.units.assignment import Nearest

__all__ = ["Seeding", "choose_seeds", "kmeans_parallel", "kmeans_plus_plus"]

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
        chances = closest.double() * (_OVERSAMPLING * clusters / closest.double().sum())
        draws = torch.rand(len(points), generator=generator, dtype=torch.float64).to(points.device)
        more = (draws < chances).nonzero()[:, 0]
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
