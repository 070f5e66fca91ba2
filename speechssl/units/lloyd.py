"""Lloyd iterations over growing samples, then over all points.

A sample of m points places K centroids with an error that costs about K/m of the inertia. While an iteration gains
more than that, a larger sample would be wasted; once it gains less, the sample grows. So most iterations are cheap, and
only the last ones use all points. Nested samples are from Newling and Fleuret (arXiv:1602.02934); the criterion here is
one for all clusters together.

Until the last iteration, centroids overshoot the means of their points: they move 1.5 times as far. The sum of squares
is a parabola with its minimum at the mean, so that any step shorter than twice the distance lowers the inertia. They
also repeat a share of their last movement (Polyak 1964), the more the slower the gain of an iteration falls.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechssl import fingerprint
from speechssl.atomic import atomic
from speechssl.errors import LabelError
from speechssl.parallel import Ranks
from speechssl.units.assignment import ClusterSums, Nearest, Precision, sum_clusters
from speechssl.units.feeding import on_device
from speechssl.units.points import Points, TensorPoints, block_rows, check_finite

__all__ = ["Algorithm", "FitFile", "LloydConfig", "Problem", "Shortcut", "Step", "first_size", "run_lloyd"]

_ROUGH = 20  # number of iterations from which on products are exact, as rounding may keep the gain from falling
_SLACK = 1e-5  # tolerance relative to the squared lengths; larger than float32's rounding errors


class Shortcut(Nearest):
    """Gives the results of `Nearest` with less work for many centroids of many dimensions.

    Distances in a few directions are lower bounds; the exact distance is computed for the best candidate, and for all
    centroids only where the bounds do not rule out the others.

    Args:
        centroids: (clusters, dim) float32, on the device of the computation.
        directions: (dim, directions) float32, orthonormal, along which the points vary most.
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


Algorithm = Literal["nested", "lloyd"]


@dataclass(frozen=True, kw_only=True)
class LloydConfig:
    """When to grow the sample, and when to stop."""

    algorithm: Algorithm = "nested"  # lloyd: every iteration over all points
    max_iter: int = 100  # maximum number of iterations
    tol: float = 1e-4  # stop when an iteration over all points gains less than this share of the inertia
    first_points: int = 32  # points per cluster in the first sample
    grow: float = 0.5  # grow the sample when an iteration gains less than this times the error of the sample
    growth: int = 3  # factor by which the sample grows
    stride: float = 1.5  # step of an iteration relative to the distance to the means; 1 if lloyd
    momentum: float = 0.4  # maximum share of the last movement that a centroid repeats; 0 if lloyd
    rough: float = (
        1e-3  # products may be rounded while iterations gain more than this share of the inertia; not if lloyd
    )
    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True)
