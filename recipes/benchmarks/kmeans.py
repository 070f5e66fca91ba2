"""How soon our k-means reaches the inertia of others, and what files and labelling cost. Prints one table.

    kmeans.py features OUT --manifest POOL.tsv ... [--model FOLDER]   MFCC, or all layers of a model, side by side
    kmeans.py speed FEATURES --clusters 100 500 2000                  against the peers, in turn, in this process
    kmeans.py grid [--features FOLDER ...] --dims 39 256 --clusters 100 500   against faiss, on clumps or on FOLDER's
    kmeans.py disk FEATURES --gib 20                                  from files, against memory
    kmeans.py label --manifest POOL.tsv ... [--model FOLDER]          forward pass with labels, against without
    kmeans.py short --manifest POOL.tsv ... [--out FILE]              few MFCC, against the peers that are installed

Inertia is over all points, by one function for everybody. See README.md beside it.
"""

import argparse
import importlib.util
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, read_audio
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError
from speechssl.hub.saved import SavedModel
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.units.assignment import Nearest, sum_clusters
from speechssl.units.feature_shards import ShardPoints, write_shards
from speechssl.units.kmeans import KMeans
from speechssl.units.lloyd import Step
from speechssl.units.mfcc import MFCC_WINDOW, mfcc
from speechssl.units.points import Points, TensorPoints


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


