"""A plan as text, and as a recipe for `speechssl pretrain`."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.atomic import write_atomically
from speechssl.audio.reading import AudioConfig
from speechssl.config import to_dict
from speechssl.data.batching import BatchConfig
from speechssl.model.encoder import EncoderConfig
from speechssl.plan.costs import LARGE_REACHED, Span, error_band, labelled_errors, ten_minutes_error
from speechssl.plan.planner import Plan
from speechssl.stages.pretrain import PretrainConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.registry import find_method
from speechssl.train.learner import TrainConfig
from speechssl.train.optim import OptimConfig

__all__ = ["describe_plan", "planned_recipe", "write_recipe"]

_WIDTH = 110
_LABEL = 12  # width of the column of names
_SOURCES = (
    "batch, learning rate, WER: Vaessen and van Leeuwen, arXiv:2402.13723 and its repository's tables: wav2vec 2.0 "
    "BASE, 960 h of LibriSpeech, test-clean / test-other, no language model",
    "beyond it: wav2vec 2.0, arXiv:2006.11477; HuBERT, arXiv:2106.07447; small: recipes/README.md",
    "memory: weights, gradients and two moments in float32, and what autograd keeps, measured on CPU",
)


def describe_plan(plan: Plan) -> list[str]:
    """Return the plan as lines of text."""
    request, size = plan.request, plan.size
    memory = f"{plan.memory_limit_gb:.0f} GB"
    rows = [
        (
            "given",
            f"{request.hours:g} h of audio, {request.devices} x {request.device} ({memory}), {request.days:g} days",
        ),
        ("model", f"{size.name}, {size.parameters(request.method) / 1e6:.1f} M parameters, {request.method}"),
        (
            "throughput",
            f"{_number(plan.throughput.audio_s)} audio-seconds a second and device: {plan.throughput.source}",
        ),
        ("batch", _batch(plan)),
        ("lr", f"{plan.lr:.3g} at its peak{_about_lr(plan)}"),
        ("updates", _updates(plan)),
        ("seen", f"{plan.hours_seen:,.0f} h of audio, {plan.epochs:,.1f} epochs (padding counts, some 5 %)"),
        ("memory", f"{plan.memory_gb:.1f} of {memory} a device, estimated"),
        *(("WER", line) for line in _errors(plan)),
        *(("warning", text) for text in plan.warnings),
        *(("source", text) for text in _SOURCES),
    ]
    lines, before = [], ""
    for name, text in rows:
        wrapped = textwrap.wrap(text, _WIDTH - _LABEL)
        label = "" if name == before and name != "warning" else name
        lines += [f"{label:<{_LABEL}}{wrapped[0]}", *(" " * _LABEL + line for line in wrapped[1:])]
        before = name
    return lines


def planned_recipe(plan: Plan, *, out: Path, manifests: Sequence[Path], labels: Sequence[Path] = ()) -> PretrainConfig:
    """Return the plan as the configuration of a run.

    Args:
        plan: the plan.
        out: run folder.
        manifests: manifests of the audio.
        labels: label files, for HuBERT.
    """
    size, planned = plan.size, plan.size.planned(plan.request.method)
    return PretrainConfig(
        out=out,
        data=DataConfig(
            manifests=tuple(manifests), audio=AudioConfig(normalize=True) if size.normalize else AudioConfig()
        ),
        labels=tuple(labels),
        encoder=None if size.encoder == EncoderConfig() else size.encoder,  # None: BASE
        objective=planned.config,
        batch=BatchConfig(seconds=round(plan.seconds, 3), max_crop_s=size.crop_s, min_s=size.min_s),
        optim=OptimConfig(lr=float(f"{plan.lr:.3g}"), max_grad_norm=planned.max_grad_norm),
        train=TrainConfig(
            steps=plan.steps, accumulate=plan.accumulate, bfloat16=plan.bfloat16, workers=4 if plan.bfloat16 else 0
        ),
    )


def write_recipe(path: Path, plan: Plan) -> None:
    """Write the recipe below the plan as comments; like all recipes it holds only what differs from the defaults."""
    task = find_method(plan.request.method)
    labels = [Path("runs/plan/units/labels.tsv")] if "labels" in task.needs else []
    config = planned_recipe(plan, out=Path("runs/plan/pretrain"), manifests=[Path("pool.tsv")], labels=labels)
    lines = [f"# {line}".rstrip() for line in describe_plan(plan)]
    if task.planning.recipe_note:
        lines.append(f"# {task.planning.recipe_note.format(steps=plan.first_steps)}")
    lines.append("# Fill in your manifests, and a folder `out` with enough space.")
    for key, value in _recipe_values(config).items():
        lines.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")  # JSON is YAML
    write_atomically(path, "\n".join(lines) + "\n")


def _recipe_values(config: PretrainConfig) -> dict[str, Any]:
    objective = type(config.objective)()
    encoder = EncoderConfig() if config.encoder else None
    default = PretrainConfig(out=Path(), data=DataConfig(manifests=()), encoder=encoder, objective=objective)
    values = _differences(to_dict(config), to_dict(default))
    return values | {"objective": {"kind": config.objective.kind} | values.get("objective", {})}


def _differences(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            if inner := _differences(value, default):
                found[key] = inner
        elif value != default:
            found[key] = value
    return found


def _batch(plan: Plan) -> str:
    devices = "1 device" if plan.request.devices == 1 else f"{plan.request.devices} devices"
    parts = f"{devices} x {plan.accumulate} accumulated x {plan.seconds:.4g} s"
    return f"{plan.batch_s:,.4g} s of audio an update = {parts}, crops of {plan.size.crop_s:g} s"


def _about_lr(plan: Plan) -> str:
    match plan.size.name:
        case "small" if own := plan.size.planned(plan.request.method).lr:
            return f", that of the task, tried at {own[0]:g} s an update"
        case "small":
            return ", that of recipes/registry_pool, tried at 32 s an update"
        case "base":
            return f", {find_method(plan.request.method).planning.lr_note}"
        case _:
            return ", published for one batch, and for a smaller one less by the square root, which is an assumption"


def _updates(plan: Plan) -> str:
    text = f"{plan.steps:,} in {plan.days:.3g} days, {plan.days * 86_400 / plan.steps:.3g} s each"
    before = find_method(plan.request.method).planning.before
    return text + (f"; {before.format(steps=f'{plan.first_steps:,}')}" if before else "")


def _errors(plan: Plan) -> list[str]:
    if plan.size.name == "small":
        return ["no published table holds for a model this small; ours on small corpora: recipes/README.md"]
    if plan.size.name == "large":
        return [f"published for wav2vec 2.0 LARGE, fine-tuned on 100 h: {LARGE_REACHED}; nothing for fewer hours"]
    band = error_band(plan.hours_seen)
    if band is None:
        return ["below the published table: expect little more than from random weights (69 / 85 on 100 h)"]
    clean, other = band
    lines = [f"fine-tuned on 100 h: {_span(clean)} / {_span(other)} % (band over batch sizes at as many hours seen)"]
    rest = [f"{labels} {a:.1f} / {b:.1f}" for labels, (a, b) in labelled_errors(plan.hours_seen).items()]
    if rest:
        lines.append("on other amounts of labels: " + ", ".join(rest))
    elif few := ten_minutes_error(plan.hours_seen):
        lines.append(f"on ten labelled minutes, test-clean: {few:.0f} %")
    if note := find_method(plan.request.method).planning.errors_note:
        lines.append(note)
    lines.append("on LibriSpeech; other audio, other numbers")
    return lines


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(span: Span) -> str:
    low, high = (f"{value:.1f}" for value in span)
    return low if low == high else f"{low} to {high}"
