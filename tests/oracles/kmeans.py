"""k-means from its definition, in plain Python floats: every distance of every point, every mean by summing up."""

import math
from collections.abc import Sequence

Point = Sequence[float]


def oracle_nearest(point: Point, centroids: Sequence[Point]) -> tuple[int, float]:
    """Return the index of the nearest centroid and the squared distance to it."""
    distances = [math.fsum((x - y) ** 2 for x, y in zip(point, centroid, strict=True)) for centroid in centroids]
    return distances.index(min(distances)), min(distances)


def oracle_inertia(points: Sequence[Point], centroids: Sequence[Point]) -> float:
    """Return the sum of squared distances to the nearest centroid."""
    return math.fsum(oracle_nearest(point, centroids)[1] for point in points)


def oracle_lloyd(points: Sequence[Point], centroids: Sequence[Point], iterations: int) -> list[Point]:
    """Return the centroids after so many iterations; one without points stays where it is."""
    for _ in range(iterations):
        labels = [oracle_nearest(point, centroids)[0] for point in points]
        members = [[p for p, label in zip(points, labels, strict=True) if label == k] for k in range(len(centroids))]
        centroids = [
            [math.fsum(column) / len(mine) for column in zip(*mine, strict=True)] if mine else list(old)
            for mine, old in zip(members, centroids, strict=True)
        ]
    return list(centroids)
