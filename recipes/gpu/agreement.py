"""Part 1, is it right: the GPU against the CPU in double precision, 16 bits against 32, and what only a GPU can show.

Each row names a check, its bound and what was found. Dropouts are off where two results are compared, and what would
be drawn on the device is drawn on the host for both, so that only arithmetic differs.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from card import Part
from mixture import mixed_batches
from plan import (
    CLUSTERED,
    EXACT,
    INERTIA,
    KERNELS,
    LABELS,
    MARKED,
    MODES,
    RESUMED,
    ROUNDED,
    TASKS,
    WAITS,
    clustered,
    one_rank,
)
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from speechssl.data.batching import Batch, BatchConfig
from speechssl.model import attention, positions
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded, EncoderConfig, SpeechEncoder
from speechssl.model.fast import convolution, dropout
from speechssl.model.frames import frame_count, within
from speechssl.parallel import Ranks
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.registry import build_objective
from speechssl.train.checkpoint import TrainState
from speechssl.train.distributed import ParallelConfig, distribute
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.loop import fit
from speechssl.train.optim import OptimConfig, build_optimizer, scale_gradients
from speechssl.train.run import Run
from speechssl.train.runlog import LogConfig
from speechssl.units.assignment import Nearest
from speechssl.units.kmeans import KMeans

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
VOCABULARY = 32
CLUSTERS = (100,)
STAGES = ("extractor", "features", "first layer", "last layer")
FLOAT32 = {"stage": 1e-4, "loss": 1e-5, "gradient": 1e-3, "update": 5e-2}  # relative errors, against float64
BFLOAT16 = {"last layer": 5e-2, "loss": 2e-2, "cosine": 0.98}  # against float32; of the gradient, a cosine at least
OPTIM = OptimConfig(lr=1e-3, warmup=0.0)
CPU_KERNELS = (  # where one is called, by the name it has there
    (convolution, "convolve"),
    (attention, "attend_rows"),
    (positions, "correlate"),
    (dropout, "dropout"),
)
ALLOWED_WAITS = {"wav2vec2": 1, "hubert": 1, "ctc": 3}  # for the loss; torch's own CTC loss copies lengths


def encoders(is_small: bool) -> dict[str, EncoderConfig]:
    """Give BASE and LARGE, the latter with six layers, or tiny ones of both kinds; nothing is dropped."""
    found = {"BASE": EncoderConfig.base(), "LARGE": EncoderConfig.large()}
    stack = ((16, 10, 5), (16, 4, 2), (16, 4, 4)) if is_small else None
    for name, config in found.items():
        small = {"dim": 32, "num_heads": 2, "ffn_dim": 64, "position_kernel": 16, "position_groups": 4}
        transformer = dataclasses.replace(
            config.transformer,
            num_layers=2 if is_small else min(config.transformer.num_layers, 12 if name == "BASE" else 6),
            dropout=0.0,
            attention_dropout=0.0,
            layer_drop=0.0,
            **(small if is_small else {}),
        )
        found[name] = dataclasses.replace(
            config, conv=stack or config.conv, feature_dropout=0.0, conv_grad_scale=1.0, transformer=transformer
        )
    return found


def build(task: str, encoder: EncoderConfig, *, seed: int) -> nn.Module:
    """Build a model for `wav2vec2`, `hubert` or `ctc` with random weights, in training mode."""
    torch.manual_seed(seed)
    dim, channels = encoder.transformer.dim, encoder.conv[-1][0]
    match task:
        case "wav2vec2":
            config: ContrastiveConfig | MaskedPredictionConfig = ContrastiveConfig(feature_dropout=0.0)
            objective = build_objective(config, dim=dim, conv_dim=channels, clusters=())
        case "hubert":
            objective = build_objective(MaskedPredictionConfig(), dim=dim, conv_dim=channels, clusters=CLUSTERS)
        case _:
            return CTCModel(SpeechEncoder(encoder), CTCConfig(freeze_steps=0, freeze_conv=False), VOCABULARY).train()
    return PretrainModel(SpeechEncoder(encoder), objective).train()


def make_batches(number: int, encoder: EncoderConfig, seconds: float, *, seed: int, scale: float) -> list[Batch]:
    """Make batches of unequal utterances."""
    config = BatchConfig(seconds=seconds, min_s=0.1, max_crop_s=seconds / 2, jitter=1.0)
    return mixed_batches(
        number, config, stack=encoder.conv, clusters=CLUSTERS, vocabulary=VOCABULARY, seed=seed, scale=scale
    )


class SameDraws(TorchFunctionMode):
    """Draws on the host what is drawn from a generator, whatever the device, and lets double stay double."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, or what stands in for it."""
        kwargs = kwargs or {}
        if func is torch.rand and kwargs.get("generator") is not None:
            device = kwargs.pop("device", None)
            return func(*args, **kwargs | {"generator": self.generator}).to(device)
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Found:
    """What one step gave, in float64 on the host."""

    stages: dict[str, Tensor]  # valid frames
    loss: float
    gradient: Tensor  # of all parameters, end to end
    update: Tensor  # of the same


