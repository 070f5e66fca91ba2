"""Schedules at their corners, and what the optimiser is given."""

import pytest
import torch
from torch import nn

from speechssl.errors import ConfigError
from speechssl.train.optim import OptimConfig, build_optimizer, learning_rate, scale_gradients

POLYNOMIAL = OptimConfig(lr=1.0, warmup=0.1)
TRI_STAGE = OptimConfig(lr=1.0, schedule="tri_stage", warmup=0.1, hold=0.4, init_scale=0.01, final_scale=0.05)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.5), (99, 1 / 90), (100, 0.0), (130, 0.0)],
)
def test_polynomial_goes_up_and_then_down_in_straight_lines(step, expected):
    assert learning_rate(step, 100, POLYNOMIAL) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.01),
        (5, 0.505),
        (10, 1.0),
        (11, 1.0),
        (49, 1.0),
        (50, 1.0),
        (75, 0.05**0.5),
        (100, 0.05),
        (130, 0.05),
    ],
)
def test_tri_stage_goes_up_holds_and_decays_exponentially(step, expected):
    assert learning_rate(step, 100, TRI_STAGE) == pytest.approx(expected)


@pytest.mark.parametrize("config", [POLYNOMIAL, TRI_STAGE], ids=["polynomial", "tri_stage"])
def test_the_peak_scales_every_step(config):
    double = OptimConfig(**{**vars(config), "lr": 2.0})
    assert [learning_rate(step, 50, double) for step in range(50)] == pytest.approx(
        [2 * learning_rate(step, 50, config) for step in range(50)]
    )


@pytest.mark.parametrize("schedule", ["polynomial", "tri_stage"])
def test_without_warm_up_the_first_step_is_at_the_peak(schedule):
    assert learning_rate(0, 10, OptimConfig(lr=0.3, schedule=schedule, warmup=0.0)) == pytest.approx(0.3)


@pytest.mark.parametrize("schedule", ["polynomial", "tri_stage"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.08, 1.0])
def test_a_very_short_run_has_a_rate_between_0_and_the_peak_in_every_step(schedule, steps, warmup):
    config = OptimConfig(lr=0.3, schedule=schedule, warmup=warmup)
    rates = [learning_rate(step, steps, config) for step in range(steps)]
    assert all(0 < rate <= 0.3 for rate in rates)


def test_the_reference_reaches_its_peak_after_32_000_of_400_000_steps():
    rates = [learning_rate(step, 400_000, OptimConfig()) for step in (31_999, 32_000, 32_001)]
    assert rates == pytest.approx([5e-4, 5e-4, 5e-4 * (1 - 1 / 368_000)])
    assert max(rates) == pytest.approx(5e-4)


@pytest.mark.parametrize(("warmup", "hold"), [(-0.1, 0.0), (1.1, 0.0), (0.5, 0.6), (0.5, -0.1)])
def test_shares_that_do_not_fit_into_a_run_are_refused(warmup, hold):
    with pytest.raises(ConfigError, match=r"optim\.warmup and optim\.hold are shares of all steps, found"):
        OptimConfig(warmup=warmup, hold=hold)


def test_only_what_learns_is_optimised_and_all_of_it_decays():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    (group,) = build_optimizer(model, OptimConfig(lr=0.1, betas=(0.5, 0.6), eps=0.2, weight_decay=0.3)).param_groups
    assert [id(parameter) for parameter in group["params"]] == [
        id(parameter) for parameter in [*model[1].parameters(), *model[2].parameters()]
    ]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.1, (0.5, 0.6), 0.2, 0.3)


def test_one_step_is_that_of_adam_with_decoupled_decay():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, eps=1.0, weight_decay=0.5))
    model.weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1 * 3.0 / (3.0 + 1.0))


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
def test_gradients_are_scaled_and_then_limited_in_one_go(max_norm):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad / 7
    norm = scale_gradients(ours, 1 / torch.tensor(7), max_norm)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm or float("inf"))
    torch.testing.assert_close(norm, expected)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
