"""What a training stage prepares, and how it is trained: the part that pretraining and fine-tuning share."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from speechssl.data.batching import BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import load_batches
from speechssl.objective.ctc import CTCModel
from speechssl.objective.pretraining import PretrainModel
from speechssl.parallel import Ranks
from speechssl.saved import Description
from speechssl.stages.data import DataConfig
from speechssl.train.loop import TrainConfig, fit
from speechssl.train.optim import OptimConfig

__all__ = ["Task", "train"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Model and data of a run, before its first step."""

    title: str
    model: PretrainModel | CTCModel
    description: Description  # of the model
    dataset: SpeechDataset
    sampler: BatchSampler
    data: DataConfig
    evaluate: Callable[[nn.Module], dict[str, float]] | None
    probe: Callable[[nn.Module], dict[str, float]] | None = None


def train(task: Task, *, out: Path, seed: int, optim: OptimConfig, config: TrainConfig, ranks: Ranks) -> Path:
    """Train, or go on, and return the folder of the last checkpoint."""
    if ranks.is_first:
        print(task.sampler.describe(), file=sys.stderr)
    return fit(
        task.model,
        lambda epoch, position: load_batches(
            task.dataset,
            task.sampler,
            epoch=epoch,
            position=position,
            workers=config.workers,
            rank=ranks.rank,
            world_size=ranks.world_size,
            loader=task.data.loader,
        ),
        out=out,
        seed=seed,
        optim=optim,
        config=config,
        ranks=ranks,
        title=task.title,
        data=task.sampler.fingerprint,
        max_bad_share=task.data.max_bad_share,
        evaluate=task.evaluate,
        probe=task.probe,
    )
