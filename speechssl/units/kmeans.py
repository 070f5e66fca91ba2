"""k-means on torch, on whichever device the data are: k-means++ seeding, Lloyd iterations, empty clusters refilled.

Everything is held in memory. Centroids are saved as safetensors with the settings that made them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechssl.errors import LabelError

__all__ = ["KMeans", "fit_kmeans"]

_CHUNK = 16_384  # rows whose distances are held at once


@dataclass(frozen=True, kw_only=True)
class KMeans:
    """Fitted centroids.

    Features are standardised before distances are taken: `mean` and `scale` are zero and one unless asked otherwise.
    """

    centroids: Tensor  # (clusters, dim) float32, in standardised units
    mean: Tensor  # (dim,) float32
    scale: Tensor  # (dim,) float32, a factor
    inertia: float  # mean squared distance of the fitted frames to their centroid
    source: str  # what the features are: "mfcc", or checkpoint and layer

    @property
    def fingerprint(self) -> str:
        """Hash of the centroids and the standardisation; labels carry it."""
        digest = hashlib.blake2b(digest_size=8)
        for tensor in (self.centroids, self.mean, self.scale):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def predict(self, features: Tensor) -> Tensor:
        """Return the (frames,) int64 nearest centroid of (frames, dim) features."""
        return assign((features - self.mean) * self.scale, self.centroids)[0]

    def save(self, path: Path) -> None:
        """Write centroids and settings to a safetensors file, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        tensors = {name: getattr(self, name).contiguous() for name in ("centroids", "mean", "scale")}
        save_file(tensors, temporary, {"speechssl": json.dumps({"inertia": self.inertia, "source": self.source})})
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file written by `save`.

        Raises:
            LabelError: missing, or not a k-means of ours.
        """
        try:
            with safe_open(path, framework="pt") as file:
                settings = json.loads(file.metadata()["speechssl"])
                return cls(**{name: file.get_tensor(name) for name in ("centroids", "mean", "scale")}, **settings)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise LabelError(f"{path}: cannot read the k-means ({error}); run `speechssl cluster` again") from error


def fit_kmeans(
    features: Tensor,
    clusters: int,
    *,
    generator: torch.Generator,
    iterations: int = 100,
    tolerance: float = 1e-4,
    standardise: bool = False,
    source: str = "",
    progress: Callable[[Iterable[int], int], Iterable[int]] = lambda steps, _: steps,
) -> KMeans:
    """Fit centroids.

    Args:
        features: (frames, dim) float, on the device that shall do the work.
        clusters: number of centroids, at most the number of distinct frames.
        generator: source of the seeding, on the CPU.
        iterations: Lloyd iterations at most.
        tolerance: stop when the mean squared distance falls by less than this share.
        standardise: give every dimension variance one before taking distances.
        source: what the features are, kept with the centroids.
        progress: wraps the iterations, given their number.

    Raises:
        LabelError: fewer distinct frames than clusters, or features that are not finite.
    """
    features = features.float()
    if not bool(torch.isfinite(features).all()):
        raise LabelError(
            "the features to cluster hold NaN or infinite values; check the audio with `speechssl manifest`"
        )
    mean, scale = torch.zeros(features.shape[1]), torch.ones(features.shape[1])
    if standardise:
        mean, scale = features.mean(0), 1 / features.std(0).clamp(min=1e-6)
    points = (features - mean.to(features)) * scale.to(features)
    centroids = _seed(points, clusters, generator)
    previous = float("inf")
    for _ in progress(range(iterations), iterations):
        labels, distances = assign(points, centroids)
        inertia = float(distances.double().mean())
        centroids = _update(points, labels, distances, centroids)
        if previous - inertia <= tolerance * previous and previous < float("inf"):
            break
        previous = inertia
    inertia = float(assign(points, centroids)[1].double().mean())
    return KMeans(centroids=centroids.cpu(), mean=mean.cpu(), scale=scale.cpu(), inertia=inertia, source=source)


def assign(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid.

    Args:
        points: (frames, dim).
        centroids: (clusters, dim).

    Returns:
        (frames,) int64 index and (frames,) squared distance.
    """
    norms = centroids.square().sum(1)
    labels = torch.empty(len(points), dtype=torch.long, device=points.device)
    distances = torch.empty(len(points), dtype=points.dtype, device=points.device)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        partial = torch.addmm(norms, part, centroids.T, alpha=-2)  # squared distance, less the point's own norm
        nearest = partial.min(1)
        labels[start : start + _CHUNK] = nearest.indices
        distances[start : start + _CHUNK] = (nearest.values + part.square().sum(1)).clamp(min=0)
    return labels, distances


def _seed(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Choose centroids by k-means++ (Arthur and Vassilvitskii 2007), the best of a few candidates each time."""
    if len(points) < clusters:
        raise LabelError(f"{len(points)} frames cannot make {clusters} clusters; give more audio or fewer clusters")
    candidates = 2 + int(torch.tensor(float(clusters)).log())
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    closest = (points - points[chosen[0]]).square().sum(1)
    for _ in range(1, clusters):
        total = closest.double().cumsum(0)
        if float(total[-1]) <= 0:
            raise LabelError(
                f"only {len(chosen)} distinct frames for {clusters} clusters; give more audio or fewer clusters"
            )
        draws = torch.rand(candidates, generator=generator, dtype=torch.float64).to(points.device) * total[-1]
        picks = torch.searchsorted(total, draws).clamp(max=len(points) - 1)
        distances = torch.stack([(points - points[pick]).square().sum(1) for pick in picks])  # (candidates, frames)
        distances = torch.minimum(distances, closest)
        best = int(distances.sum(1).argmin())
        closest = distances[best]
        chosen.append(int(picks[best]))
    return points[chosen].clone()


def _update(points: Tensor, labels: Tensor, distances: Tensor, centroids: Tensor) -> Tensor:
    """Move each centroid to the mean of its points; an empty one goes to the point farthest from its own."""
    counts = torch.bincount(labels, minlength=len(centroids))
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=points.device).index_add_(
        0, labels, points.double()
    )
    moved = (sums / counts.clamp(min=1)[:, None]).to(points.dtype)
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        moved[empty] = points[distances.topk(len(empty)).indices]
    return moved