def step(task: str, encoder: EncoderConfig, batch: Batch, device: torch.device, kind: str, *, seed: int) -> Found:
    """Take one step in `float64`, `float32` or `bfloat16`, from weights that a seed gives."""
    model = build(task, encoder, seed=seed).to(device)
    if kind == "float64":
        model, batch = model.double(), dataclasses.replace(batch, waveforms=batch.waveforms.double())
    seen: list[Encoded] = []
    handle = next(each for each in model.modules() if isinstance(each, SpeechEncoder)).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    with SameDraws(seed):
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bfloat16"):
            loss = model(batch.to(device), StepContext(step=0, generator=torch.Generator()))
        loss.value.backward()
    handle.remove()
    scale_gradients(model, 1 / int(loss.count), None)
    learned = [each for each in model.parameters() if each.grad is not None]
    gradient = _flat([each.grad for each in learned])
    before = _flat(learned)
    build_optimizer(model, OPTIM).step()
    (encoded,) = seen
    is_valid = within(frame_count(batch.num_samples, encoder.conv), encoded.conv.shape[1])
    picked = (encoded.conv, encoded.features, encoded.layers[0], encoded.last)
    return Found(
        stages={name: _double(x)[is_valid] for name, x in zip(STAGES, picked, strict=True)},
        loss=float(loss.value.detach()) / int(loss.count),
        gradient=gradient,
        update=_flat(learned) - before,
    )


def compare_precisions(part: Part, is_large: bool) -> None:
    """Compare float32 with float64 and bfloat16 with float32, every task and both kinds of trunk."""
    small = part.is_rehearsal
    for name, encoder in encoders(small).items():
        if (name == "LARGE") != is_large:
            continue
        (batch,) = make_batches(1, encoder, 0.6 if small else 9.0, seed=part.seed, scale=0.03 if small else 0.4)
        for task in TASKS:
            work = f"{name} {task}"
            with part.surviving(work, EXACT):
                exact = step(task, encoder, batch, CPU, "float64", seed=part.seed)
                single = step(task, encoder, batch, part.device, "float32", seed=part.seed)
                found = {f"{stage} error": error(single.stages[stage], exact.stages[stage]) for stage in STAGES}
                found |= {
                    "loss error": abs(single.loss / exact.loss - 1),
                    "gradient error": error(single.gradient, exact.gradient),
                    "update error": error(single.update, exact.update),
                }
                bounds = [*[FLOAT32["stage"]] * len(STAGES), *[FLOAT32[key] for key in ("loss", "gradient", "update")]]
                holds = all(value <= bound for value, bound in zip(found.values(), bounds, strict=True))
                part.add(work, EXACT, holds=holds, **found)
                half = step(task, encoder, batch, part.device, "bfloat16", seed=part.seed)
                cosine = float(nn.functional.cosine_similarity(half.gradient, single.gradient, dim=0))
                last, loss = (
                    error(half.stages[STAGES[-1]], single.stages[STAGES[-1]]),
                    abs(half.loss / single.loss - 1),
                )
                holds = last <= BFLOAT16["last layer"] and loss <= BFLOAT16["loss"] and cosine >= BFLOAT16["cosine"]
                values = {"last layer error": last, "loss error": loss, "gradient cosine": cosine}
                part.add(work, ROUNDED, holds=holds, **values)


