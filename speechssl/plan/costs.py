"""Costs of the model sizes and results of published runs: the tables behind `speechssl plan`.

Nothing here was measured on an accelerator. Peak rates come from spec sheets, utilisation is an assumption that every
plan states, and word error rates are published ones on LibriSpeech. Sources are given beside the numbers:

[batch]     Vaessen and van Leeuwen, arXiv:2402.13723, github.com/nikvaessen/w2v2-batch-size: readme.md (learning
            rates), plot/ft_asr_against_steps/table.csv, plot/ft_asr/table.csv and the curve of ten labelled minutes
            (error rates)
[wav2vec2]  arXiv:2006.11477 and fairseq examples/wav2vec/config/pretraining
[hubert]    arXiv:2106.07447 and fairseq examples/hubert/config/pretrain
[ours]      recipes/README.md and recipes/benchmarks/README.md
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.frames import frame_count
from speechssl.tasks.flops import masked_share, trunk_products
from speechssl.tasks.registry import find_method, task_of
from speechssl.tasks.task import Planned, SizeName, TaskConfig
from speechssl.tasks.visible import VisibleConfig, decoder_products

__all__ = [
    "CONTEXT_GB",
    "DEVICES",
    "LARGE_REACHED",
    "LEAST_SEEN",
    "MOST_SEEN",
    "SIZES",
    "UTILISATION",
    "Device",
    "ModelSize",
    "Span",
    "error_band",
    "find_device",
    "interpolate",
    "labelled_errors",
    "memory_gb",
    "peak_lr",
    "pretraining_flops",
    "ten_minutes_error",
]

Precision = Literal["float32", "bfloat16"]
Span = tuple[float, float]

CONTEXT_GB = 2.0  # accelerator memory taken by its runtime and a fragmented allocator: assumed
IMPORTS_GB = 0.5  # memory of a CPU process before the model is built


@dataclass(frozen=True, kw_only=True)
class Device:
    """An accelerator as its spec sheet describes it, with dense rates."""

    peak_tflops: float  # bfloat16 products with float32 sums
    memory_gb: float
    source: str


DEVICES = {
    "a100": Device(peak_tflops=312, memory_gb=80, source="NVIDIA A100 data sheet, SXM, 80 GB"),
    "h100": Device(peak_tflops=989, memory_gb=80, source="NVIDIA H100 data sheet, SXM: 1,979 with sparsity"),
    "h200": Device(peak_tflops=989, memory_gb=141, source="NVIDIA H200 data sheet, SXM: 1,979 with sparsity"),
    "l4": Device(peak_tflops=121, memory_gb=24, source="NVIDIA L4 data sheet: 242 with sparsity"),
    "rtx3090": Device(peak_tflops=71, memory_gb=24, source="NVIDIA GA102 white paper"),
    "rtx4090": Device(peak_tflops=165, memory_gb=24, source="NVIDIA Ada white paper"),
}
UTILISATION = 0.10  # share of the peak; wav2vec 2.0 BASE: 640,000 h in 1.6 days on 64 V100, 9 % of 125 TFLOP/s


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A model size with the batch sizes known to work for it; `Task.planning` has the rest."""

    name: SizeName
    encoder: EncoderConfig
    normalize: bool
    crop_s: float
    min_s: float
    batches_s: tuple[float, ...]  # seconds of audio per update in published runs, or in ours
    kept_mb: dict[Precision, float]  # MB kept for the backward pass per second of audio, at `crop_s`
    temporaries: float  # peak memory relative to what is kept, from training steps [ours]

    def planned(self, method: str) -> Planned:
        """Return a method's settings at this size; its default settings if it has none for the size.

        Raises:
            ConfigError: the method is not known.
        """
        task = find_method(method)
        default = Planned(config=task.config_type(), clusters=(500,) if "labels" in task.needs else ())
        return task.planning.sizes.get(self.name, default)

    def flops(self, method: str) -> float:
        """Count the operations of a step per second of audio, in crops of full length."""
        samples, planned = int(self.crop_s * SAMPLE_RATE), self.planned(method)
        whole = pretraining_flops(self.encoder, planned.config, clusters=planned.clusters, samples=samples)
        return whole / self.crop_s

    def cpu_audio_s(self, method: str) -> float:
        """Return audio-seconds per second on one core: measured here [ours], or estimated from operations."""
        return self.planned(method).cpu_audio_s or _BASE_RATE / self.flops(method)

    def parameters(self, method: str, *, learns: bool = True) -> int:
        """Count the parameters that learn, heads included; or those that do not, such as a teacher's."""
        planned = self.planned(method)
        return _count_parameters(self.encoder, planned.config, planned.clusters, learns)


