"""Part 5, where a step of BASE goes: the kernels that take longest, what the device waits for, and three choices.

The choices are those that could not be made without a GPU: positions as a convolution or by way of frequencies, masked
or packed attention, and the optimiser's step. Each is timed alone, forward and backward.
"""

import dataclasses
import statistics
from collections.abc import Callable

import torch
from card import Part, spent
from plan import IN_ALL, LAYERS, OURS, POSITIONS, STEP
from stepping import VARIANTS, build_learner, fitting_seconds, make_batches, make_size
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from speechssl.data.batching import Batch
from speechssl.model.encoder import EncoderConfig
from speechssl.model.fast.positions import correlate
from speechssl.model.frames import frame_count, within
from speechssl.model.positions import PositionalConv
from speechssl.model.transformer import Transformer
from speechssl.train.checkpoint import TrainState

SHOWN = 20  # kernels


def trace_step(part: Part) -> None:
    """Profile steps, and add up what ran on the device, by kernel."""
    size = make_size("BASE", is_small=part.is_rehearsal)
    seconds = fitting_seconds(part, "BASE", "wav2vec2") / (1 if part.is_rehearsal else 2)
    batches = make_batches(part, size, seconds)
    learner, state = build_learner(size, "wav2vec2", VARIANTS[OURS], part.device, seed=part.seed), TrainState()

    def step() -> None:
        for batch in batches:
            learner.update(iter([(0, 1, batch)]), state, say=print)

    wall = statistics.median(spent(step, part.device, repeats=1, warm_up=1))
    activities = [ProfilerActivity.CPU] if part.is_rehearsal else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities, acc_events=True) as found:
        step()
    rows = found.key_averages()
    kind = DeviceType.CPU if part.is_rehearsal else DeviceType.CUDA
    on_device = [row for row in rows if row.device_type == kind and not row.is_user_annotation]
    own = {row.key: _own_s(row, part) for row in on_device}
    busy = sum(own.values())
    copies = sum(row.count for row in rows if "DtoH" in row.key)
    waits = sum(row.count for row in rows if row.key in ("cudaStreamSynchronize", "cudaDeviceSynchronize"))
    launches = sum(row.count for row in rows if row.key.startswith(("cudaLaunchKernel", "cuLaunchKernel")))
    steps = len(batches)
    part.add(
        STEP,
        IN_ALL,
        step_s=wall / steps,
        device_busy_s=busy / steps,
        idle=max(0.0, 1 - busy / wall),
        launches=launches / steps,
        waits=waits / steps,
        copies_to_host=copies / steps,
    )
    counts = {row.key: row.count for row in on_device}
    for name in sorted(own, key=lambda name: -own[name])[:SHOWN]:
        part.add(STEP, name[:120], share=own[name] / busy, seconds=own[name] / steps, calls=counts[name] / steps)


def _own_s(row: torch.autograd.profiler_util.FunctionEventAvg, part: Part) -> float:
    return (row.self_cpu_time_total if part.is_rehearsal else row.self_device_time_total) / 1e6


def compare_choices(part: Part) -> None:
    """Time what could be done in two ways."""
    small = part.is_rehearsal
    size = make_size("BASE", is_small=small)
    config = size.encoder.transformer
    batch = make_batches(part, size, 1.2 if small else 300.0)[0]
    counts = frame_count(batch.num_samples, size.encoder.conv)
    shape = (len(counts), int(counts.max()), config.dim)
    x = torch.randn(shape, device=part.device, requires_grad=True)
    positions = PositionalConv(config.dim, config.position_kernel, config.position_groups).to(part.device)

    def convolve() -> Tensor:
        with torch.autocast(part.device.type, torch.bfloat16):
            return functional.gelu(positions.conv(x.transpose(1, 2)).transpose(1, 2)[:, : shape[1]])

    def by_frequency() -> Tensor:
        return functional.gelu(correlate(x, positions.conv.weight, positions.conv.groups) + positions.conv.bias)

    time_choice(part, POSITIONS[0], convolve)
    time_choice(part, POSITIONS[1], by_frequency)
    torch.backends.cuda.matmul.allow_tf32 = True
    time_choice(part, POSITIONS[2], by_frequency)
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, packed in zip(LAYERS, (False, True), strict=True):
        time_choice(part, name, layers_of(size.encoder, batch, part, packed=packed))


def layers_of(encoder: EncoderConfig, batch: Batch, part: Part, *, packed: bool) -> Callable[[], Tensor]:
    """Return the Transformer on a padded batch, in training."""
    config = dataclasses.replace(encoder.transformer, layer_drop=0.0)
    transformer = Transformer(config).to(part.device).train()
    transformer.packed = packed
    counts = frame_count(batch.num_samples, encoder.conv)
    is_valid = within(counts, int(counts.max()))
    x = torch.randn((*is_valid.shape, config.dim), device=part.device, requires_grad=True)

    def run() -> Tensor:
        with torch.autocast(part.device.type, torch.bfloat16):
            return transformer(x, is_valid)[-1]

    return run


def time_choice(part: Part, name: str, forward: Callable[[], Tensor]) -> None:
    """Time forward and backward."""
    with part.surviving(name, OURS):
        cotangent = torch.randn_like(forward())
        seconds = spent(lambda: forward().backward(cotangent), part.device, repeats=1 if part.is_rehearsal else 7)
        part.add(name, OURS, seconds=statistics.median(seconds))


def main() -> None:
    """Profile first, then choose."""
    part = Part(__doc__)
    with part.surviving(STEP, IN_ALL):
        trace_step(part)
    if not part.is_over:
        with part.surviving(POSITIONS[0], OURS):
            compare_choices(part)


if __name__ == "__main__":
    main()
