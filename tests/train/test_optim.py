"""Schedules at their boundaries, and the optimiser's parameters."""

import copy

import pytest
import torch
from torch import nn

from speechssl.errors import ConfigError
from speechssl.train.optim import OptimConfig, build_optimizer, learning_rate, scale_gradients
from tests.oracles.adam import oracle_adam

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


def test_warm_up_from_zero_is_one_update_behind_and_the_same_after_it():
    one, other = OptimConfig(lr=1.0, warmup=0.1), OptimConfig(lr=1.0, warmup=0.1, warmup_from_zero=True)
    found = [learning_rate(step, 100, other) for step in range(101)]
    assert found[:10] == pytest.approx([done / 10 for done in range(10)])  # fairseq: updates done / warmup_updates
    assert found[10:] == [learning_rate(step, 100, one) for step in range(10, 101)]
    assert found[1:10] == pytest.approx([learning_rate(step, 100, one) for step in range(9)])


@pytest.mark.parametrize("warmup", [0.0, 0.05])
def test_a_warm_up_of_less_than_an_update_does_not_waste_it(warmup):
    assert learning_rate(0, 10, OptimConfig(lr=0.3, warmup=warmup, warmup_from_zero=True)) == 0.3


def test_the_three_stages_count_the_updates_done_as_fairseq_does():
    behind = OptimConfig(**{**vars(TRI_STAGE), "warmup_from_zero": True})
    assert learning_rate(0, 50, TRI_STAGE) == 0.01
    assert [learning_rate(step, 50, TRI_STAGE) for step in range(50)] == [
        learning_rate(step, 50, behind) for step in range(50)
    ]


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


RATES = [0.0, *[0.05] * 7, *[0.01] * 40]


def drive(optimizer, parameters, gradients, rates):
    """Make the updates, with None as gradient of a frozen parameter; return the weights after each."""
    found = []
    for row, rate in zip(gradients, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        for parameter, gradient in zip(parameters, row, strict=True):
            parameter.grad = None if gradient is None else torch.full_like(parameter, gradient)
        optimizer.step()
        found.append([parameter.item() for parameter in parameters])
    return found


@pytest.mark.parametrize("before_correction", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 0.5])
def test_updates_are_those_of_adam_worked_out_number_by_number(before_correction, eps):
    gradients = torch.randn(len(RATES), generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 2.0)
    config = OptimConfig(eps=eps, weight_decay=0.1, eps_before_correction=before_correction)
    found = drive(build_optimizer(model, config), [model.weight], [[gradient] for gradient in gradients], RATES)
    expected = oracle_adam(
        2.0, gradients, RATES, betas=(0.9, 0.98), eps=eps, decay=0.1, before_correction=before_correction
    )
    assert [weight for (weight,) in found] == pytest.approx(expected, rel=1e-12)


def test_the_first_update_is_smaller_with_an_epsilon_before_correction():
    steps = []
    for before in (False, True):
        model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(model.weight, 0.0)
        config = OptimConfig(eps=1e-6, weight_decay=0.0, eps_before_correction=before)
        steps.append(drive(build_optimizer(model, config), [model.weight], [[1e-4]], [1.0])[0][0])
    # fairseq: 1e-5 / (sqrt(0.02) * 1e-4 + 1e-6), times sqrt(0.02) / 0.1; torch: 1e-4 / (1e-4 + 1e-6)
    assert steps == pytest.approx([-1 / 1.01, -1 / (1 + 0.01 / 0.02**0.5)])


def test_a_parameter_that_was_frozen_counts_its_own_updates_also_after_loading():
    config = OptimConfig(eps=0.1, weight_decay=0.0, eps_before_correction=True)
    model = nn.ParameterList([nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2)])
    rows = [[1.0, None], [0.5, None], [-1.0, 2.0], [0.3, 1.0], [0.2, -1.0]]
    optimizer = build_optimizer(model, config)
    parameters = [*model.parameters()]
    first = drive(optimizer, parameters, rows[:3], [0.1] * 3)
    (group,) = optimizer.param_groups
    assert (len(group["params"]), group["eps"]) == (2, 0.1)  # as configured, and so in checkpoints
    other = copy.deepcopy(model)
    resumed = build_optimizer(other, config)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    whole = first + drive(optimizer, parameters, rows[3:], [0.1] * 2)
    assert drive(resumed, [*other.parameters()], rows[3:], [0.1] * 2) == whole[3:]
    for index, start in ((0, 0), (1, 2)):
        gradients = [row[index] for row in rows[start:]]
        settings = {"betas": (0.9, 0.98), "eps": 0.1, "decay": 0.0, "before_correction": True}
        expected = oracle_adam(0.0, gradients, [0.1] * len(gradients), **settings)
        assert [row[index] for row in whole[start:]] == pytest.approx(expected, rel=1e-12)


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
