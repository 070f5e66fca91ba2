"""k-means with scikit-learn's interface, on torch: on CPU or GPU, with data in memory, from a stream or from files.

`fit` combines the other modules: a sample of the points (`points`, `feature_shards`), seeds (`seeding`) and Lloyd
iterations (`lloyd`). The saved file records what the k-means was fitted on. Labels refer to a k-means by its
fingerprint.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechssl import fingerprint
from speechssl.atomic import atomic
from speechssl.data.batching import seeded_generator
from speechssl.errors import LabelError
from speechssl.parallel import Ranks
from speechssl.units.assignment import Nearest, Precision
from speechssl.units.lloyd import Algorithm, FitFile, LloydConfig, Problem, Step, first_size, run_lloyd
from speechssl.units.points import Batches, Points, as_points, check_finite
from speechssl.units.projection import lifted, principal_directions
from speechssl.units.seeding import Seeding, Standard, choose_seeding, choose_seeds, draw_sample, measure_standard

__all__ = ["VERSION", "KMeans", "Provenance"]

VERSION = 1  # version of the file format
_WIDE = 128  # number of dimensions from which the first iterations use a projection to fewer dimensions

Features = Tensor | np.ndarray | Batches | Points


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a k-means was fitted on, as stated by the caller of `fit`."""

    source: str = ""  # source of the features: "mfcc", or checkpoint and layer
    settings: dict[str, Any] = field(default_factory=dict)  # settings of the front end, or checkpoint hash and layer
    frames_per_second: float | None = None
    audio: dict[str, Any] = field(default_factory=dict)  # the audio sample: utterances, hours, hash of their ids


