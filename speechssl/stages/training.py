"""The part that pretraining and fine-tuning share: a prepared run, and the call of the training loop."""

import sys
from dataclasses import dataclass
from pathlib import Path

from speechssl.data.batching import BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import load_batches
from speechssl.hub.saved import Description
from speechssl.parallel import Ranks
from speechssl.stages.reading_data import DataConfig
from speechssl.tasks.model import TaskModel
from speechssl.train.learner import TrainConfig
from speechssl.train.loop import fit
from speechssl.train.optim import OptimConfig
from speechssl.train.run import Evaluate, Run

__all__ = ["Prepared", "train"]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Model and data of a run, before its first step."""

    title: str
    model: TaskModel
    description: Description  # what is saved beside the model's parameters
    dataset: SpeechDataset
    sampler: BatchSampler
    data: DataConfig
    evaluate: Evaluate | None
    probe: Evaluate | None = None


def train(prepared: Prepared, *, out: Path, seed: int, optim: OptimConfig, config: TrainConfig, ranks: Ranks) -> Path:
    """Train, resuming if the run has begun, and return the folder of the last checkpoint."""
    if ranks.is_first:
        print(prepared.sampler.describe(), file=sys.stderr)
    run = Run(
        prepared.model,
        out=out,
        seed=seed,
        optim=optim,
        config=config,
        ranks=ranks,
        title=prepared.title,
        data=prepared.sampler.fingerprint,
        max_bad_share=prepared.data.max_bad_share,
        evaluate=prepared.evaluate,
        probe=prepared.probe,
    )
    return fit(
        run,
        lambda epoch, position: load_batches(
            prepared.dataset,
            prepared.sampler,
            epoch=epoch,
            position=position,
            workers=config.workers,
            rank=ranks.rank,
            world_size=ranks.world_size,
            loader=prepared.data.loader,
        ),
    )
