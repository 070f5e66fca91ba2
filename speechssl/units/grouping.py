"""Sums over clusters on a GPU: points sorted by cluster, cut into runs, run after run added up; or one product.

Adding every point to its cluster as it comes makes thousands of threads wait for the same few rows, in an order that
differs from time to time. Here the order is always the same, and nothing waits for the host. The CPU has its own way
(`speechssl.units.assignment`).
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from speechssl.units import fused

__all__ = ["grouped_sums", "sorted_sums"]

_RUN = 512  # rows of a run at most; added up in float32, the runs of a cluster in float64


def grouped_sums(points: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Add up points by cluster, unsorted where a kernel holds the sums of all clusters.

    Args:
        points: (points, dim) of any float type.
        labels: (points,) int64, the cluster of each.
        clusters: how many there are; one without points has zeros.

    Returns:
        (clusters, dim) float64 sums and (clusters,) int64 numbers of points.
    """
    if not fused.can_sum_narrow(points.device, points.dtype, clusters, points.shape[1]):
        return sorted_sums(points, labels, clusters)
    total = fused.sum_narrow(points, labels, clusters).sum(0, dtype=torch.float64)  # (clusters, dim + 1)
    return total[:, :-1], total[:, -1].long()


def sorted_sums(points: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Do the same for any number of clusters and dimensions, sorted."""
    short = labels.to(torch.int16 if clusters < 2**15 else torch.int32)  # sorted by radix: the fewer bits, the faster
    ascending, order = torch.sort(short, stable=True)
    edges = torch.searchsorted(ascending, torch.arange(clusters + 1, dtype=short.dtype, device=short.device))
    regular = torch.arange(0, len(points), _RUN, device=short.device)
    cuts = torch.cat([edges[:-1], regular]).sort()[0]  # as many for any labels; equal ones make runs without rows
    if fused.can_sum_runs(points.device, points.dtype, points.shape[1]):
        runs = fused.sum_runs(points, order, cuts)
    else:
        runs = embedding_bag(order, points.float(), cuts, mode="sum")  # (runs, dim)
    first = torch.searchsorted(cuts, edges[:-1])  # run of each cluster
    return embedding_bag(torch.arange(len(cuts), device=cuts.device), runs.double(), first, mode="sum"), edges.diff()
