"""What follows the weights without a gradient: a teacher is updated after every step that was taken, and resumed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from speechssl.data.batching import Batch, Example, collate
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded, EncoderConfig, SpeechEncoder
from speechssl.parallel import Ranks
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import Objective, PretrainModel
from speechssl.train.checkpoint import load_tensors
from speechssl.train.learner import TrainConfig
from speechssl.train.loop import fit
from speechssl.train.optim import OptimConfig
from speechssl.train.run import Run
from speechssl.train.runlog import LogConfig
from tests.model.tiny import noise

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


class Following(Objective):
    """The squared output; half of what the projection's weight lacks is added to the teacher after each step."""

    def __init__(self, dim: int, conv_dim: int, broken_step: int) -> None:
        super().__init__()
        self.head, self.broken_step = nn.Linear(dim, 1), broken_step
        self.register_buffer("teacher", torch.zeros(dim, conv_dim))
        self.steps: list[int] = []

    def draw_masks(self, counts: Tensor, size: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(len(counts), size, dtype=torch.bool)

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        value = self.head(encoded.last).square().sum() * (float("nan") if context.step == self.broken_step else 1)
        return LossSum(value=value, count=torch.tensor(encoded.last[..., 0].numel()), parts={})

    @torch.no_grad()
    def after_step(self, encoder: SpeechEncoder, step: int) -> None:
        self.steps.append(step)
        self.teacher += (encoder.project.weight - self.teacher) / 2


def train(out: Path, encoder: EncoderConfig, *, stop_at: int = 9, broken_step: int = -1) -> Following:
    torch.manual_seed(0)
    model = PretrainModel(SpeechEncoder(encoder), Following(encoder.transformer.dim, encoder.conv[-1][0], broken_step))

    def batches_from(epoch: int, position: int) -> Iterator[tuple[int, int, Batch]]:
        for number in range(position, 9):
            if number == stop_at:
                raise KeyboardInterrupt
            yield 0, number + 1, collate([Example(id=str(number), waveform=noise(1, 2000, seed=number)[0])])

    config = TrainConfig(steps=4, save_every=1, log_every=1, log=LogConfig(tensorboard=False))
    run = Run(model, out=out, optim=OptimConfig(lr=1e-2, warmup=0.0), config=config, ranks=ALONE)
    fit(run, batches_from)
    return model.objective


def test_a_teacher_follows_every_step_and_an_interrupted_run_ends_alike(tmp_path, tiny_encoder) -> None:
    straight = train(tmp_path / "straight", tiny_encoder)
    assert straight.steps == [1, 2, 3, 4]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "halves", tiny_encoder, stop_at=2)
    resumed = train(tmp_path / "halves", tiny_encoder)
    assert resumed.steps == [3, 4]
    assert torch.equal(resumed.teacher, straight.teacher)
    saved = load_tensors(tmp_path / "halves/step_00000004/model.safetensors")
    assert torch.equal(saved["objective.teacher"], straight.teacher)


def test_a_skipped_step_moves_no_teacher(tmp_path, tiny_encoder) -> None:
    assert train(tmp_path / "run", tiny_encoder, broken_step=1).steps == [1, 3, 4]
