"""Unit quality from (phone, unit) pairs, one a frame, k-means distances point by point, and the rank of features."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np

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


def oracle_coverage(units: Sequence[int], clusters: int) -> float:
    """Return the share of the units that somebody uses."""
    return sum(unit in units for unit in range(clusters)) / clusters


def oracle_perplexity(units: Sequence[int]) -> float:
    """Return the inverse of the geometric mean of the probability of each frame's unit."""
    product = math.prod(units.count(unit) / len(units) for unit in units)
    return product ** (-1 / len(units))


def oracle_mean_run(rows: Sequence[Sequence[int]]) -> float:
    """Return the mean number of frames in a run of equal units; a run ends with its row."""
    lengths = [len(list(run)) for row in rows for _, run in groupby(row)]
    return sum(lengths) / len(lengths)


def oracle_effective_rank(features: np.ndarray) -> float:
    """Return exp of the entropy of the singular values of (frames, dim) features, less their mean."""
    singular = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = [value / sum(singular) for value in singular]
    return math.prod(share**-share for share in shares if share > 0)


def oracle_nearest(point: Sequence[float], centroids: Sequence[Sequence[float]]) -> tuple[int, float]:
    """Return the index of the nearest centroid and the squared distance to it."""
    distances = [math.fsum((x - y) ** 2 for x, y in zip(point, centroid, strict=True)) for centroid in centroids]
    return distances.index(min(distances)), min(distances)


def _entropy(values: Sequence[str]) -> float:
    shares = [count / len(values) for count in Counter(values).values()]
    return -math.fsum(share * math.log(share) for share in shares)