def with_faiss(features: np.ndarray, clusters: int, seed: int, most: int = 256) -> Fit:
    """Run faiss for 20 iterations, at its other defaults: it draws 256 points a cluster and looks at no others."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    kmeans = faiss.Kmeans(features.shape[1], clusters, niter=20, seed=seed + 1, max_points_per_centroid=most)
    return timed(lambda: (kmeans.train(features), kmeans.centroids)[1])


def with_faiss_on_all(features: np.ndarray, clusters: int, seed: int) -> Fit:
    """Run faiss for 20 iterations over all points."""
    return with_faiss(features, clusters, seed, most=len(features))


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
    "faiss-all": with_faiss_on_all,
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
    print(
        "| clusters | system | inertia | wall s | CPU s | ours until that inertia: wall s | CPU s | of its CPU time |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for clusters in options.clusters:
        runs: dict[str, list[Fit]] = {name: [] for name in options.systems}
        for seed in range(options.repeats):
            for name in options.systems:  # in turn, so that what else the machine does meets all alike
                runs[name].append(CONTENDERS[name](features, clusters, seed))
        print_rows(features, clusters, runs)
        product, assignment = product_bound(features, clusters)
        print(
            f"| {clusters} | assignment of all points | | | {assignment:.2f} | | product alone: {product:.2f} | "
            f"{product / assignment:.0%} |",
            flush=True,
        )


def short(options: argparse.Namespace) -> None:
    """Print the table of peers on few MFCC, and write how many times as fast ours reaches the inertia of each."""
    with TemporaryDirectory() as folder:
        write_shards(Path(folder) / "mfcc", extract(options), dtype="float32")
        features = in_memory(Path(folder) / "mfcc", options.points)
    modules = {"speechssl": "speechssl", "faiss": "faiss", "superkmeans": "superkmeans", "sklearn": "sklearn"}
    installed = [name for name in modules if importlib.util.find_spec(modules[name])]
    clusters = options.clusters[0]
    runs: dict[str, list[Fit]] = {name: [] for name in installed}
    for seed in range(options.repeats):
        for name in installed:
            runs[name].append(CONTENDERS[name](features, clusters, seed))
    print_rows(features, clusters, runs)
    ratios = {}
    for name in installed[1:]:
        targets = [mean_inertia(features, fit.centroids) for fit in runs[name]]
        own = [first_to_reach(fit, features, most) for fit, most in zip(runs["speechssl"], targets, strict=True)]
        times = [fit.cpu / at[1] for at, fit in zip(own, runs[name], strict=True) if at is not None]
        ratios[f"k-means mfcc {clusters}: {name}"] = statistics.median(times) if len(times) == len(own) else 0.0
    if options.out:
        options.out.write_text(json.dumps({"ratios": ratios}) + "\n", encoding="utf-8")


def grid(options: argparse.Namespace) -> None:
    """Print how soon ours reaches faiss's inertia, over shapes: on clumps of points, or on features of files."""
    with_faiss(np.random.default_rng(0).standard_normal((4000, 8), dtype=np.float32), 10, 0)  # its threads start
    print(f"{torch.get_num_threads()} threads, medians of {options.repeats} seeds")
    print(
        "| points | data | clusters | faiss s | ours until its inertia s | share | whole fit s | inertia over faiss's |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, clusters, features in grid_data(options):
        own, theirs, shares, ends = [], [], [], []
        for seed in range(options.repeats):
            other, fit = with_faiss(features, clusters, seed), ours(features, clusters, seed)
            target = mean_inertia(features, other.centroids)
            at = first_to_reach(fit, features, target)
            own.append((at[0] if at else math.inf, fit.wall))
            theirs.append(other.wall)
            shares.append(own[-1][0] / other.wall)
            ends.append(mean_inertia(features, fit.centroids) / target)
        until, whole = (statistics.median(each) for each in zip(*own, strict=True))
        print(
            f"| {len(features):,} x {features.shape[1]} | {name} | {clusters} | {statistics.median(theirs):.2f} | "
            f"{until:.3f} | {statistics.median(shares):.2f} | {whole:.2f} | {statistics.median(ends):.4f} |",
            flush=True,
        )


def grid_data(options: argparse.Namespace) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield name, number of clusters and (points, dim) float32 features of each row of the grid."""
    for folder in options.features:
        features = in_memory(folder, None)
        rows = np.random.default_rng(0).permutation(len(features))[: options.points]
        for clusters in options.clusters:
            yield folder.name, clusters, features[rows]
    for dim in [] if options.features else options.dims:
        for clusters, per_cluster in itertools.product(options.clusters, (1 / 3, 3)):
            clumps = round(per_cluster * clusters)
            yield f"{clumps} clumps", clusters, draw_clumps(options.points, dim, clumps, options.noise)


def draw_clumps(num_points: int, dim: int, clumps: int, noise: float) -> np.ndarray:
    """Draw (points, dim) float32 around standard normal centres, with the given standard deviation."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(clumps, dim, generator=generator)
    members = torch.randint(clumps, (num_points,), generator=generator)
    points = torch.randn(num_points, dim, generator=generator).mul_(noise)
    for part, labels in zip(points.split(2**16), members.split(2**16), strict=True):
        part += centres[labels]
    return points.numpy()


def print_rows(features: np.ndarray, clusters: int, runs: dict[str, list[Fit]]) -> None:
    """Print medians over the repeats; how soon ours reaches an inertia is measured repeat against repeat."""
    for name, fits in runs.items():
        inertias = [mean_inertia(features, fit.centroids) for fit in fits]
        wall, cpu = (statistics.median(getattr(fit, clock) for fit in fits) for clock in ("wall", "cpu"))
        until = ""
        if name != "speechssl" and "speechssl" in runs:
            own = [first_to_reach(fit, features, most) for fit, most in zip(runs["speechssl"], inertias, strict=True)]
            until = " | ".join(reached(own, fits))
        print(
            f"| {clusters} | {name} | {statistics.median(inertias):.5g} | {wall:.2f} | {cpu:.2f} | {until or '| |'} |",
            flush=True,
        )


def reached(own: list[tuple[float, float] | None], fits: list[Fit]) -> tuple[str, str, str]:
    """Return what to print of when our fits were as good as another's: wall, processor time, share of the other's."""
    found = [(at, fit) for at, fit in zip(own, fits, strict=True) if at is not None]
    if len(found) < len(fits):
        return "", f"{len(found)} of {len(fits)} runs did", ""
    medians = [statistics.median(at[clock] for at, _ in found) for clock in (0, 1)]
    return f"{medians[0]:.3f}", f"{medians[1]:.3f}", f"{statistics.median(at[1] / fit.cpu for at, fit in found):.3f}"


def disk(options: argparse.Namespace) -> None:
    """Print what fitting features of many GiB in files costs a point, against memory."""
    small = in_memory(options.features, options.points)
    folder = options.features.with_name(f"{options.features.name}-{options.gib}-gib")
    copies = max(1, round(options.gib * 2**30 / (small.nbytes / 2)))
    if not folder.exists():
        write_shards(folder, (small for _ in range(copies)))
    clusters = options.clusters[0]

    def cost(points: Points, passes: int) -> float:
        """Return CPU seconds a point of a pass over all points; the first one, with the seeding, is left out."""
        ends: list[float] = []
        kmeans = KMeans(n_clusters=clusters, algorithm="lloyd", max_iter=passes, tol=0.0)
        kmeans.fit(points, report=lambda _: ends.append(time.process_time()))
        ends.append(time.process_time())  # after the last pass, for the inertia
        return statistics.median(late - early for early, late in itertools.pairwise(ends)) / len(points)

    held = TensorPoints(torch.from_numpy(small).half())
    memory = cost(held, 3)
    before = resident(most=False)
    Path("/proc/self/clear_refs").write_text("5")  # the most resident memory is counted anew
    files = cost(ShardPoints(folder), options.iterations)
    more = (resident(most=True) - before) / 2**20
    memory = (memory + cost(held, 3)) / 2  # before and after, as the machine may be busier at times
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
    print("| features | clusters | CPU us a point, memory | files | ratio | most resident memory more |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {size:.1f} GiB float16 | {clusters} | {memory * 1e6:.2f} | {files * 1e6:.2f} | {files / memory:.2f} | "
        f"{more:.2f} GiB |"
    )


def resident(*, most: bool) -> int:
    """Return KiB of this process in memory, mapped files among them: now, or the most there were."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM" if most else "VmRSS"].split()[0])


@torch.no_grad()
def label(options: argparse.Namespace) -> None:
    """Print what labels cost over the forward pass that they are made from."""
    encoder = SavedModel.read(options.model).encoder() if options.model else SpeechEncoder(EncoderConfig.base()).eval()
    waveforms = list(itertools.islice(read_waveforms(options, encoder.config.window), options.utterances))

    def forward(waveform: Tensor) -> Tensor:
        return encoder(waveform[None], torch.tensor([len(waveform)])).layers[options.layer - 1][0]

    clusters = options.clusters[0]
    kmeans = KMeans(n_clusters=clusters, max_iter=1).fit(torch.cat([forward(waveform) for waveform in waveforms]))
    works = {"without": forward, "with": lambda waveform: kmeans.predict(forward(waveform))}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.repeats):
        total = dict.fromkeys(works, 0.0)
        for index, waveform in enumerate(waveforms):
            for name, work in sorted(works.items(), reverse=index % 2 == 1):  # the second one finds warm caches
                start = time.process_time()
                work(waveform)
                total[name] += time.process_time() - start
        for name, spent in total.items():
            times[name].append(spent)
    without, labelled = (statistics.median(times[name]) for name in ("without", "with"))
    seconds = sum(map(len, waveforms)) / SAMPLE_RATE
    name = options.model.name if options.model else "BASE, random"
    print("| model | utterances | audio s | clusters | forward CPU s | with labels CPU s | more |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {name} | {len(waveforms)} | {seconds:.0f} | {clusters} | {without:.3f} | {labelled:.3f} | "
        f"{labelled / without - 1:.1%} |"
    )


def make_features(options: argparse.Namespace) -> None:
    """Write MFCC or layers of a model of utterances drawn from manifests."""
    written = write_shards(options.out, extract(options), dtype="float32")
    about = {"manifests": [path.name for path in options.manifest], "model": str(options.model), "frames": written}
    print(json.dumps(about))


@torch.no_grad()
def extract(options: argparse.Namespace) -> Iterator[Tensor]:
    """Yield the features of one utterance after the other, in random order, until there are enough."""
    encoder = SavedModel.read(options.model).encoder() if options.model else None
    left = options.points
    for waveform in read_waveforms(options, encoder.config.window if encoder else MFCC_WINDOW):
        if encoder is None:
            found = mfcc(waveform)
        else:
            found = torch.cat(encoder(waveform[None], torch.tensor([len(waveform)])).layers, 2)[0]
        yield found[:left]
        left -= len(found[:left])
        if not left:
            return


def read_waveforms(options: argparse.Namespace, shortest: int) -> Iterator[Tensor]:
    """Yield (time,) waveforms of the manifests in random order, none of fewer samples than `shortest`."""
    rows = [(each.audio_path(row), row) for each in map(read_manifest, options.manifest) for row in each.utterances]
    for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist():
        try:
            waveform = read_audio(rows[index][0], AudioConfig(resample=True))
        except AudioError:
            continue
        if len(waveform) >= shortest:
            yield waveform


def in_memory(folder: Path, num_points: int | None) -> np.ndarray:
    """Read the first features of a folder; all for None."""
    return torch.cat([block.clone() for block in ShardPoints(folder).blocks()])[:num_points].float().numpy()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    stages = parser.add_subparsers(required=True)
    for name, run in (
        ("features", make_features),
        ("speed", speed),
        ("grid", grid),
        ("disk", disk),
        ("label", label),
        ("short", short),
    ):
        stage = stages.add_parser(name)
        stage.set_defaults(run=run)
        if run is short:
            stage.add_argument("--out", type=Path)
        elif run is grid:
            stage.add_argument("--features", type=Path, nargs="+", default=[])
            stage.add_argument("--dims", type=int, nargs="+", default=[39, 128, 256, 768, 1024])
            stage.add_argument("--noise", type=float, default=1.0)
        elif run is not label:
            stage.add_argument("out" if run is make_features else "features", type=Path)
        stage.add_argument("--points", type=int, default=50_000 if run in (short, grid) else 1_000_000)
        stage.add_argument("--manifest", type=Path, nargs="+", default=[])
        stage.add_argument("--model", type=Path)
        stage.add_argument("--clusters", type=int, nargs="+", default=[100])
        stage.add_argument("--repeats", type=int, default=3)
        stage.add_argument("--systems", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
        stage.add_argument("--gib", type=float, default=20.0)
        stage.add_argument("--iterations", type=int, default=1)
        stage.add_argument("--layer", type=int, default=3)
        stage.add_argument("--utterances", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.run(options)


if __name__ == "__main__":
    main()
