"""Fewer dimensions for the first iterations: the principal directions of the sample.

Clusters that are good in the span of the leading principal directions are good in all dimensions (Cohen et al. 2015,
arXiv:1410.6801), and speech features of 768 dimensions have nearly all their variance in a few dozen. What an
iteration costs falls in proportion; the iterations after it, in all dimensions, set right what is left.
"""

import torch
from torch import Tensor

from speechssl.parallel import Ranks
from speechssl.units.assignment import Nearest, cluster_sums
from speechssl.units.points import block_rows

__all__ = ["lifted", "principal_directions"]

_VARIANCE = 0.9  # kept by the directions
_LARGEST_SHARE = 0.25  # of the dimensions; where more are needed, projecting does not pay
_MULTIPLE = 16  # of which the number of directions is, as matrix products like
_POINTS = 16_384  # that the covariance is taken from


def principal_directions(sample: Tensor, ranks: Ranks) -> Tensor | None:
    """Find the directions that hold most of the variance.

    Args:
        sample: (points, dim) float32, the same on every rank.
        ranks: the processes; all get the directions that the first one finds.

    Returns:
        (dim, directions) float32, orthonormal; None where so many are needed that it does not pay.
    """
    some = sample[:_POINTS]
    centred = some - some.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
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
