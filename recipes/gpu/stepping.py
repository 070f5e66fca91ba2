"""Part 3, a training step of pretraining: BASE and LARGE, either method, 16 bits, lengths as speech has them.

Ours goes through the very update that a run makes: optimiser, masks, figures and all. It is measured eager and
compiled, padded and packed; transformers beside it on the same batches, with masks and negatives of its own that are
drawn outside of the timed steps, as processes beside its training would. A batch is as many seconds
as fill the card by the estimate of `speechssl plan`, less if that was too many. Hours are hours of audio, without
padding. FLOPs are those of `speechssl/tasks/flops.py`, for the lengths as they are.
"""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partialmethod
from unittest import mock

import plan
import torch
from card import Part, matrix_rate, wait
from learners import Learner as Peer
from mixture import mixed_batches
from peers import transformers_wav2vec2
from sizes import SIZES, Size
from torch import Tensor, nn

from speechssl.data.batching import Batch, BatchConfig
from speechssl.model.encoder import SpeechEncoder
from speechssl.parallel import Ranks
from speechssl.plan.costs import SIZES as BUDGETS
from speechssl.plan.costs import memory_gb, pretraining_flops
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.registry import build_objective
from speechssl.train.checkpoint import TrainState
from speechssl.train.distributed import ParallelConfig, distribute
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.optim import build_optimizer

__all__ = ["VARIANTS", "build_learner", "fitting_seconds", "in_16_bits", "make_batches", "make_size"]

PEAK = 989e12  # operations a second, bfloat16 without sparsity, of an H100 or H200 SXM by the data sheet
VARIANTS = {
    plan.OURS: ParallelConfig(),
    **dict(
        zip(
            plan.VARIANTS,
            (ParallelConfig(packed=True), ParallelConfig(compile=True), ParallelConfig(packed=True, compile=True)),
            strict=True,
        )
    ),
}
MOST_S = 1200.0  # of audio in a batch: more gains nothing, and the widest tensor would have over 2^31 numbers
STEPS, WARM_UP = 6, 3


@dataclass(frozen=True)
class Measured:
    """Steps of one contender."""

    seconds: list[float]  # of each step
    audio_s: list[float]  # in each step, without padding
    flops: list[float]  # of each step
    peak_gib: float


def make_size(name: str, *, is_small: bool) -> Size:
    """Give BASE or LARGE with what belongs to it; tiny ones for a rehearsal."""
    base, budget = SIZES["base"](), BUDGETS["base" if name == "BASE" else "large"]
    encoder = budget.encoder
    if is_small:
        small = {
            "dim": 128,
            "num_heads": 2,
            "ffn_dim": 64,
            "num_layers": 2,
            "position_kernel": 16,
            "position_groups": 2,
        }
        encoder = dataclasses.replace(
            encoder,
            conv=((16, 10, 5), (16, 4, 2), (16, 4, 4)),
            transformer=dataclasses.replace(encoder.transformer, **small),
        )
    assert isinstance(budget.planned("wav2vec2").config, ContrastiveConfig)
    assert isinstance(budget.planned("hubert").config, MaskedPredictionConfig)
    optim = dataclasses.replace(base.optim, max_grad_norm=budget.planned("wav2vec2").max_grad_norm)
    return dataclasses.replace(
        base,
        name=name.lower(),
        encoder=encoder,
        ctc_encoder=encoder,
        contrastive=budget.planned("wav2vec2").config,
        masked_prediction=budget.planned("hubert").config,
        clusters=budget.planned("hubert").clusters,
        optim=optim,
    )


def build_learner(size: Size, task: str, parallel: ParallelConfig, device: torch.device, *, seed: int) -> Learner:
    """Build our model with its optimiser, as a run does, in 16 bits."""
    torch.manual_seed(seed)
    objective = size.contrastive if task == "wav2vec2" else size.masked_prediction
    clusters = () if task == "wav2vec2" else size.clusters
    dim, channels = size.encoder.transformer.dim, size.encoder.conv[-1][0]
    built = build_objective(objective, dim=dim, conv_dim=channels, clusters=clusters)
    model = PretrainModel(SpeechEncoder(size.encoder), built).to(device)
    ranks = Ranks(rank=0, world_size=1, device=device)
    with rehearsed_compiler(device):
        called = distribute(model, parallel, ranks, bfloat16=True, accumulate=1)
    config = TrainConfig(steps=10**9, bfloat16=True, parallel=parallel)
    return Learner(called, build_optimizer(model, size.optim), seed=seed, optim=size.optim, config=config, ranks=ranks)


def rehearsed_compiler(device: torch.device) -> AbstractContextManager[object]:
    """Without a GPU, let layers be compiled to graphs that run as they are: code for a CPU would take minutes."""
    if device.type != "cpu":
        return nullcontext()
    return mock.patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))


def our_step(size: Size, task: str, parallel: ParallelConfig, part: Part) -> Callable[[Batch], object]:
    """Return our update of one batch."""
    learner, state = build_learner(size, task, parallel, part.device, seed=part.seed), TrainState()
    return lambda batch: learner.update(iter([(0, 1, batch)]), state, say=print)


def peer_step(size: Size, part: Part) -> Callable[[Batch], object]:
    """Return the update of transformers' model for pretraining."""
    torch.manual_seed(part.seed)
    peer = transformers_wav2vec2(size, draws_once=True)
    assert isinstance(peer, Peer)
    return in_16_bits(peer, part.device)


def in_16_bits(peer: Peer, device: torch.device) -> Peer:
    """Move a peer to the device, its batches too, and run its forward pass under autocast."""
    peer.model.to(device)
    score = peer.score

    def rounded(batch: Batch) -> tuple[Tensor, int]:
        with torch.autocast(device.type, torch.bfloat16):
            return score(batch.to(device))

    peer.score = rounded
    return peer


