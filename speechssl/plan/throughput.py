"""Measured training throughput on this machine: a few updates of the training loop's own `Learner`, on noise."""

import time

import torch

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.frames import frame_count
from speechssl.parallel import Ranks, pick_device
from speechssl.tasks.registry import task_of
from speechssl.tasks.task import DataSizes, TaskConfig
from speechssl.train.checkpoint import TrainState
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.optim import OptimConfig, build_optimizer

__all__ = ["device_for", "measure_throughput"]

_WARM_UP = 1  # updates before the clock starts: memory, kernels
_UPDATES = 3  # timed updates, at least
_NOISE = 0.1  # amplitude of the noise


def device_for(name: str) -> torch.device:
    """Return the device of this machine for `name`.

    Raises:
        ConfigError: the device is an accelerator and this machine has none.
    """
    device = torch.device("cpu") if name == "cpu" else pick_device()
    if name != "cpu" and device.type == "cpu":
        raise ConfigError(f"this machine has no accelerator to measure {name} on; run there, or leave --measure out")
    return device


def measure_throughput(
    encoder: EncoderConfig,
    objective: TaskConfig,
    clusters: tuple[int, ...],
    *,
    seconds: float,
    crop_s: float,
    bfloat16: bool,
    device: torch.device,
    at_least_s: float = 5.0,
) -> float:
    """Train on noise and return the audio-seconds per second of this process.

    Args:
        encoder: configuration of the trunk.
        objective: configuration of a pretraining task.
        clusters: number of units of each label stream.
        seconds: seconds of audio in a micro-batch, rounded to whole crops.
        crop_s: seconds of each utterance.
        bfloat16: whether to use autocast with bfloat16.
        device: device to train on.
        at_least_s: least seconds to measure for.
    """
    task = task_of(objective)
    sizes = task.planned_sizes(clusters)
    model = task.build(objective, SpeechEncoder(encoder), sizes).to(device)
    optim = OptimConfig(lr=1e-6)  # small enough that noise does no harm
    ranks = Ranks(rank=0, world_size=1, device=device)
    config = TrainConfig(bfloat16=bfloat16)
    learner = Learner(model, build_optimizer(model, optim), seed=0, optim=optim, config=config, ranks=ranks)
    batch = _noise(max(1, round(seconds / crop_s)), crop_s, encoder, sizes)
    state = TrainState()

    def update() -> None:
        learner.update(iter([(0, 1, batch)]), state, say=print)
        if device.type != "cpu":
            torch.accelerator.synchronize()

    for _ in range(_WARM_UP):
        update()
    started, done = time.perf_counter(), 0
    while done < _UPDATES or time.perf_counter() - started < at_least_s:
        update()
        done += 1
    return done * batch.duration_s / (time.perf_counter() - started)


def _noise(utterances: int, crop_s: float, encoder: EncoderConfig, sizes: DataSizes) -> Batch:
    generator = torch.Generator().manual_seed(0)
    time_ = int(crop_s * SAMPLE_RATE)
    shape = (utterances, frame_count(time_, encoder.stack))
    labels = [torch.randint(units, shape, generator=generator) for units in sizes.clusters]
    return Batch(
        ids=tuple(f"noise-{index}" for index in range(utterances)),
        waveforms=_NOISE * torch.randn((utterances, time_), generator=generator),
        num_samples=torch.full((utterances,), time_),
        labels=torch.stack(labels) if labels else None,
        targets=torch.zeros((utterances, 1), dtype=torch.long) if sizes.classes else None,
    )