def pretraining_flops(
    encoder: EncoderConfig, objective: TaskConfig, *, clusters: Sequence[int], samples: int, utterances: int = 1
) -> float:
    """Return the operations of a pretraining step for one utterance with the average number of masked frames.

    Args:
        encoder: configuration of the trunk.
        objective: configuration of a pretraining task.
        clusters: number of units of each label stream; empty for a task without labels.
        samples: samples in the utterance, at 16 kHz.
        utterances: number of equally long utterances in the batch; with `mask.same_count` the one with the fewest
            masked frames counts.
    """
    frames = frame_count(samples, encoder.stack)
    head = task_of(objective).products(objective, encoder, clusters, frames=frames, utterances=utterances)
    visible: VisibleConfig | None = getattr(objective, "visible", None)
    if visible is None:
        return sum(product.flops for product in [*trunk_products(encoder, 1, samples), *head])
    share = 1 - masked_share(objective.mask, frames=frames, utterances=utterances)  # type: ignore[attr-defined]
    trunk = trunk_products(encoder, 1, samples, masks=visible.masks, visible=share)
    return sum(product.flops for product in [*trunk, *head, *decoder_products(visible, encoder, frames)])


_BASE_RATE = 88e9  # operations per second on one core: wav2vec 2.0 BASE, 20 s in 4.74 s on two cores [ours]
SIZES: dict[SizeName, ModelSize] = {
    "small": ModelSize(  # recipes/registry_pool
        name="small",
        encoder=EncoderConfig.small(),
        normalize=False,
        crop_s=4.0,
        min_s=0.5,
        batches_s=(32,),
        kept_mb={"float32": 3.75, "bfloat16": 2.19},
        temporaries=2.6,
    ),
    "base": ModelSize(
        name="base",
        encoder=EncoderConfig.base(),
        normalize=False,
        crop_s=15.625,
        min_s=2.0,
        batches_s=(150, 300, 600, 1200, 2400, 5600),  # [batch], and 64 x 87.5 s [wav2vec2]
        kept_mb={"float32": 92.2, "bfloat16": 29.7},
        temporaries=1.25,
    ),
    "large": ModelSize(
        name="large",
        encoder=EncoderConfig.large(),
        normalize=True,
        crop_s=15.625,
        min_s=2.0,
        batches_s=(600, 1200, 2400, 5600, 9600),  # 128 x 75 s [wav2vec2]; the smaller ones are those of BASE
        kept_mb={"float32": 189.2, "bfloat16": 72.9},
        temporaries=1.25,  # value of BASE; LARGE was not measured
    ),
}


@cache
def _count_parameters(encoder: EncoderConfig, objective: TaskConfig, clusters: tuple[int, ...], learns: bool) -> int:
    task = task_of(objective)
    with torch.device("meta"):
        model = task.build(objective, SpeechEncoder(encoder), task.planned_sizes(clusters))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad == learns)


def memory_gb(size: ModelSize, method: str, seconds: float, *, bfloat16: bool, on_cpu: bool) -> float:
    """Estimate the peak memory of one rank: weights, gradients, two moments, and activations for the backward pass.

    Args:
        size: size of the model.
        method: name of the pretraining method.
        seconds: seconds of audio in a micro-batch, padding counted.
        bfloat16: whether matrix products use bfloat16; weights and moments stay float32.
        on_cpu: whether the device is the CPU, where attention keeps its weights for the backward pass.
    """
    fixed = size.parameters(method) * (16 + 2 * bfloat16)  # autocast keeps a copy of the weights
    fixed += size.parameters(method, learns=False) * (4 + 2 * bfloat16)
    kept = size.kept_mb["bfloat16" if bfloat16 else "float32"] * 1e6 * seconds
    return (fixed + size.temporaries * kept) / 1e9 + (IMPORTS_GB if on_cpu else CONTEXT_GB)


# ---- learning rate ----

_BASE_LR = (  # (seconds per update, best of three learning rates) [batch]; grows with the square root up to 20 min
    (87.5, 7.29e-6),
    (150, 7.91e-5),
    (300, 1.12e-4),
    (600, 1.58e-4),
    (1200, 2.24e-4),
    (2400, 5e-4),
    (4800, 5e-4),
)


_SMALL_LR: Span = (32, 2e-3)  # recipes/registry_pool
_LARGE_LR: Span = (9600, 3e-4)  # that of wav2vec 2.0 LARGE, for methods without a published one [wav2vec2]


def peak_lr(size: ModelSize, method: str, batch_s: float) -> float:
    """Return the peak learning rate for the given seconds of audio per update.

    BASE: the best of the batch-size study, interpolated on logarithmic axes. LARGE: the published one, scaled down with
    the square root of the batch, as the study found for BASE. Small: that of our recipes, or the task's, for every
    batch.
    """
    match size.name:
        case "small":
            return (size.planned(method).lr or _SMALL_LR)[1]
        case "base":
            seconds, rates = zip(*_BASE_LR, strict=True)
            return interpolate(seconds, rates, batch_s)
        case "large":
            published_s, rate = size.planned(method).lr or _LARGE_LR
            return rate * math.sqrt(min(1.0, batch_s / published_s))


# ---- what published runs reached ----

