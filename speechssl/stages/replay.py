"""Stage `replay`: repeat a step that training skipped, to find the utterance and the module that broke it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.config import from_dict
from speechssl.data.batching import Batch, collate
from speechssl.errors import CheckpointError
from speechssl.stages.finetune import FinetuneConfig, prepare_finetuning
from speechssl.stages.pretrain import PretrainConfig, prepare_pretraining
from speechssl.stages.training import Prepared
from speechssl.text.policy import with_known_language
from speechssl.train.checkpoint import fill, load_tensors, read_config
from speechssl.train.learner import TrainConfig, seeded_context
from speechssl.train.skipped_steps import SkippedBatch, read_skipped_step

__all__ = ["Replayed", "replay"]


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """Result of a batch, or of one utterance alone."""

    name: str  # batch 0, or the id of an utterance
    loss: float  # mean over predictions
    norm: float  # norm of the gradients
    peak: float  # largest magnitude of the waveforms
    broken: str | None  # the first module with an output that is not finite


def replay(path: Path) -> Iterator[Replayed]:
    """Repeat the batches of a skipped step; if one breaks again, also each of its utterances alone.

    A batch draws the same masks and dropout as in training, with the weights and the audio of that step. The run is not
    changed.

    Args:
        path: a folder `skipped_step_*` of a run, or the run: its newest one.

    Raises:
        CheckpointError: there is no such step, or the run's data have changed.
    """
    folder = path if path.name.startswith("skipped_step_") else max(path.glob("skipped_step_*"), default=None)
    if folder is None:
        raise CheckpointError(f"{path}: the run has skipped no step")
    skipped = read_skipped_step(folder)
    prepared, config = _prepared(folder.parent)
    fill(prepared.model, load_tensors(folder / "model.safetensors"), where=str(folder))
    prepared.model.train()
    for row in skipped.batches:
        crops = [crop for batch in prepared.sampler.epoch(row.epoch)[row.index : row.index + 1] for crop in batch]
        read = (prepared.dataset.example(crop, epoch=row.epoch) for crop in crops)
        examples = [example for example in read if not isinstance(example, str)]
        if tuple(example.id for example in examples) != row.ids:
            raise CheckpointError(f"{folder.parent}: the data changed since step {skipped.step}; restore the manifests")
        whole = _run(prepared.model, collate(examples), skipped.step, row, config, name=f"batch {row.number}")
        yield whole
        if not (math.isfinite(whole.loss) and math.isfinite(whole.norm)):
            for example in examples:
                yield _run(prepared.model, collate([example]), skipped.step, row, config, name=example.id)


def _prepared(run: Path) -> tuple[Prepared, PretrainConfig | FinetuneConfig]:
    values, _ = with_known_language(read_config(run))
    if "ctc" in values:
        finetuning = from_dict(values, FinetuneConfig, where=str(run / "config.json"))
        return prepare_finetuning(finetuning), finetuning
    pretraining = from_dict(values, PretrainConfig, where=str(run / "config.json"))
    return prepare_pretraining(pretraining), pretraining


def _run(
    model: nn.Module,
    batch: Batch,
    step: int,
    row: SkippedBatch,
    config: PretrainConfig | FinetuneConfig,
    *,
    name: str,
) -> Replayed:
    model.zero_grad(set_to_none=True)
    train: TrainConfig = config.train
    with (
        _first_broken(model) as broken,
        torch.autocast("cpu", torch.bfloat16, enabled=train.bfloat16),
    ):
        loss = model(batch, seeded_context(config.seed, step, row.number))
    loss.value.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    count = max(int(loss.count), 1)
    return Replayed(
        name=name,
        loss=float(loss.value.detach()) / count,
        norm=float(nn.utils.get_total_norm(gradients)) / count,
        peak=float(batch.waveforms.abs().max()),
        broken=broken[0] if broken else None,
    )


@contextmanager
def _first_broken(model: nn.Module) -> Iterator[list[str]]:
    """Collect the names of modules whose output is not finite, innermost and earliest first."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            tensors = output if isinstance(output, (list, tuple)) else (output,)
            if any(isinstance(t, Tensor) and t.is_floating_point() and not bool(t.isfinite().all()) for t in tensors):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