def measure(part: Part, name: str, size: Size, task: str, seconds: float) -> tuple[Measured, float]:
    """Time steps, of smaller batches where the card is too small for them. Returns the seconds of a batch too."""
    while True:
        step = None
        try:
            batches = make_batches(part, size, seconds)
            step = peer_step(size, part) if name == plan.PEER else our_step(size, task, VARIANTS[name], part)
            return time_steps(part, step, batches, size, task), seconds
        except RuntimeError as error:  # out of memory, or a kernel that is not made for so much
            if part.is_rehearsal or seconds < 30:
                raise
            print(f"{name}: {seconds:.0f} s of audio a batch are too many: {str(error).splitlines()[0]}", flush=True)
            seconds *= 0.75
        del step
        gc.collect()
        torch.cuda.empty_cache()


def make_batches(part: Part, size: Size, seconds: float) -> list[Batch]:
    """Make three batches as pretraining does, on pinned memory where there is a GPU."""
    config = (
        BatchConfig(seconds=seconds)
        if not part.is_rehearsal
        else BatchConfig(seconds=seconds, max_crop_s=0.6, min_s=0.1)
    )
    scale = 0.05 if part.is_rehearsal else 1.0
    number = 1 if part.is_rehearsal else 3
    batches = mixed_batches(
        number, config, stack=size.encoder.conv, clusters=size.clusters, vocabulary=4, seed=part.seed, scale=scale
    )
    return [batch.pin_memory() if part.device.type == "cuda" else batch for batch in batches]


def time_steps(
    part: Part, step: Callable[[Batch], object], batches: Sequence[Batch], size: Size, task: str
) -> Measured:
    """Take steps, every batch first once untimed."""
    repeats = (1, 1) if part.is_rehearsal else (WARM_UP, STEPS)
    for number in range(repeats[0]):
        step(batches[number % len(batches)])
    if part.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(part.device)
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for number in range(repeats[1]):
        batch = batches[number % len(batches)]
        wait(part.device)
        begun = time.perf_counter()
        step(batch)
        wait(part.device)
        for values, value in zip(
            found, (time.perf_counter() - begun, batch.duration_s, count_flops(size, task, batch)), strict=True
        ):
            values.append(value)
    peak = torch.cuda.max_memory_allocated(part.device) / 2**30 if part.device.type == "cuda" else 0.0
    return Measured(*found, peak_gib=peak)


def count_flops(size: Size, task: str, batch: Batch) -> float:
    """Count the operations of a step on a batch, for its utterances' own lengths."""
    objective = size.contrastive if task == "wav2vec2" else size.masked_prediction
    clusters = () if task == "wav2vec2" else size.clusters
    return sum(
        pretraining_flops(
            size.encoder, objective, clusters=clusters, samples=samples, utterances=len(batch.num_samples)
        )
        for samples in batch.num_samples.tolist()
    )


def fitting_seconds(part: Part, name: str, task: str) -> float:
    """Return the seconds of a batch that fill the card by our own estimate, in 16 bits."""
    if part.is_rehearsal:
        return 1.2
    budget, at_most = BUDGETS["base" if name == "BASE" else "large"], 0.85
    held = torch.cuda.get_device_properties(part.device).total_memory * at_most / 1e9
    one, two = (memory_gb(budget, task, seconds, bfloat16=True, on_cpu=False) for seconds in (100.0, 200.0))
    return min(MOST_S, 100.0 + 100.0 * (held - one) / (two - one))


def order(models: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, str], str]]:
    """List what is measured, the most telling first; compiled forms come late, as they take longest to begin."""
    first, *others = models
    first_with_peer = [model for model in others if model[1] == "wav2vec2"]
    packed, *compiled = plan.VARIANTS
    return [
        *((first, who) for who in (plan.OURS, plan.PEER, packed)),
        *((model, plan.OURS) for model in others),
        *((first, who) for who in compiled),
        *((model, plan.PEER) for model in first_with_peer),  # it has no model that pretrains with HuBERT's objective
        *((model, who) for who in (packed, *compiled) for model in others),
    ]


def main() -> None:
    """Measure one row after the other."""
    part = Part(__doc__)
    rate = matrix_rate(part.device, "bfloat16")
    fits: dict[tuple[str, str], float] = {}
    for (name, task), contender in order((plan.MODELS[0], plan.MODELS[-1]) if part.is_rehearsal else plan.MODELS):
        if part.is_over:
            break
        work = f"{name} {task}"
        with part.surviving(work, contender):
            torch.compiler.reset()  # what was compiled for another row counts towards its limits
            size = make_size(name, is_small=part.is_rehearsal)
            begun = time.perf_counter()
            seconds = fits.get((name, task)) or fitting_seconds(part, name, task)
            found = [measure(part, contender, size, task, seconds)]
            if contender == plan.PEER and not part.is_rehearsal:
                found.append(measure(part, contender, size, task, seconds / 4))  # which may suit it better
            measured, fitted = max(found, key=lambda each: sum(each[0].audio_s) / sum(each[0].seconds))
            if contender == plan.OURS:
                fits[name, task] = fitted
            total = sum(measured.seconds)
            part.add(
                work,
                contender,
                batch_s=fitted,
                step_s=statistics.median(measured.seconds),
                hours_an_hour=sum(measured.audio_s) / total,
                of_products=sum(measured.flops) / total / rate,
                of_peak=sum(measured.flops) / total / PEAK,
                peak_gib=measured.peak_gib,
                in_all_s=time.perf_counter() - begun,
            )


if __name__ == "__main__":
    main()
