"""How far two sets of speech are apart: units and MFCC of their frames, against two halves of one set.

Units are k-means clusters of the MFCC of both sets; their histograms are compared by the Jensen-Shannon divergence.
The Fréchet distance compares means and covariances. Both are biased upwards in small samples, so every comparison takes
as many frames as the halves of the first set have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.units.kmeans import KMeans

__all__ = ["Mismatch", "frechet_distance", "jensen_shannon", "mismatch", "told"]

_CLUSTERS, _DRAWS = 50, 5
_PER_CLUSTER = 10  # frames, at least
_FAR = 5.0  # times the distance between halves of one set

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Distances, each the mean over several draws."""

    divergence: float  # bits, 0 to 1, of the unit histograms of a half of the first set and a part of the other
    divergence_within: float  # the same between the halves of the first set
    frechet: float  # squared Fréchet distance of MFCC, each scaled to variance 1 over both sets
    frechet_within: float

    @property
    def is_far(self) -> bool:
        """Whether the sets are much further apart than halves of the first one are, by both distances."""
        return self.divergence > _FAR * self.divergence_within and self.frechet > _FAR * self.frechet_within


def told(found: Mismatch | None) -> str:
    """Return what is found of labelled speech and pool as a sentence or two."""
    if found is None:
        return "Mismatch of pool and labelled speech: not measured, too few utterances."
    line = (
        f"Mismatch of pool and labelled speech: unit histograms {found.divergence:.3f} bits of Jensen-Shannon "
        f"divergence ({found.divergence_within:.3f} between halves of the labelled set), Fréchet distance of MFCC "
        f"{found.frechet:.2f} ({found.frechet_within:.2f})."
    )
    if not found.is_far:
        return line
    return f"{line} They are far apart: a recogniser of these labels may know little of this pool."


def jensen_shannon(counts: Floats, others: Floats) -> float:
    """Return the Jensen-Shannon divergence of two histograms, (bins,) each, in bits: 0 if they agree, 1 at most."""
    shares = [each / each.sum() for each in (counts, others)]
    middle = sum(shares) / 2
    parts = [float(np.sum(share[share > 0] * np.log2(share[share > 0] / middle[share > 0]))) for share in shares]
    return sum(parts) / 2


def frechet_distance(features: Floats, others: Floats) -> float:
    """Return the squared Fréchet distance of two normal distributions with the means and covariances of the rows.

    Args:
        features: (frames, dim).
        others: (frames of the other set, dim).
    """
    first, second = np.cov(features.T), np.cov(others.T)
    gap = features.mean(0) - others.mean(0)
    roots = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None))  # of a product of two covariances
    return max(0.0, float(gap @ gap + np.trace(first) + np.trace(second) - 2 * roots.sum()))


def mismatch(features: Sequence[Tensor], others: Sequence[Tensor], *, seed: int) -> Mismatch | None:
    """Compare two sets of utterances; None if there are too few to halve.

    Args:
        features: (frames, dim) float32 of each utterance of the first set.
        others: the same of the other set.
        seed: seed of the clusters and of the draws.
    """
    everything = torch.cat([*features, *others]) if features and others else torch.zeros(0, 1)
    clusters = min(_CLUSTERS, len(everything) // _PER_CLUSTER)
    if len(features) < 4 or len(others) < 2 or clusters < 2:
        return None
    scaled = (everything - everything.mean(0)) / everything.std(0).clamp(min=1e-6)
    units = KMeans(n_clusters=clusters, seed=seed).fit(scaled).predict(scaled).numpy()
    points = scaled.double().numpy()
    ends = np.cumsum([len(each) for each in (*features, *others)])
    rows = np.split(np.arange(len(points)), ends[:-1])
    own, foreign = rows[: len(features)], rows[len(features) :]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(_DRAWS):
        order = generator.permutation(len(own)).tolist()
        half, rest = (
            np.concatenate([own[index] for index in part]) for part in (order[: len(own) // 2], order[len(own) // 2 :])
        )
        other = np.concatenate([foreign[index] for index in generator.permutation(len(foreign)).tolist()])
        size = min(len(half), len(rest), len(other))
        parts = [part[:size] for part in (half, rest, other)]
        histograms = [np.bincount(units[part], minlength=clusters).astype(np.float64) for part in parts]
        found.append(
            (
                jensen_shannon(histograms[0], histograms[2]),
                jensen_shannon(histograms[0], histograms[1]),
                frechet_distance(points[parts[0]], points[parts[2]]),
                frechet_distance(points[parts[0]], points[parts[1]]),
            )
        )
    means = np.mean(found, axis=0).tolist()
    return Mismatch(divergence=means[0], divergence_within=means[1], frechet=means[2], frechet_within=means[3])
