"""How soon our k-means reaches the inertia of others, and what features on disk cost. Prints one table.

    kmeans.py features OUT --manifest POOL.tsv ... [--model FOLDER]   MFCC, or all layers of a model, side by side
    kmeans.py speed FEATURES --clusters 100 500 2000                  against the peers, in turn, in this process
    kmeans.py disk FEATURES --gib 20                                  from files, against memory

Inertia is over all points, by one function for everybody. See README.md beside it.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.data.audio import AudioConfig, read_audio
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError
from speechssl.saved import SavedModel
from speechssl.units.assignment import Nearest, sum_clusters
from speechssl.units.features import MFCC_WINDOW, mfcc
from speechssl.units.kmeans import KMeans
from speechssl.units.lloyd import Step
from speechssl.units.points import Points, TensorPoints
from speechssl.units.shards import ShardPoints, write_shards


@dataclass
class Fit:
    """What one run of one contender gave."""

    wall: float  # seconds
    cpu: float  # seconds of all threads; says more than wall where others use the machine
    centroids: np.ndarray
    trace: list[tuple[float, float, Tensor]] = field(default_factory=list)  # (wall, cpu, centroids) as it went on


Contender = Callable[[np.ndarray, int, int], Fit]


def timed(work: Callable[[], np.ndarray]) -> Fit:
    """Run, with both clocks."""
    wall, cpu = time.perf_counter(), time.process_time()
    centroids = work()
    return Fit(time.perf_counter() - wall, time.process_time() - cpu, centroids)


def ours(features: np.ndarray, clusters: int, seed: int) -> Fit:
    """Fit ours, and keep the centroids of every iteration in all dimensions."""
    trace: list[tuple[float, float, Tensor]] = []
    wall, cpu = time.perf_counter(), time.process_time()

    def keep(step: Step) -> None:
        if step.centroids.shape[1] == features.shape[1]:
            trace.append((time.perf_counter() - wall, time.process_time() - cpu, step.centroids))

    fit = timed(lambda: KMeans(n_clusters=clusters, seed=seed).fit(features, report=keep).cluster_centers_.numpy())
    fit.trace = trace
    return fit


def with_faiss(features: np.ndarray, clusters: int, seed: int) -> Fit:
    """Run faiss for 20 iterations, at its other defaults."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    kmeans = faiss.Kmeans(features.shape[1], clusters, niter=20, seed=seed + 1)
    return timed(lambda: (kmeans.train(features), kmeans.centroids)[1])


def with_sklearn(features: np.ndarray, clusters: int, seed: int) -> Fit:
    """Run the reference recipe of HuBERT."""
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(
        n_clusters=clusters,
        init="k-means++",
        batch_size=10_000,
        max_iter=100,
        n_init=20,
        max_no_improvement=100,
        reassignment_ratio=0.0,
        tol=0.0,
        random_state=seed,
    )
    return timed(lambda: kmeans.fit(features).cluster_centers_)


def with_superkmeans(features: np.ndarray, clusters: int, seed: int) -> Fit:
    """Run superkmeans at its defaults."""
    from superkmeans import SuperKMeans

    kmeans = SuperKMeans(clusters, features.shape[1], n_threads=torch.get_num_threads(), seed=seed)
    return timed(lambda: np.asarray(kmeans.train(features)).reshape(clusters, -1))


def with_fastkmeans(features: np.ndarray, clusters: int, seed: int) -> Fit:
    """Run fastkmeans for 20 iterations on as many points a cluster as faiss takes."""
    from fastkmeans import FastKMeans

    kmeans = FastKMeans(features.shape[1], clusters, niter=20, gpu=False, seed=seed, max_points_per_centroid=256)
    return timed(lambda: (kmeans.train(features), kmeans.centroids)[1])


CONTENDERS: dict[str, Contender] = {
    "speechssl": ours,
    "faiss": with_faiss,
    "superkmeans": with_superkmeans,
    "fastkmeans": with_fastkmeans,
    "sklearn": with_sklearn,
}


def mean_inertia(features: np.ndarray, centroids: np.ndarray | Tensor) -> float:
    """Return the mean squared distance of all features to their nearest centroid."""
    points = TensorPoints(torch.from_numpy(features))
    nearest = Nearest(torch.as_tensor(centroids, dtype=torch.float32))
    return float(sum_clusters(points.blocks(), nearest).inertia) / len(points)


def first_to_reach(fit: Fit, features: np.ndarray, target: float) -> tuple[float, float] | None:
    """Return wall and processor time at which the centroids of a trace were as good as `target`.

    The trace gets better as it goes on, so that few of its steps have to be looked at.
    """
    first, last = 0, len(fit.trace)
    while first < last:
        middle = (first + last) // 2
        if mean_inertia(features, fit.trace[middle][2]) <= target:
            last = middle
        else:
            first = middle + 1
    return fit.trace[first][:2] if first < len(fit.trace) else None


def product_bound(features: np.ndarray, clusters: int) -> tuple[float, float]:
    """Return seconds of the matrix product of one assignment of all points, and of the whole assignment."""
    points = torch.from_numpy(features)
    nearest = Nearest(points[:clusters].clone())
    out = torch.empty(nearest.tile, clusters)

    def product() -> None:
        for part in points.split(nearest.tile):
            torch.mm(part, nearest.shifted.T, out=out[: len(part)])

    def assignment() -> None:
        for part in points.split(nearest.tile):
            nearest(part)

    times: dict[str, list[float]] = {"product": [], "assignment": []}
    for _ in range(3):
        for name, work in (("product", product), ("assignment", assignment)):
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    return statistics.median(times["product"]), statistics.median(times["assignment"])


