"""Tool `plan`: hours of audio, a device and days -> model size, batch, learning rate, results of published runs.

The plan names the source of each number. Numbers that nobody measured are marked as assumed; settings at which
published runs failed give a warning.
"""

import math
import os
from dataclasses import dataclass, replace

from speechssl.errors import ConfigError
from speechssl.plan.costs import (
    DEVICES,
    LEAST_SEEN,
    MOST_SEEN,
    SIZES,
    UTILISATION,
    ModelSize,
    find_device,
    memory_gb,
    peak_lr,
)
from speechssl.plan.throughput import device_for, measure_throughput
from speechssl.tasks.registry import find_method
from speechssl.tasks.task import SizeName

__all__ = ["MOST_STEPS", "Plan", "PlanRequest", "Throughput", "expected_throughput", "make_plan", "measured_plan"]

MOST_STEPS = 400_000  # updates of the longest published BASE runs
_FEWEST_STEPS = 100_000  # least number of updates when a batch size is chosen; the batch-size study holds from 50,000
_SHORTEST_S = 150.0  # seconds per update of BASE: at 87.5 s the study's models were hardly better than random ones
_MOST_EPOCHS = 700  # wav2vec 2.0 BASE saw its 960 h 667 times, the most of any published run
_LARGE_SEEN, _LARGE_HOURS = 600_000, 960  # hours seen and hours of audio of the smallest published LARGE run
_MEMORY_USED = 0.9  # share of the device's memory
_LONGEST_MICRO_S = (
    600.0  # fills any device; at twice that the first layer of BASE has 2^31 elements, too many for some kernels
)
_BETWEEN_DEVICES = 0.9  # share of the throughput that remains where gradients are exchanged: assumed


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """The resources of a run, and what is already decided."""

    hours: float  # hours of unlabelled audio
    days: float  # duration of the run
    device: str = "cpu"
    memory_gb: float | None = None  # memory of one device; None: from the spec sheet, or this machine's for cpu
    devices: int = 1
    method: str = "wav2vec2"  # name of a pretraining method
    size: SizeName | None = None  # None: the largest that the time allows
    batch_s: float | None = None  # seconds of audio per update, over all devices; None: as in published runs
    rate: float | None = None  # audio-seconds per second on one device; None: estimated
    utilisation: float = UTILISATION  # share of the spec sheet's peak rate

    def __post_init__(self) -> None:
        for name in ("hours", "days", "memory_gb", "devices", "batch_s", "rate", "utilisation"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{name.split('_')[0]} must be more than 0, found {value}")
        if self.utilisation > 1:
            raise ConfigError(f"--utilisation is a share of the peak rate, at most 1, found {self.utilisation}")


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Training throughput of one device."""

    audio_s: float  # audio-seconds per second
    source: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned run."""

    request: PlanRequest
    size: ModelSize
    throughput: Throughput
    seconds: float  # seconds of audio in a micro-batch of one device
    accumulate: int
    steps: int
    lr: float
    days: float  # duration of the run; of the second one for a method of two runs
    memory_gb: float  # peak memory of one device
    memory_limit_gb: float
    bfloat16: bool
    warnings: tuple[str, ...] = ()

    @property
    def batch_s(self) -> float:
        """Seconds of audio per update, over all devices."""
        return self.seconds * self.accumulate * self.request.devices

    @property
    def hours_seen(self) -> float:
        """Hours of audio seen over all updates, padding counted."""
        return self.batch_s * self.steps / 3600

    @property
    def epochs(self) -> float:
        """How often each utterance is seen."""
        return self.hours_seen / self.request.hours

    @property
    def first_steps(self) -> int:
        """Updates of the run before the planned one: HuBERT's first iteration, on MFCC units."""
        share = find_method(self.request.method).planning.share
        return round(self.steps * (1 - share) / share)


def expected_throughput(request: PlanRequest, size: ModelSize) -> Throughput:
    """Estimate the throughput of one device: from our measurements for CPU, else from a spec sheet and an assumption.

    Raises:
        ConfigError: the device is not known.
    """
    if request.rate is not None:
        return Throughput(audio_s=request.rate, source="as given")
    if request.device == "cpu":
        cores = len(os.sched_getaffinity(0))
        source = f"{cores} cores here, a core as in recipes/benchmarks/README.md"
        if size.planned(request.method).cpu_audio_s is None:
            source += f", where {size.name} {request.method} was not measured: by operations, at BASE's rate"
        return Throughput(audio_s=cores * size.cpu_audio_s(request.method), source=source)
    device = find_device(request.device)
    flops = size.flops(request.method)
    return Throughput(
        audio_s=request.utilisation * device.peak_tflops * 1e12 / flops,
        source=f"ASSUMED, measured by nobody: {request.utilisation:.0%} of {device.peak_tflops:g} TFLOP/s "
        f"({device.source}), {flops / 1e9:.3g} GFLOP a second of audio",
    )


def measured_plan(request: PlanRequest) -> Plan:
    """Plan with an estimate, measure the planned size on this machine, and plan again with that throughput.

    Raises:
        ConfigError: as `make_plan`; or the device is an accelerator and this machine has none.
    """
    device = device_for(request.device)
    plan = make_plan(request)
    size = plan.size
    audio_s = measure_throughput(
        size.encoder,
        size.planned(request.method).config,
        size.planned(request.method).clusters,
        seconds=min(plan.seconds, 4 * size.crop_s) if request.device == "cpu" else plan.seconds,
        crop_s=size.crop_s,
        bfloat16=plan.bfloat16,
        device=device,
    )
    throughput = Throughput(
        audio_s=audio_s, source="measured here, a few updates on noise in whole crops, reading not counted"
    )
    return make_plan(replace(request, size=size.name), throughput)


def make_plan(request: PlanRequest, throughput: Throughput | None = None) -> Plan:
    """Make a plan.

    Args:
        request: the resources.
        throughput: throughput of one device with the requested or resulting size; None: estimated.

    Raises:
        ConfigError: no model fits into the memory or the time, or the device is not known.
    """
    limit = _memory_limit(request)
    bfloat16 = request.device != "cpu"
    size = SIZES[request.size] if request.size else _choose_size(request, throughput, limit)
    throughput = throughput or expected_throughput(request, size)
    longest = _longest_batch_s(size, request.method, limit, bfloat16=bfloat16)
    if longest < size.crop_s:
        least = memory_gb(size, request.method, size.crop_s, bfloat16=bfloat16, on_cpu=not bfloat16) / _MEMORY_USED
        raise ConfigError(
            f"{size.name} needs {least:.1f} GB for one utterance of {size.crop_s:g} s, {limit:.1f} GB are there; "
            "take a smaller --size, or more --memory"
        )
    available = _hours_seen(request, throughput)
    wanted = request.batch_s or _choose_batch_s(size, available)
    accumulate = max(1, math.ceil(wanted / (request.devices * min(longest, _LONGEST_MICRO_S))))
    seconds = max(size.crop_s, wanted / (request.devices * accumulate))
    batch_s = seconds * accumulate * request.devices
    affordable = int(available * 3600 / batch_s)
    if not affordable:
        raise ConfigError(
            f"{request.days:g} days are less than one update of {batch_s:g} s of audio with {size.name} takes; "
            "raise --days or --devices, or take a smaller --size"
        )
    steps = min(affordable, MOST_STEPS)
    plan = Plan(
        request=request,
        size=size,
        throughput=throughput,
        seconds=seconds,
        accumulate=accumulate,
        steps=steps,
        lr=peak_lr(size, request.method, batch_s),
        days=steps / affordable * request.days * _share(request),
        memory_gb=memory_gb(size, request.method, seconds, bfloat16=bfloat16, on_cpu=not bfloat16),
        memory_limit_gb=limit,
        bfloat16=bfloat16,
    )
    return _with_warnings(plan, affordable, wanted)


def _share(request: PlanRequest) -> float:
    return find_method(request.method).planning.share


def _hours_seen(request: PlanRequest, throughput: Throughput) -> float:
    """Return the hours of audio that all devices together see in the planned run."""
    together = throughput.audio_s * request.devices * (_BETWEEN_DEVICES if request.devices > 1 else 1.0)
    return together * request.days * _share(request) * 24


def _choose_size(request: PlanRequest, throughput: Throughput | None, limit: float) -> ModelSize:
    """Choose LARGE if it sees as much as its published runs, else BASE if its published table covers it, else small."""

    def seen(size: ModelSize) -> float:
        fits = _longest_batch_s(size, request.method, limit, bfloat16=request.device != "cpu") >= size.crop_s
        return _hours_seen(request, throughput or expected_throughput(request, size)) if fits else 0.0

    if request.hours >= _LARGE_HOURS and seen(SIZES["large"]) >= _LARGE_SEEN:
        return SIZES["large"]
    return SIZES["base" if seen(SIZES["base"]) >= LEAST_SEEN else "small"]


def _choose_batch_s(size: ModelSize, hours_seen: float) -> float:
    """Choose the longest known batch that leaves enough updates, or the shortest; small ones grow past `MOST_STEPS`."""
    total_s = hours_seen * 3600
    chosen = max((each for each in size.batches_s if total_s / each >= _FEWEST_STEPS), default=size.batches_s[0])
    is_small = size.name == "small"
    return chosen * max(1, math.ceil(total_s / chosen / MOST_STEPS)) if is_small else chosen


def _longest_batch_s(size: ModelSize, method: str, limit: float, *, bfloat16: bool) -> float:
    """Return the longest micro-batch in seconds of audio that fits into memory; negative if the model does not fit."""
    empty, one = (memory_gb(size, method, each, bfloat16=bfloat16, on_cpu=not bfloat16) for each in (0.0, 1.0))
    return (_MEMORY_USED * limit - empty) / (one - empty)


def _memory_limit(request: PlanRequest) -> float:
    if request.memory_gb is not None:
        return request.memory_gb
    if request.rate is not None and request.device not in {"cpu", *DEVICES}:
        raise ConfigError(f"the memory of {request.device!r} is not known; pass --memory in GB")
    if request.device == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return find_device(request.device).memory_gb


def _with_warnings(plan: Plan, affordable: int, wanted: float) -> Plan:
    """Add warnings where published runs, or arithmetic, speak against the plan."""
    found = []
    is_small = plan.size.name == "small"
    if not is_small and plan.batch_s < _SHORTEST_S:
        found.append(
            f"{plan.batch_s:g} s an update: the batch-size study's models learned hardly anything at 87.5 s, and well "
            f"from {_SHORTEST_S:g} s on; accumulate more"
        )
    if not is_small and plan.hours_seen < LEAST_SEEN:
        found.append(
            f"{plan.hours_seen:,.0f} h seen: published tables begin at {LEAST_SEEN:,} h, with a WER of 30 / 58 after "
            "fine-tuning on 100 h; take --size small, more days or more devices"
        )
    planning = find_method(plan.request.method).planning
    if too_few := planning.too_few_hours(plan.hours_seen, is_small=is_small):
        found.append(too_few)
    if plan.epochs > _MOST_EPOCHS:
        found.append(
            f"{plan.epochs:,.0f} epochs of {plan.request.hours:g} h: no published run saw its audio more than "
            f"{_MOST_EPOCHS} times; collect more audio, or spend fewer days, and watch the dev loss"
        )
    if plan.size.name == "large" and plan.request.hours < _LARGE_HOURS:
        found.append(f"LARGE is published on {_LARGE_HOURS} h of audio and more, here are {plan.request.hours:g} h")
    if plan.size.name == "large" and plan.hours_seen < _LARGE_SEEN:
        found.append(f"LARGE is published from {_LARGE_SEEN:,} h seen on, here are {plan.hours_seen:,.0f} h")
    if plan.size.name == "base" and plan.hours_seen > MOST_SEEN:
        found.append(f"{plan.hours_seen:,.0f} h seen are more than published BASE runs' {MOST_SEEN:,} h")
    if affordable > MOST_STEPS:
        found.append(
            f"the time is enough for {affordable:,} updates; planned are {MOST_STEPS:,}, as long as published BASE "
            f"runs, in {plan.days:.2g} days"
        )
    if plan.batch_s > wanted * 1.001:
        found.append(
            f"{plan.request.devices} devices with one utterance of {plan.size.crop_s:g} s each make {plan.batch_s:g} s "
            f"an update, more than the {wanted:g} s wanted; fewer devices see as much"
        )
    return replace(plan, warnings=tuple(found))