def compare_clustering(part: Part) -> None:
    """Compare labels and fits of k-means with the CPU's."""
    for number, dim, clusters in ((3000, 39, 20), (500, 64, 30)) if part.is_rehearsal else CLUSTERED:
        work = clustered(number, dim, clusters)
        with part.surviving(work, LABELS):
            generator = torch.Generator().manual_seed(part.seed)
            centres = 2 * torch.randn(clusters, dim, generator=generator)
            members = torch.randint(clusters, (number,), generator=generator)
            points = centres[members] + torch.randn(number, dim, generator=generator)
            seeds = points[:clusters]
            ours = Nearest(seeds.to(part.device))(points.to(part.device))[0].cpu()
            theirs = Nearest(seeds)(points)[0]
            gap = tie_gap(points, seeds, ours, theirs)
            values = {"equal labels": float((ours == theirs).double().mean()), "gap where not": gap}
            part.add(work, LABELS, holds=gap < 1e-5, **values)
            fits = [
                KMeans(n_clusters=clusters, max_iter=10, seed=part.seed, device=str(device)).fit(points)
                for device in (part.device, CPU)
            ]
            ratio = fits[0].inertia_ / fits[1].inertia_
            part.add(work, INERTIA, holds=abs(ratio - 1) < 0.02, ratio=ratio)


def tie_gap(points: Tensor, centroids: Tensor, ours: Tensor, theirs: Tensor) -> float:
    """Return by how much of its distance a point lies farther from our centroid than from theirs, at most."""
    other = ours != theirs
    points, centroids = points[other].double(), centroids.double()
    far, near = ((points - centroids[labels[other]]).square().sum(1) for labels in (ours, theirs))
    return float(((far - near) / near).max()) if len(points) else 0.0


def resume(part: Part) -> None:
    """Interrupt a run, go on, and compare the weights with those of a run that was not interrupted."""
    encoder = encoders(is_small=True)["BASE"]
    alive = dataclasses.replace(encoder.transformer, dropout=0.1, attention_dropout=0.1, layer_drop=0.1)
    encoder = dataclasses.replace(encoder, feature_dropout=0.1, transformer=alive)
    batches = make_batches(3, encoder, 0.6, seed=part.seed, scale=0.03)
    ranks = Ranks(rank=0, world_size=1, device=part.device)

    def run(task: str, out: Path, stop_before: int | None) -> dict[str, Tensor]:
        def batches_from(epoch: int, position: int) -> Iterator[tuple[int, int, Batch]]:
            while True:
                if epoch * len(batches) + position == stop_before:
                    raise KeyboardInterrupt
                now = batches[position]
                epoch, position = (epoch + 1, 0) if position + 1 == len(batches) else (epoch, position + 1)
                yield epoch, position, now

        model = build(task, encoder, seed=part.seed)
        config = TrainConfig(steps=6, log_every=2, save_every=2, log=LogConfig(tensorboard=False))
        arguments = {"out": out, "seed": part.seed, "optim": OPTIM, "config": config, "ranks": ranks, "title": task}
        fit(Run(model, **arguments), batches_from)
        return {name: each.detach().cpu() for name, each in model.state_dict().items()}

    torch.use_deterministic_algorithms(True, warn_only=True)
    for task in TASKS:
        with part.surviving(task, RESUMED), TemporaryDirectory() as folder:
            straight = run(task, Path(folder) / "straight", None)
            with contextlib.suppress(KeyboardInterrupt):
                run(task, Path(folder) / "resumed", 3)
            resumed = run(task, Path(folder) / "resumed", None)
            same = all(torch.equal(each, straight[name]) for name, each in resumed.items())
            off = error(_flat([*resumed.values()]), _flat([*straight.values()]))
            # CTC's backward pass on CUDA is documented as not deterministic; there, only closeness is asked for
            promised = task != "ctc" or part.is_rehearsal
            part.add(task, RESUMED, holds=same or (not promised and off < 1e-3), same=same, error=off)
    torch.use_deterministic_algorithms(False)


