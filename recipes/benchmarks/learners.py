"""What is timed: one training step on a batch, or one forward pass, of a model whose parts are handed in.

`Learner` is the step of every peer; ours is the step of `speechssl.train.loop`, so that what we measure is what runs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from measuring import Outcome
from sizes import VOCABULARY, Size
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from speechssl.data.batching import Batch, seeded_generator
from speechssl.model.encoder import SpeechEncoder
from speechssl.objective.ctc import CTCModel
from speechssl.objective.pretraining import PretrainModel, build_objective
from speechssl.train.loop import Meter
from speechssl.train.optim import OptimConfig, build_optimizer, learning_rate

__all__ = ["Learner", "OurLearner", "Runner", "our_extractor", "our_learner", "plain_adamw"]

STEPS = 100_000  # of the run whose first steps are timed; the learning rate is still warming up


@dataclass
class Learner:
    """A peer's model with its loss, trained as all of their scripts do: scale by the count, clip, step, clear."""

    model: nn.Module
    score: Callable[[Batch], tuple[Tensor, int]]  # summed loss, and what it counts
    optimizer: torch.optim.Optimizer
    max_grad_norm: float | None

    def __call__(self, batch: Batch) -> Outcome:
        """Take one step."""
        loss, count = self.score(batch)
        loss.backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / count)
        clip_grad_norm_(self.model.parameters(), self.max_grad_norm or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(loss=loss.item() / count, predicted=count, audio_s=batch.duration_s)


@dataclass
class OurLearner:
    """Ours, with everything that `fit` does in a step but write and save."""

    model: PretrainModel | CTCModel
    optim: OptimConfig
    optimizer: torch.optim.Optimizer
    generator: torch.Generator = field(default_factory=torch.Generator)
    meter: Meter = field(default_factory=Meter)
    done: int = 0

    def __call__(self, batch: Batch) -> Outcome:
        """Take one step."""
        torch.manual_seed(seeded_generator(0, "dropout", self.done, 0).initial_seed())
        self.generator.manual_seed(seeded_generator(0, "masks", self.done, 0).initial_seed())
        rate = learning_rate(self.done, STEPS, self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.model(batch, step=self.done, generator=self.generator)
        loss.value.backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(1 / loss.count)
        norm = clip_grad_norm_(self.model.parameters(), self.optim.max_grad_norm or math.inf)
        assert bool(torch.isfinite(loss.value)) and bool(torch.isfinite(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.add(loss, norm)
        self.done += 1
        count = int(loss.count)
        return Outcome(loss=loss.value.item() / count, predicted=count, audio_s=batch.duration_s)


@dataclass
class Runner:
    """A model that runs forward only."""

    model: nn.Module
    forward: Callable[[Batch], Tensor]  # the last layer, (batch, frames, dim)

    def __call__(self, batch: Batch) -> Outcome:
        """Run once."""
        with torch.inference_mode():
            last = self.forward(batch)
        assert bool(torch.isfinite(last[0, 0]).all())
        return Outcome(loss=0.0, predicted=last.shape[0] * last.shape[1], audio_s=batch.duration_s)


def plain_adamw(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW as the peers' scripts do: torch's own, with the same numbers as ours."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = optim.lr * 0.01  # about what the warm-up gives ours
    return torch.optim.AdamW(learning, lr=rate, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)


def our_learner(size: Size, task: str) -> OurLearner:
    """Build our model for `wav2vec2`, `hubert` or `ctc`."""
    dim, conv_dim = size.encoder.transformer.dim, size.encoder.conv[-1][0]
    model: PretrainModel | CTCModel
    match task:
        case "wav2vec2":
            objective = build_objective(size.contrastive, dim=dim, conv_dim=conv_dim, clusters=())
            model = PretrainModel(SpeechEncoder(size.encoder), objective)
        case "hubert":
            objective = build_objective(size.masked_prediction, dim=dim, conv_dim=conv_dim, clusters=size.clusters)
            model = PretrainModel(SpeechEncoder(size.encoder), objective)
        case "ctc":
            model = CTCModel(SpeechEncoder(size.ctc_encoder), size.ctc, VOCABULARY)
        case _:
            raise ValueError(f"no such task: {task}")
    optim = size.ctc_optim if task == "ctc" else size.optim
    return OurLearner(model.train(), optim, build_optimizer(model, optim))


def our_extractor(size: Size) -> Runner:
    """Build our trunk for feature extraction."""
    encoder = SpeechEncoder(size.encoder).eval()
    return Runner(encoder, lambda batch: encoder(batch.waveforms, batch.num_samples).last)
