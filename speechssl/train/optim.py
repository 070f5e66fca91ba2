"""Optimiser and learning-rate schedules of the reference recipes."""

import math
from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.parallel import whole
from speechssl.train.groups import parameter_groups

__all__ = ["OptimConfig", "build_optimizer", "learning_rate", "scale_gradients", "set_learning_rate"]


@configuration
class OptimConfig:
    """AdamW and its schedule; the defaults are those common to the pretraining recipes of both methods."""

    lr: float = 5e-4  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    eps_before_correction: bool = False  # add eps before the moments are bias-corrected, as in fairseq
    weight_decay: float = 0.01  # decoupled, as in fairseq's Adam
    schedule: Literal["polynomial", "tri_stage"] = "polynomial"
    warmup: float = 0.08  # share of all steps (fairseq: 32,000 of 400,000)
    warmup_from_zero: bool = False  # first update at rate 0, as in fairseq, instead of one step above; polynomial only
    hold: float = 0.0  # share of all steps at the peak, tri_stage only
    init_scale: float = 0.01  # share of the peak at step 0, tri_stage only
    final_scale: float = 0.05  # share of the peak at the last step, tri_stage only
    layer_decay: float = 1.0  # factor of the learning rate from a layer to the one below it; 1: all equal
    encoder_rate: float = 1.0  # factor of the learning rate of the whole encoder; 0: it stays as it is
    max_grad_norm: float | None = None  # None: no limit (fairseq: clip_norm, 0 for wav2vec 2.0, 10 for HuBERT BASE)

    def __post_init__(self) -> None:
        if not (0 <= self.warmup <= 1 and 0 <= self.hold <= 1 - self.warmup):
            raise ConfigError(f"optim.warmup and optim.hold are shares of all steps, found {self.warmup}, {self.hold}")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"optim.layer_decay must lie above 0 and at most at 1, found {self.layer_decay}")
        if self.encoder_rate < 0:
            raise ConfigError(f"optim.encoder_rate must not be negative, found {self.encoder_rate}")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters, all with weight decay, as in the reference.

    Each group has an `lr_scale`, a factor of the `learning_rate`; see `parameter_groups`.
    """
    kind = _EarlyEpsilon if config.eps_before_correction else torch.optim.AdamW
    return kind(
        parameter_groups(model, config.layer_decay, config.encoder_rate),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def scale_gradients(model: nn.Module, factor: Tensor | float, max_norm: float | None) -> Tensor:
    """Multiply all gradients by `factor`, then clip their norm to `max_norm`.

    The norm of sharded gradients is taken over all ranks.

    Returns:
        (), the norm after scaling, before clipping.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = whole(get_total_norm(gradients)) * factor
    if max_norm is not None:
        factor = factor * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        own.mul_(factor)  # one pass for scaling and clipping
    return norm


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, config: OptimConfig) -> None:
    """Set the learning rate of every group for a step: `lr_scale` times the rate of the schedule."""
    rate = learning_rate(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Return the learning rate of one step.

    polynomial: linear up, then linear down to 0. The first step has a rate above 0, or 0 with `warmup_from_zero`, as in
    fairseq, whose schedules count completed updates. tri_stage: linear up from `init_scale` (also the rate of the first
    step in fairseq), constant, then exponential down to `final_scale`.

    Args:
        step: number of the step, from 0.
        steps: number of steps of the whole run.
        config: the schedule.
    """
    warmup, hold = config.warmup * steps, config.hold * steps
    if config.schedule == "polynomial":
        if step < warmup:
            return config.lr * (step + (not config.warmup_from_zero)) / warmup if warmup >= 1 else config.lr
        return config.lr * max(0.0, (steps - step) / max(steps - warmup, 1))
    if step < warmup:
        return config.lr * (config.init_scale + (1 - config.init_scale) * step / warmup)
    if step < warmup + hold:
        return config.lr
    progress = min(1.0, (step - warmup - hold) / max(steps - warmup - hold, 1))
    return config.lr * config.final_scale**progress


class _EarlyEpsilon(torch.optim.AdamW):
    """AdamW of fairseq 0.12.2 (optim/adam.py): `m / (sqrt(v) + eps)`, with both bias corrections in the rate.

    torch divides `m` by `sqrt(v / (1 - beta2**t)) + eps`. fairseq's form is the same with an epsilon of
    `eps / sqrt(1 - beta2**t)`: for beta2 = 0.98, 7 times as large at t = 1, and 1 % larger at t = 200. `t` counts the
    updates of each parameter, fewer if it was frozen before.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self._updates: dict[Tensor, int] = {}  # updates of each parameter, on the host to avoid synchronisations

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._updates = {parameter: int(state["step"]) for parameter, state in self.state.items()}

    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        self.param_groups = [part for group in groups for part in self._by_updates(group)]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _by_updates(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """Split a group by the number of updates of its parameters, including this one, each with its epsilon."""
        parts: dict[int, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._updates[parameter] = self._updates.get(parameter, 0) + 1
                parts[self._updates[parameter]].append(parameter)
        _, beta2 = group["betas"]
        return [
            {**group, "params": parameters, "eps": group["eps"] / math.sqrt(1 - beta2**updates)}
            for updates, parameters in parts.items()
        ]