class Step:
    """State after one iteration, sufficient to resume a fit."""

    iteration: int  # number of the iteration from 1; 0 are the seeds
    size: int  # number of points of the next iteration
    centroids: Tensor  # (clusters, dim) float32, after the iteration
    inertia: float  # mean squared distance before the iteration
    gain: float  # lower bound of the decrease of the mean squared distance
    movement: Tensor | None = None  # (clusters, dim) float32, by how much the iteration moved the centroids; None for 0
    is_last: bool = False


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The points of all ranks, and the sample of them that is held in memory."""

    points: Points  # points of this rank
    num_points: int  # number of points of all ranks
    sample: Tensor  # (sample, dim) float32 in random order, the same on every rank; all points if they fit
    scaled: Callable[[Tensor], Tensor]  # converts a block to the units of the sample
    ranks: Ranks
    directions: Tensor | None = None  # (dim, directions) float32, directions with most of the variance, if few

    def blocks(self, size: int) -> Iterable[Tensor]:
        """Yield this rank's part of the first `size` points of the sample, or of all points."""
        if size > len(self.sample):
            if self.sample.device.type == "cpu":
                return map(self._checked, self.points.blocks())
            return map(self.scaled, on_device(self.points.blocks(), self.sample.device))
        first, last = (size * (self.ranks.rank + i) // self.ranks.world_size for i in (0, 1))
        return self.sample[first:last].split(block_rows(self.sample))

    def projected(self, directions: Tensor) -> "Problem":
        """Return the problem of the sample only, projected to (dim, directions) directions."""
        sample = self.sample @ directions
        return dataclasses.replace(
            self, points=TensorPoints(sample), num_points=len(sample), sample=sample, directions=None
        )

    def add_up(self, size: int, centroids: Tensor, precision: Precision, *, rough: bool = False) -> ClusterSums:
        """Assign `size` points to the nearest centroids and sum them by cluster over all ranks.

        Args:
            size: number of points.
            centroids: (clusters, dim) float32.
            precision: number type of the factors of the products.
            rough: whether a CPU may round the factors to bfloat16, where that is faster.

        Raises:
            LabelError: some of this rank's points are not finite.
        """
        own = sum_clusters(self.blocks(size), self._nearest(centroids, precision, rough))
        if size > len(self.sample) and not bool(own.inertia.isfinite()):  # on a GPU, blocks are not checked before
            for block in self.points.blocks():
                check_finite(block)
        total = self.ranks.sum
        return ClusterSums(sums=total(own.sums), counts=total(own.counts), inertia=total(own.inertia))

    def _nearest(self, centroids: Tensor, precision: Precision, rough: bool) -> Nearest:
        """Choose the method: the shortcut is faster on a CPU, with at least as many centroids as dimensions."""
        pays = centroids.device.type == "cpu" and precision == "float32" and len(centroids) >= centroids.shape[1]
        if self.directions is not None and pays:
            return Shortcut(centroids, self.directions)
        return Nearest(centroids, precision, rough=rough)

    def _checked(self, block: Tensor) -> Tensor:
        check_finite(block)
        return self.scaled(block.to(self.sample.device))


def run_lloyd(problem: Problem, start: Step, config: LloydConfig, report: Callable[[Step], None]) -> Step:
    """Iterate from `start` until convergence or `max_iter`.

    Args:
        problem: the points.
        start: seeds, or any step passed to `report`, to resume an interrupted fit exactly.
        config: when to grow the sample and when to stop.
        report: called with every step.

    Returns:
        The last step.
    """
    step = start
    while step.iteration < config.max_iter and not step.is_last:
        step = _iterate(problem, step, config)
        report(step)
    return step


def first_size(problem: Problem, clusters: int, config: LloydConfig) -> int:
    """Return the number of points of the first iteration."""
    if config.algorithm == "lloyd":
        return problem.num_points
    return min(problem.num_points, len(problem.sample), config.first_points * clusters)


def _iterate(problem: Problem, step: Step, config: LloydConfig) -> Step:
    is_nested = config.algorithm == "nested"
    rough = is_nested and step.iteration < _ROUGH and step.gain >= max(config.rough, 10 * config.tol) * step.inertia
    sums = problem.add_up(step.size, step.centroids, config.precision, rough=rough)
    moved = sums.means(otherwise=step.centroids)
    gain = float((sums.counts * (moved - step.centroids).double().square().sum(1)).sum()) / step.size
    inertia = float(sums.inertia) / step.size
    empty = (sums.counts == 0).nonzero()[:, 0]
    if len(empty):
        moved = refill(problem.sample[: step.size], moved, empty)
    size, is_last, movement = step.size, False, None
    if not len(empty):
        if size < problem.num_points:
            noise = inertia * len(moved) / size
            if gain < config.grow * noise:
                size = _grown(problem, size, config.growth)
        else:
            is_last = gain <= config.tol * inertia and not rough
    if is_nested and not len(empty) and not is_last:
        moved = torch.lerp(step.centroids, moved, config.stride)
        if step.movement is not None:
            share = min(config.momentum, 2 * config.momentum * gain / max(step.gain, 1e-30))
            moved = moved.add_(step.movement, alpha=share)
        movement = moved - step.centroids
    return Step(
        iteration=step.iteration + 1,
        size=size,
        centroids=moved,
        inertia=inertia,
        gain=gain,
        movement=movement,
        is_last=is_last,
    )


def _grown(problem: Problem, size: int, growth: int) -> int:
    if size < len(problem.sample):
        return min(growth * size, len(problem.sample))
    return problem.num_points


def refill(sample: Tensor, centroids: Tensor, empty: Tensor) -> Tensor:
    """Move each centroid without points to the point of the sample that is farthest from all other centroids.

    Args:
        sample: (points, dim) float32.
        centroids: (clusters, dim) float32.
        empty: (empty,) int64, indices of the centroids to move, in turn.

    Returns:
        (clusters, dim) float32.
    """
    centroids = centroids.clone()
    keep = torch.ones(len(centroids), dtype=torch.bool, device=centroids.device)
    keep[empty] = False
    distances = Nearest(centroids[keep])(sample)[1]
    for index in empty.tolist():
        centroids[index] = sample[distances.argmax()]
        distances = torch.minimum(distances, (sample - centroids[index]).square().sum(1))
    return centroids


_TENSORS = ("centroids", "movement")
_HASHED = 1000  # number of rows of the sample that are hashed, to identify the points


@dataclass(frozen=True, kw_only=True)
class FitFile:
    """File with the last step of a fit, and the identity of the fit that may resume from it."""

    path: Path
    identity: dict[str, Any]  # parameters, number of points, hash of some points

    @classmethod
    def of(cls, path: Path, parameters: dict[str, Any], num_points: int, sample: Tensor) -> "FitFile":
        """Describe a fit; `max_iter`, `tol` and `device` may change when it resumes."""
        free = {name: value for name, value in parameters.items() if name not in ("max_iter", "tol", "device")}
        hashed = fingerprint.of_parts([fingerprint.bytes_of(sample[:_HASHED])])
        return cls(path=path, identity=free | {"num_points": num_points, "points": hashed})

    def save(self, step: Step) -> None:
        """Write a step, atomically."""
        about = {name: value for name, value in vars(step).items() if name not in _TENSORS} | {
            "identity": self.identity
        }
        tensors = {name: getattr(step, name) for name in _TENSORS if getattr(step, name) is not None}
        with atomic(self.path) as temporary:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                {"speechssl": json.dumps(about)},
            )

    def load(self, sample: Tensor) -> Step | None:
        """Return the step on the device of `sample`, or None if there is no file.

        Raises:
            LabelError: the file is broken, or belongs to other points or parameters.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads(file.metadata()["speechssl"])
                identity = about.pop("identity")
                tensors = {name: file.get_tensor(name).to(sample.device) for name in file.keys()}  # noqa: SIM118
                step = Step(**tensors, **about)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelError(f"{self.path}: cannot read the unfinished k-means ({error}); remove the file") from error
        differ = [name for name in self.identity if identity.get(name) != self.identity[name]]
        if differ:
            changes = ", ".join(f"{name} was {identity.get(name)!r}, is {self.identity[name]!r}" for name in differ[:3])
            raise LabelError(f"{self.path}: holds another unfinished k-means ({changes}); remove it or name another")
        return step