@dataclass(kw_only=True)
class KMeans:
    """k-means estimator: the fields are its parameters; fitted attributes end in an underscore.

    With `standardise`, features are standardised before distances are computed; `cluster_centers_`, `inertia_`,
    `transform` and `score` are then in standardised units.
    """

    n_clusters: int = 8
    init: Seeding | Literal["auto"] = "auto"  # method of the seeds; "auto" chooses by the number of clusters
    algorithm: Algorithm = "nested"
    max_iter: int = 100
    tol: float = 1e-4  # stop when an iteration over all points gains less than this share of the inertia
    standardise: bool = False  # scale every dimension to variance one before computing distances
    precision: Precision = "float32"
    seed: int = 0
    sample_bytes: int = 2**28  # maximum size of the sample held in memory during a fit, in bytes
    sample_points: int = 512  # maximum size of that sample, in points per cluster
    device: str | None = None  # device of the computation; None for the device of the features

    cluster_centers_: Tensor = field(init=False, repr=False)  # (clusters, dim) float32
    mean_: Tensor = field(init=False, repr=False)  # (dim,) float32, zero unless standardised
    scale_: Tensor = field(init=False, repr=False)  # (dim,) float32, factor per dimension
    counts_: Tensor = field(init=False, repr=False)  # (clusters,) float64, points that `partial_fit` has seen
    inertia_: float = field(init=False, repr=False)  # sum of squared distances to the nearest centroid
    num_points_: int = field(init=False, repr=False)
    n_iter_: int = field(init=False, repr=False)
    seeding_: Seeding = field(init=False, repr=False)  # method of the seeds, as chosen by `init="auto"`
    provenance_: Provenance = field(init=False, repr=False)

    def fit(
        self,
        features: Features,
        y: None = None,
        *,
        ranks: Ranks | None = None,
        provenance: Provenance | None = None,
        unfinished: Path | None = None,
        report: Callable[[Step], None] = lambda _: None,
    ) -> Self:
        """Fit centroids.

        Args:
            features: (points, dim) float tensor or array; a function that opens a stream of such batches; or `Points`.
            y: ignored, for scikit-learn.
            ranks: the processes that share the work, each with its own points; the result is the same on all.
            provenance: description of the features, saved with the centroids.
            unfinished: file that holds the last iteration while the fit runs, so that an interrupted fit can resume;
                removed at the end.
            report: called after every iteration.

        Raises:
            LabelError: fewer distinct points than clusters, or features that are not finite.
        """
        points = as_points(features)
        self.seeding_ = choose_seeding(self.n_clusters) if self.init == "auto" else self.init
        ranks = ranks or Ranks(rank=0, world_size=1, device=torch.device("cpu"))
        problem, standard = self._problem(points, ranks)
        file = FitFile.of(unfinished, self.get_params(), problem.num_points, problem.sample) if unfinished else None

        def keep(step: Step) -> None:
            if file is not None and ranks.is_first:
                file.save(step)
            report(step)

        start = file.load(problem.sample) if file is not None else None
        ranks.wait()  # all ranks have to read the file before the first one overwrites it
        last = self._search(problem, start, keep)
        sums = problem.add_up(problem.num_points, last.centroids, self.precision)
        self._set(last.centroids, standard, inertia=float(sums.inertia), num_points=problem.num_points)
        self.n_iter_, self.counts_ = last.iteration, sums.counts.cpu()
        self.provenance_ = provenance or Provenance()
        if unfinished is not None and ranks.is_first:
            unfinished.unlink(missing_ok=True)
        return self

    def partial_fit(self, features: Tensor | np.ndarray, y: None = None) -> Self:
        """Move the centroids to the running mean of their points; the first batch provides the seeds.

        Raises:
            LabelError: the first batch has fewer distinct points than clusters, a later batch has another dimension,
                or features are not finite.
        """
        if not hasattr(self, "cluster_centers_"):
            self._start_online(features)
        batch = self._checked(features)
        labels, distances = self._nearest()(batch)
        labels = labels.cpu()
        sums = torch.zeros(self.cluster_centers_.shape, dtype=torch.float64)
        sums.index_add_(0, labels, batch.cpu().double())
        sums += self.cluster_centers_.double() * self.counts_[:, None]
        self.counts_ += torch.bincount(labels, minlength=self.n_clusters)
        seen = self.counts_ > 0
        self.cluster_centers_[seen] = (sums[seen] / self.counts_[seen, None]).float()
        self.inertia_, self.num_points_ = float(distances.double().sum()), len(batch)
        self.n_iter_ += 1
        return self

    def predict(self, features: Tensor | np.ndarray) -> Tensor:
        """Return the (points,) int64 nearest centroids of (points, dim) features."""
        return self._nearest()(self._checked(features))[0]

    def fit_predict(self, features: Tensor | np.ndarray, y: None = None) -> Tensor:
        """Fit, and return the (points,) int64 nearest centroids of the same features."""
        return self.fit(features).predict(features)

    def transform(self, features: Tensor | np.ndarray) -> Tensor:
        """Return the (points, clusters) float32 distances of (points, dim) features to all centroids."""
        nearest = self._nearest()
        points = self._checked(features)
        distances = torch.empty(len(points), self.n_clusters, device=nearest.device)
        for start in range(0, len(points), nearest.tile):
            part = nearest.relative(points[start : start + nearest.tile])
            squared = nearest.partial(part) + part.square().sum(1, keepdim=True)
            distances[start : start + nearest.tile] = squared.clamp(min=0).sqrt()
        return distances

    def fit_transform(self, features: Tensor | np.ndarray, y: None = None) -> Tensor:
        """Fit, and return the (points, clusters) float32 distances of the same features."""
        return self.fit(features).transform(features)

    def score(self, features: Tensor | np.ndarray, y: None = None) -> float:
        """Return minus the sum of squared distances of (points, dim) features to their nearest centroid."""
        return -float(self._nearest()(self._checked(features))[1].double().sum())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, for scikit-learn."""
        return {
            parameter.name: getattr(self, parameter.name) for parameter in dataclasses.fields(self) if parameter.init
        }

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters, for scikit-learn.

        Raises:
            ValueError: there is no such parameter.
        """
        for name, value in parameters.items():
            if name not in self.get_params():
                raise ValueError(f"KMeans has no parameter {name}; it has {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self

    @property
    def inertia(self) -> float:
        """Mean squared distance of the fitted points to their centroid."""
        return self.inertia_ / self.num_points_

    @property
    def fingerprint(self) -> str:
        """Hash of the centroids and the standardisation; labels carry it."""
        return fingerprint.of_parts(map(fingerprint.bytes_of, (self.cluster_centers_, self.mean_, self.scale_)))

    def save(self, path: Path | str) -> None:
        """Write centroids, parameters and provenance to a safetensors file, atomically."""
        found = {name: getattr(self, f"{name}_") for name in ("inertia", "num_points", "n_iter", "seeding")}
        about = {"version": VERSION, "parameters": self.get_params(), "found": found}
        about["provenance"] = dataclasses.asdict(self.provenance_)
        tensors = {name: getattr(self, f"{name}_").cpu().contiguous() for name in _TENSORS}
        with atomic(Path(path)) as temporary:
            save_file(tensors, temporary, {"speechssl": json.dumps(about)})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file written by `save`.

        Raises:
            LabelError: the file is missing, no k-means, or of another version.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["speechssl"])
                if about.get("version") != VERSION:
                    raise LabelError(
                        f"{path}: a k-means file of version {about.get('version', 0)}, expected version {VERSION}; "
                        "run `speechssl cluster` again, or use the speechssl that wrote it"
                    )
                kmeans = cls(**about["parameters"])
                for name in _TENSORS:
                    setattr(kmeans, f"{name}_", file.get_tensor(name))
                found = {"seeding": kmeans.init} | about["found"]  # earlier versions did not choose the method
                for name in ("inertia", "num_points", "n_iter", "seeding"):
                    setattr(kmeans, f"{name}_", found[name])
                kmeans.provenance_ = Provenance(**about["provenance"])
                return kmeans
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelError(f"{path}: cannot read the k-means ({error}); run `speechssl cluster` again") from error

    def _problem(self, points: Points, ranks: Ranks) -> tuple[Problem, Standard]:
        """Draw the sample, and standardise it if configured."""
        sample, num_points = draw_sample(
            points,
            at_most=max(
                self.n_clusters, min(self.sample_bytes // (4 * points.dim), self.sample_points * self.n_clusters)
            ),
            generator=seeded_generator(self.seed, "kmeans sample"),
            ranks=ranks,
        )
        if num_points < self.n_clusters:
            raise LabelError(
                f"{num_points} frames cannot make {self.n_clusters} clusters; give more audio or fewer clusters"
            )
        check_finite(sample)
        sample = sample.to(self.device) if self.device else sample
        standard = Standard.none(points.dim)
        if self.standardise:
            standard = measure_standard(points, ranks)
        standard = standard.to(sample.device)
        sample = standard.apply(sample)
        is_wide = self.algorithm == "nested" and points.dim >= _WIDE
        problem = Problem(
            points=points,
            num_points=num_points,
            sample=sample,
            scaled=standard.apply,
            ranks=ranks,
            directions=principal_directions(sample, ranks) if is_wide else None,
        )
        return problem, standard

    def _search(self, problem: Problem, start: Step | None, report: Callable[[Step], None]) -> Step:
        """Iterate from `start` or from seeds, first in the principal directions of the sample if that is faster."""
        config, sample, directions = self._lloyd(), problem.sample, problem.directions
        if directions is not None and (start is None or start.centroids.shape[1] == directions.shape[1]):
            narrow = problem.projected(directions)
            enough = config.grow * self.n_clusters / len(sample)  # a smaller gain would overfit the sample
            settled = dataclasses.replace(config, tol=max(config.tol, enough / 2))
            last = run_lloyd(narrow, start or self._seeds(narrow, sample), settled, report)
            centroids = lifted(sample, narrow.sample, last.centroids)
            start = Step(
                iteration=last.iteration + 1,
                size=len(sample),
                centroids=centroids,
                inertia=last.inertia,
                gain=last.gain,
            )
            report(start)
        return run_lloyd(problem, start or self._seeds(problem, sample), config, report)

    def _seeds(self, problem: Problem, wide: Tensor) -> Step:
        """Choose seeds among the sampled points of the first iteration.

        Args:
            problem: the problem, possibly projected to fewer dimensions, where rounding may make equal points differ.
            wide: (sample, dim) float32, the sample in all dimensions.

        Raises:
            LabelError: fewer distinct points than clusters.
        """
        size = first_size(problem, self.n_clusters, self._lloyd())
        generator = seeded_generator(self.seed, "kmeans seeding")
        chosen = choose_seeds(problem.sample[:size], self.n_clusters, self.seeding_, generator)
        if len(wide[chosen.to(wide.device)].unique(dim=0)) < self.n_clusters:
            chosen = choose_seeds(wide[:size], self.n_clusters, self.seeding_, generator)
        seeds = problem.sample[chosen.to(problem.sample.device)]
        return Step(iteration=0, size=size, centroids=seeds, inertia=0.0, gain=0.0)

    def _lloyd(self) -> LloydConfig:
        return LloydConfig(algorithm=self.algorithm, max_iter=self.max_iter, tol=self.tol, precision=self.precision)

    def _start_online(self, features: Tensor | np.ndarray) -> None:
        """Choose the seeds of `partial_fit` from its first batch."""
        if self.standardise:
            raise ValueError("partial_fit cannot standardise: the variance of future features is not known")
        once = dataclasses.replace(self, max_iter=0)
        once.fit(features)
        self._set(once.cluster_centers_, Standard.none(once.cluster_centers_.shape[1]), inertia=0.0, num_points=0)
        self.counts_ = torch.zeros(self.n_clusters, dtype=torch.float64)
        self.n_iter_, self.seeding_, self.provenance_ = 0, once.seeding_, Provenance()

    def _set(self, centroids: Tensor, standard: Standard, *, inertia: float, num_points: int) -> None:
        self.cluster_centers_, self.mean_, self.scale_ = centroids.cpu(), standard.mean.cpu(), standard.scale.cpu()
        self.inertia_, self.num_points_ = inertia, num_points

    def _nearest(self) -> Nearest:
        if not hasattr(self, "cluster_centers_"):
            raise LabelError("this k-means is not fitted yet; call fit first, or load one that is")
        return Nearest(self.cluster_centers_.to(self.device or "cpu"), self.precision)

    def _checked(self, features: Tensor | np.ndarray) -> Tensor:
        """Check that features match the k-means, and standardise them.

        Raises:
            LabelError: the features have another dimension or are not finite.
        """
        if not isinstance(features, np.ndarray | Tensor):
            raise LabelError(f"expected a tensor or an array (points, dim), found {type(features).__name__}")
        features = torch.from_numpy(features) if isinstance(features, np.ndarray) else features
        if features.ndim != 2 or features.shape[1] != self.cluster_centers_.shape[1]:
            raise LabelError(
                f"features have shape {tuple(features.shape)}, expected {self.cluster_centers_.shape[1]} dimensions "
                "as the k-means was fitted on; use the front end that it names"
            )
        check_finite(features)
        features = features.to(self.device or "cpu")
        return Standard(mean=self.mean_, scale=self.scale_).to(features.device).apply(features)


_TENSORS = ("cluster_centers", "mean", "scale", "counts")
