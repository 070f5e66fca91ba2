"""Averages and tallies between two reports: speechssl.train.meter."""

import json

import pytest
import torch

from speechssl.parallel import Ranks
from speechssl.tasks.metrics import report_metrics
from speechssl.train.meter import Meter

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
SECOND = Ranks(rank=1, world_size=1, device=torch.device("cpu"))
STEPS = [
    ({"a": torch.tensor(3.0), "loss": torch.tensor(1.0)}, {"a": 2, "loss": 1}, {"codes": torch.tensor([[1.0, 0, 0]])}),
    ({"a": torch.tensor(5.0), "b": torch.tensor(9.0)}, {"a": 2, "b": 1}, {"codes": torch.tensor([[0.0, 1, 0]])}),
    ({"a": torch.tensor(0.0)}, {"a": 0}, {}),
]


def test_metrics_are_averaged_over_their_values_and_tallies_looked_at_as_a_whole() -> None:
    meter = Meter(ALONE)
    for step in STEPS:
        meter.add(*step)
    expected = {name: value.item() for name, value in report_metrics({"codes": torch.tensor([[1.0, 1, 0]])}).items()}
    report = meter.report()
    assert report == {"loss": 1.0, "a": 2.0, "b": 9.0} | expected
    assert next(iter(report)) == "loss"
    assert report["codes_used"] == pytest.approx(2 / 3)
    assert meter.report() == {}


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_restored_meter_reports_like_one_that_went_on(stop: int) -> None:
    meter, straight = Meter(ALONE), Meter(ALONE)
    for step in STEPS[:stop]:
        meter.add(*step)
    state = json.loads(json.dumps(meter.state()))
    meter = Meter(ALONE)
    meter.restore(state)
    for step in STEPS[stop:]:
        meter.add(*step)
    for step in STEPS:
        straight.add(*step)
    assert meter.report() == straight.report()


def test_only_the_first_rank_goes_on_from_what_was_summed_over_all() -> None:
    meter = Meter(ALONE)
    meter.add(*STEPS[0])
    other = Meter(SECOND)
    other.restore(meter.state())
    assert {name: value.tolist() for name, value in (other.totals | other.tallies).items()} == {
        "a": 0.0,
        "loss": 0.0,
        "codes": [[0.0, 0.0, 0.0]],
    }
    assert set(other.counts.values()) == {0}


def test_the_state_does_not_change_what_is_reported() -> None:
    meter = Meter(ALONE)
    meter.add(*STEPS[0])
    assert meter.state() == meter.state()
    assert meter.report()["a"] == 1.5
