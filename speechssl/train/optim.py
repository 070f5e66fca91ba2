"""Optimiser and learning-rate schedules, as the reference recipes use them."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.parallel import whole
from speechssl.train.groups import parameter_groups

__all__ = ["OptimConfig", "build_optimizer", "learning_rate", "scale_gradients"]


@configuration
class OptimConfig:
    """AdamW and its schedule; the defaults are the pretraining recipe of both methods."""

    lr: float = 5e-4  # at its peak
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01  # decoupled, as in fairseq's Adam
    schedule: Literal["polynomial", "tri_stage"] = "polynomial"
    warmup: float = 0.08  # share of all steps (fairseq: 32,000 of 400,000)
    hold: float = 0.0  # share of all steps at the peak, tri_stage only
    init_scale: float = 0.01  # of the peak at step 0, tri_stage only
    final_scale: float = 0.05  # of the peak at the last step, tri_stage only
    layer_decay: float = 1.0  # learning rate of a layer, as a share of that of the layer above it; 1: all alike
    max_grad_norm: float | None = None  # None leaves gradients as they are (fairseq: clip_norm = 0)

    def __post_init__(self) -> None:
        if not (0 <= self.warmup <= 1 and 0 <= self.hold <= 1 - self.warmup):
            raise ConfigError(f"optim.warmup and optim.hold are shares of all steps, found {self.warmup}, {self.hold}")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"optim.layer_decay must lie above 0 and at most at 1, found {self.layer_decay}")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW over the parameters that learn; all of them decay, as in the reference.

    Each of its groups has an `lr_scale`, which `learning_rate` is multiplied by; see `parameter_groups`.
    """
    return torch.optim.AdamW(
        parameter_groups(model, config.layer_decay),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def scale_gradients(model: nn.Module, factor: Tensor | float, max_norm: float | None) -> Tensor:
    """Multiply all gradients by `factor`, and by less where their norm would then exceed `max_norm`.

    Gradients of which each rank holds a share count whole.

    Returns:
        () the norm after `factor`, before the limit.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = whole(get_total_norm(gradients)) * factor
    if max_norm is not None:
        factor = factor * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        own.mul_(factor)  # one pass over them, for both
    return norm


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Return the learning rate of one step.

    polynomial: linear up, then linear down to 0. tri_stage: linear up from `init_scale`, constant, then exponential
    down to `final_scale`.

    Args:
        step: from 0.
        steps: of the whole run.
        config: the schedule.
    """
    warmup, hold = config.warmup * steps, config.hold * steps
    if config.schedule == "polynomial":
        if step < warmup:
            return config.lr * (step + 1) / warmup if warmup >= 1 else config.lr
        return config.lr * max(0.0, (steps - step) / max(steps - warmup, 1))
    if step < warmup:
        return config.lr * (config.init_scale + (1 - config.init_scale) * step / warmup)
    if step < warmup + hold:
        return config.lr
    progress = min(1.0, (step - warmup - hold) / max(steps - warmup - hold, 1))
    return config.lr * config.final_scale**progress
