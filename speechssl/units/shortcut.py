"""Nearest centroids from a few principal directions where these prove them, from all dimensions elsewhere.

What of a point and of a centroid lies outside the directions has known lengths, and the distance between two vectors
is at least the difference of their lengths. So the distance along the directions, with these lengths as one more
dimension, is a lower bound of the distance. Where the bound of every other centroid is above the distance to the most
promising one, that one is the nearest. Nothing is kept from one iteration to the next.
"""

import torch
from torch import Tensor

from speechssl.units.assignment import Nearest

__all__ = ["Shortcut"]

_SLACK = 1e-5  # of the squared lengths; float32 loses less


class Shortcut(Nearest):
    """Finds what `Nearest` finds, with less work where there are many centroids of many dimensions.

    Args:
        centroids: (clusters, dim) float32, on the device that shall do the work.
        directions: (dim, directions) float32, orthonormal, along which the points differ most.
    """

    def __init__(self, centroids: Tensor, directions: Tensor) -> None:
        super().__init__(centroids)
        self.exact = Nearest(centroids)
        self.is_far, self.centre = True, centroids.mean(0)
        self.shifted = centroids - self.centre
        self.norms = self.shifted.square().sum(1)
        self.directions = directions
        self.bounds = Nearest(self._shortened(self.shifted, self.norms))
        self.tile = self.bounds.tile

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Assign points.

        Args:
            points: (points, dim) of any float type, on any device.

        Returns:
            (points,) int64 index of the nearest centroid, and (points,) float32 squared distance.
        """
        labels = torch.empty(len(points), dtype=torch.long, device=self.device)
        distances = torch.empty(len(points), device=self.device)
        unsure = torch.empty(len(points), dtype=torch.bool, device=self.device)
        for start in range(0, len(points), self.tile):
            tile = slice(start, start + self.tile)
            part = self.relative(points[tile])
            lengths = torch.linalg.vector_norm(part, dim=1).square_()
            short = self.bounds.relative(self._shortened(part, lengths))
            bounds = self.bounds.partial(short)
            best = bounds.argmin(1) if bounds.device.type != "cpu" else torch.from_numpy(bounds.numpy().argmin(1))
            products = torch.linalg.vecdot(part, self.shifted.index_select(0, best))
            distances[tile] = (lengths + self.norms[best]).sub_(products, alpha=2).clamp_(min=0)
            others = bounds.scatter_(1, best[:, None], torch.inf).amin(1) + short.square().sum(1)
            unsure[tile] = others <= distances[tile] + _SLACK * (lengths + self.norms.max())
            labels[tile] = best
        rows = unsure.nonzero()[:, 0]
        labels[rows], distances[rows] = self.exact(points[rows.to(points.device)])
        return labels, distances

    def _shortened(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Return (rows, directions + 1) of (rows, dim) vectors with (rows,) squared lengths."""
        short = torch.empty(len(vectors), self.directions.shape[1] + 1, device=vectors.device)
        torch.mm(vectors, self.directions, out=short[:, :-1])
        short[:, -1] = (lengths - short[:, :-1].square().sum(1)).clamp_(min=0).sqrt_()
        return short