# Hours of audio seen -> WER in percent after fine-tuning on 100 h, no language model, LibriSpeech test-clean and
# test-other: the least and the most over batch sizes of 150 s to 80 min. wav2vec 2.0 BASE on 960 h. [batch]
_SEEN: tuple[tuple[float, Span, Span], ...] = (
    (4170, (29.79, 30.25), (57.52, 58.14)),
    (8330, (22.35, 22.98), (49.56, 50.57)),
    (12_500, (19.23, 19.27), (44.77, 45.25)),
    (16_700, (16.49, 16.89), (40.18, 41.17)),
    (25_000, (13.97, 14.21), (35.50, 35.51)),
    (33_300, (10.94, 12.46), (27.53, 31.49)),
    (50_000, (10.21, 10.47), (25.99, 26.55)),
    (66_700, (8.63, 9.29), (21.26, 23.97)),
    (100_000, (7.63, 8.09), (18.67, 20.75)),
    (133_000, (7.11, 7.40), (17.25, 19.04)),
    (200_000, (6.58, 6.58), (15.74, 16.70)),
    (267_000, (6.26, 6.27), (15.10, 15.85)),
    (640_000, (6.1, 6.1), (13.3, 13.3)),  # the paper's own run [wav2vec2]
)
LEAST_SEEN, MOST_SEEN = _SEEN[0][0], _SEEN[-1][0]

# WER, test-clean and test-other, by labels to fine-tune on and hours seen, no language model. [batch]
_LABELLED_SEEN = (16_700, 33_300, 66_700, 133_000, 267_000)
LABELLED: dict[str, tuple[Span, ...]] = {
    "10 min": ((72.1, 82.0), (61.3, 71.1), (50.4, 59.5), (47.0, 54.7), (45.4, 52.1)),
    "1 h": ((53.3, 68.4), (39.0, 53.6), (28.8, 41.5), (25.1, 35.2), (23.3, 31.8)),
    "10 h": ((34.5, 54.4), (23.2, 40.2), (16.3, 29.5), (13.3, 23.8), (11.1, 19.8)),
    "960 h": ((7.1, 19.6), (6.0, 16.8), (5.3, 13.9), (4.4, 12.5), (4.1, 10.6)),
}
# Hours of audio seen -> WER in percent on test-clean after fine-tuning on ten labelled minutes, no language model:
# wav2vec 2.0 BASE on 960 h. Random weights: 129. [batch]
_TEN_MINUTES: tuple[tuple[float, float], ...] = (
    (2100, 103),
    (4170, 99),
    (8330, 89),
    (12_500, 81),
    (16_700, 72),
    (25_000, 64),
    (33_300, 60),
    (66_700, 51),
    (133_000, 46),
    (267_000, 44),  # 42 to 46 over batch sizes
)
LARGE_REACHED = "4.7 / 9.0 after 675,000 h of LibriSpeech, 3.1 / 6.3 after 1.6 million h of Libri-Light"  # [wav2vec2]


def error_band(hours_seen: float) -> tuple[Span, Span] | None:
    """Return the band of WER on test-clean and test-other that published runs reached after `hours_seen`.

    Returns:
        The lowest and highest WER in percent for each; None below the hours of any published run. Hours beyond the
        longest published run count as those of that run.
    """
    if hours_seen < LEAST_SEEN:
        return None
    hours, clean, other = zip(*_SEEN, strict=True)
    return _at(hours, clean, hours_seen), _at(hours, other, hours_seen)


def _at(hours: Sequence[float], spans: Sequence[Span], hours_seen: float) -> Span:
    low, high = (interpolate(hours, ends, hours_seen) for ends in zip(*spans, strict=True))
    return low, high


def labelled_errors(hours_seen: float) -> dict[str, Span]:
    """Return WER on test-clean and test-other by amount of labels; empty below the hours of published runs."""
    if hours_seen < _LABELLED_SEEN[0]:
        return {}
    found: dict[str, Span] = {}
    for labels, rows in LABELLED.items():
        clean, other = (interpolate(_LABELLED_SEEN, column, hours_seen) for column in zip(*rows, strict=True))
        found[labels] = (clean, other)
    return found


def ten_minutes_error(hours_seen: float) -> float | None:
    """Return WER in percent on test-clean after fine-tuning wav2vec 2.0 BASE on ten labelled minutes.

    Returns:
        The value of the published curve after `hours_seen`; None before its first point. Hours beyond its last point
        count as those of that point.
    """
    if hours_seen < _TEN_MINUTES[0][0]:
        return None
    hours, errors = zip(*_TEN_MINUTES, strict=True)
    return interpolate(hours, errors, hours_seen)


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Interpolate between points on logarithmic axes; beyond the ends the end values hold.

    Examples:
        >>> interpolate([1, 100], [2, 8], 10)
        4.0
    """
    if x <= xs[0]:
        return ys[0]
    for (x0, y0), (x1, y1) in zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False):
        if x <= x1:
            return y0 * (y1 / y0) ** (math.log(x / x0) / math.log(x1 / x0))
    return ys[-1]


def find_device(name: str) -> Device:
    """Return a device by name.

    Raises:
        ConfigError: no spec sheet of the device is listed here.
    """
    if name not in DEVICES:
        raise ConfigError(
            f"device {name!r} is not known, only cpu, {', '.join(DEVICES)}; pass --rate with the audio-seconds a "
            "second that one such device trains on, or run there with --measure"
        )
    return DEVICES[name]
