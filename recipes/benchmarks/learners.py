"""What is timed of the others: one training step on a batch, or one forward pass, of a model that is handed in."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from measuring import Outcome
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from speechssl.data.batching import Batch
from speechssl.train.optim import OptimConfig

__all__ = ["Learner", "Runner", "plain_adamw"]


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