def speed(options: argparse.Namespace) -> None:
    """Print the table of peers."""
    features = in_memory(options.features, options.points)
    print(f"{len(features):,} x {features.shape[1]} of {options.features.name}, {torch.get_num_threads()} threads")
    print("| clusters | system | inertia | wall s | CPU s | until faiss's inertia: CPU s | of faiss's CPU time |")
    print("|---|---|---|---|---|---|---|")
    for clusters in options.clusters:
        runs: dict[str, list[Fit]] = {name: [] for name in options.systems}
        for seed in range(options.repeats):
            for name in options.systems:  # in turn, so that what else the machine does meets all alike
                runs[name].append(CONTENDERS[name](features, clusters, seed))
        print_rows(features, clusters, runs)
        product, assignment = product_bound(features, clusters)
        print(
            f"| {clusters} | assignment of all points | | | {assignment:.2f} | | product alone {product:.2f} s, "
            f"{product / assignment:.0%} |"
        )


def print_rows(features: np.ndarray, clusters: int, runs: dict[str, list[Fit]]) -> None:
    """Print medians over the repeats; times to faiss's inertia are repeat against repeat."""
    inertias = {name: [mean_inertia(features, fit.centroids) for fit in fits] for name, fits in runs.items()}
    for name, fits in runs.items():
        until, share = "", ""
        if name == "speechssl" and "faiss" in runs:
            found = [first_to_reach(fit, features, target) for fit, target in zip(fits, inertias["faiss"], strict=True)]
            reached = [at[1] for at in found if at is not None]
            until = f"{statistics.median(reached):.2f}" if len(reached) == len(fits) else f"{len(reached)} runs did"
            ratios = [at[1] / other.cpu for at, other in zip(found, runs["faiss"], strict=True) if at is not None]
            share = f"{statistics.median(ratios):.2f}" if len(reached) == len(fits) else ""
        elif "faiss" in runs:
            share = f"{statistics.median(a.cpu / b.cpu for a, b in zip(fits, runs['faiss'], strict=True)):.2f} in all"
        wall, cpu = (statistics.median(getattr(fit, clock) for fit in fits) for clock in ("wall", "cpu"))
        inertia = statistics.median(inertias[name])
        print(f"| {clusters} | {name} | {inertia:.5g} | {wall:.2f} | {cpu:.2f} | {until} | {share} |", flush=True)


def disk(options: argparse.Namespace) -> None:
    """Print what fitting features of many GiB in files costs a point, against memory."""
    small = in_memory(options.features, options.points)
    folder = options.features.with_name(f"{options.features.name}-{options.gib}-gib")
    copies = max(1, round(options.gib * 2**30 / (small.nbytes / 2)))
    if not folder.exists():
        write_shards(folder, (small for _ in range(copies)))
    clusters = options.clusters[0]

    def iterate(points: Points) -> float:
        cpu = time.process_time()
        KMeans(n_clusters=clusters, algorithm="lloyd", max_iter=options.iterations, tol=0.0).fit(points)
        return (time.process_time() - cpu) / len(points)

    memory = statistics.median(iterate(TensorPoints(torch.from_numpy(small).half())) for _ in range(3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = iterate(ShardPoints(folder))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
    print("| features | clusters | CPU us a point, memory | files | ratio | most resident memory more |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {size:.1f} GiB float16 | {clusters} | {memory * 1e6:.2f} | {files * 1e6:.2f} | {files / memory:.2f} | "
        f"{more:.2f} GiB |"
    )


def make_features(options: argparse.Namespace) -> None:
    """Write MFCC or layers of a model of utterances drawn from manifests."""
    written = write_shards(options.out, extract(options), dtype="float32")
    about = {"manifests": [path.name for path in options.manifest], "model": str(options.model), "frames": written}
    print(json.dumps(about))


@torch.no_grad()
def extract(options: argparse.Namespace) -> Iterator[Tensor]:
    """Yield the features of one utterance after the other, in random order, until there are enough."""
    rows = [(each.audio_path(row), row) for each in map(read_manifest, options.manifest) for row in each.utterances]
    encoder = SavedModel.read(options.model).encoder() if options.model else None
    window, left = (encoder.config.window if encoder else MFCC_WINDOW), options.points
    for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist():
        try:
            waveform = read_audio(rows[index][0], AudioConfig(resample=True))
        except AudioError:
            continue
        if left and len(waveform) >= window:
            found = mfcc(waveform)
            if encoder is not None:
                found = torch.cat(encoder(waveform[None], torch.tensor([len(waveform)])).layers, 2)[0]
            yield found[:left]
            left -= len(found[:left])


def in_memory(folder: Path, num_points: int) -> np.ndarray:
    """Read the first features of a folder."""
    return torch.cat([block.clone() for block in ShardPoints(folder).blocks()])[:num_points].float().numpy()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    stages = parser.add_subparsers(required=True)
    for name, run in (("features", make_features), ("speed", speed), ("disk", disk)):
        stage = stages.add_parser(name)
        stage.set_defaults(run=run)
        stage.add_argument("out" if run is make_features else "features", type=Path)
        stage.add_argument("--points", type=int, default=1_000_000)
        stage.add_argument("--manifest", type=Path, nargs="+", default=[])
        stage.add_argument("--model", type=Path)
        stage.add_argument("--clusters", type=int, nargs="+", default=[100])
        stage.add_argument("--repeats", type=int, default=3)
        stage.add_argument("--systems", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
        stage.add_argument("--gib", type=float, default=20.0)
        stage.add_argument("--iterations", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.run(options)


if __name__ == "__main__":
    main()
