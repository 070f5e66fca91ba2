"""Unit quality from (phone, unit) pairs, one a frame, and k-means distances point by point."""

import math
from collections import Counter
from collections.abc import Sequence

Pairs = Sequence[tuple[str, int]]


def oracle_phone_purity(pairs: Pairs) -> float:
    """Return the accuracy of naming each unit after its most frequent phone."""
    right = 0
    for unit in {unit for _, unit in pairs}:
        right += Counter(phone for phone, other in pairs if other == unit).most_common(1)[0][1]
    return right / len(pairs)


def oracle_cluster_purity(pairs: Pairs) -> float:
    """Return the accuracy of guessing each phone's most frequent unit."""
    right = 0
    for phone in {phone for phone, _ in pairs}:
        right += Counter(unit for other, unit in pairs if other == phone).most_common(1)[0][1]
    return right / len(pairs)


def oracle_pnmi(pairs: Pairs) -> float:
    """Return H(phone) - H(phone | unit), over H(phone)."""
    conditional = 0.0
    for unit in {unit for _, unit in pairs}:
        phones = [phone for phone, other in pairs if other == unit]
        conditional += len(phones) / len(pairs) * _entropy(phones)
    entropy = _entropy([phone for phone, _ in pairs])
    return (entropy - conditional) / entropy


def oracle_nearest(point: Sequence[float], centroids: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Return the index of the nearest centroid and the squared distance to it."""
    distances = [math.fsum((x - y) ** 2 for x, y in zip(point, centroid, strict=True)) for centroid in centroids]
    return distances.index(min(distances)), min(distances)


def _entropy(values: Sequence[str]) -> float:
    shares = [count / len(values) for count in Counter(values).values()]
    return -math.fsum(share * math.log(share) for share in shares)