def spread_over_one(part: Part) -> None:
    """Train as one rank of DDP and of FSDP2, and compare with no ranks at all."""
    encoder = encoders(is_small=True)["BASE"]
    batches = make_batches(2, encoder, 0.6, seed=part.seed, scale=0.03)
    ranks = Ranks(rank=0, world_size=1, device=part.device)

    def train(parallel: ParallelConfig, task: str) -> Tensor:
        model = build(task, encoder, seed=part.seed).to(part.device)
        called = distribute(model, parallel, ranks, bfloat16=False, accumulate=1)
        learner = Learner(
            called, build_optimizer(model, OPTIM), seed=part.seed, optim=OPTIM, config=TrainConfig(steps=9), ranks=ranks
        )
        state = TrainState()
        for batch in batches:
            learner.update(iter([(0, 1, batch)]), state, say=print)
        return _flat([getattr(each, "full_tensor", lambda each=each: each)() for each in model.parameters()])

    alone: dict[str, Tensor] = {}
    for task, mode in itertools.product(TASKS, MODES):
        with part.surviving(task, one_rank(mode)):
            if task not in alone:
                alone[task] = train(ParallelConfig(), task)
            backend = "gloo" if part.is_rehearsal else "nccl"
            distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
            try:
                off = error(train(ParallelConfig(mode=mode), task), alone[task])
            finally:
                distributed.destroy_process_group()
            part.add(task, one_rank(mode), holds=off < 1e-5, error=off)


def look_inside(part: Part) -> None:
    """Count what a step on the device must not do: kernels written for the CPU, and waits for the device."""
    small = part.is_rehearsal
    encoder = EncoderConfig.small() if small else EncoderConfig.base()
    transformer = dataclasses.replace(encoder.transformer, dropout=0.1, attention_dropout=0.1)
    encoder = dataclasses.replace(encoder, transformer=transformer, feature_dropout=0.1)
    (batch,) = make_batches(1, encoder, 3.0 if small else 60.0, seed=part.seed, scale=0.1 if small else 1.0)
    ranks = Ranks(rank=0, world_size=1, device=part.device)
    for task in TASKS:
        with part.surviving(task, KERNELS):
            model = build(task, encoder, seed=part.seed).to(part.device)
            learner = Learner(
                model, build_optimizer(model, OPTIM), seed=0, optim=OPTIM, config=TrainConfig(steps=9), ranks=ranks
            )
            update = partial(learner.update, state=TrainState(), say=print)
            with contextlib.ExitStack() as stack:
                spies = [
                    stack.enter_context(mock.patch.object(module, name, wraps=getattr(module, name)))
                    for module, name in CPU_KERNELS
                ]
                update(iter([(0, 1, batch)]))
            calls = sum(spy.call_count for spy in spies)
            part.add(task, KERNELS, holds=(calls > 0) == small, calls=calls)
            if not small:
                places = waits(lambda update=update: update(iter([(0, 1, batch)])))
                part.add(task, WAITS, holds=len(places) <= ALLOWED_WAITS[task], waits=len(places), at=", ".join(places))


def waits(work: Callable[[], object]) -> list[str]:
    """Return where the host waits for the GPU, by torch's own watch."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]


def run_tests(part: Part) -> None:
    """Run the tests that are marked `gpu`, of the files that have any."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", *files]
    if part.is_rehearsal:
        part.add(*MARKED, holds=len(files) > 0, files=len(files))  # the suite has collected them
        return
    with part.surviving(*MARKED):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=part.left_s, check=False)
        print(done.stdout[-3000:], done.stderr[-1000:], sep="\n")
        told = re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)
        counts = {name: int(number) for number, name in told}
        part.add(*MARKED, holds=done.returncode == 0, files=len(files), **counts)


def error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of what is expected; infinite if any number is not finite."""
    off = float((found - expected).norm() / expected.norm())
    return off if math.isfinite(off) else math.inf


def _double(x: Tensor) -> Tensor:
    return x.detach().double().cpu()


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([_double(each).flatten() for each in tensors])


def main() -> None:
    """Do the checks, the most telling first."""
    part = Part(__doc__)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for to promise equal bits
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    checks: tuple[Callable[[Part], None], ...] = (
        partial(compare_precisions, is_large=False),
        look_inside,
        run_tests,
        compare_clustering,
        resume,
        spread_over_one,
        partial(compare_precisions, is_large=True),
    )
    for check in checks:
        if part.is_over:
            break
        check(part)
    if not all(row.values.get("holds", False) for row in part.rows):
        sys.exit("a check does not hold")


if __name__ == "__main__":
    main()
