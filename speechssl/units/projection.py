"""Projection of points to principal directions, for cheaper first iterations of k-means.

Clusters that are good in the span of the leading principal directions are good in all dimensions (Cohen et al. 2015,
arXiv:1410.6801), and speech features of 768 dimensions have nearly all their variance in a few dozen. The cost of an
iteration falls in proportion; later iterations in all dimensions correct the remaining error.
"""

import torch
from torch import Tensor

from speechssl.parallel import Ranks
from speechssl.units.assignment import Nearest, cluster_sums
from speechssl.units.points import block_rows

__all__ = ["lifted", "principal_directions"]

_VARIANCE = 0.9  # share of the variance that the directions keep
_LARGEST_SHARE = 0.25  # maximum number of directions as a share of the dimensions; with more, a projection does not pay
_MULTIPLE = 16  # the number of directions is rounded up to a multiple, for fast matrix products
_POINTS = 4096  # number of points for the covariance


def principal_directions(sample: Tensor, ranks: Ranks) -> Tensor | None:
    """Find the directions that hold most of the variance.

    Args:
        sample: (points, dim) float32, the same on every rank.
        ranks: the processes; all get the directions of the first one.

    Returns:
        (dim, directions) float32, orthonormal; None if too many directions are needed for a projection to pay.
    """
    some = sample[:_POINTS]
    centred = some - some.mean(0)
    covariance = centred.T @ centred
    most = int(_LARGEST_SHARE * sample.shape[1]) // _MULTIPLE * _MULTIPLE
    if most**0.5 * float(covariance.norm()) < _VARIANCE * float(covariance.trace()):
        return None  # by the inequality of Cauchy and Schwarz, `most` directions hold too little; eigh takes longer
    variances, directions = torch.linalg.eigh(covariance)  # ascending
    kept = variances.clamp(min=0).flip(0).cumsum(0) / variances.clamp(min=0).sum()
    needed = int((kept < _VARIANCE).sum()) + 1
    count = -(-needed // _MULTIPLE) * _MULTIPLE
    if count > _LARGEST_SHARE * sample.shape[1]:
        return None
    chosen = directions[:, -count:].contiguous()
    return ranks.sum(chosen if ranks.is_first else torch.zeros_like(chosen))


def lifted(sample: Tensor, projected: Tensor, centroids: Tensor) -> Tensor:
    """Return the (clusters, dim) means of the sample's points, assigned by their (points, directions) projections.

    A cluster without points gets the point whose projection is nearest to its centroid.
    """
    labels = torch.cat(
        [nearest_labels for nearest_labels, _ in map(Nearest(centroids), projected.split(block_rows(projected)))]
    )
    counts = torch.bincount(labels, minlength=len(centroids))
    means = cluster_sums(sample, labels, counts) / counts.clamp(min=1)[:, None]
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        means[empty] = sample[torch.cdist(centroids[empty], projected).argmin(1)]
    return means
