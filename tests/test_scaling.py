"""The page about scaling: its tables are those the script prints, and the arithmetic is right in cases done by hand."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "recipes" / "scaling"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "tables", raising=False)
    return importlib.import_module("tables")


def test_the_page_holds_the_tables_that_the_script_prints(script):
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.place(page, script.tables()) == page
    assert "\nx\n" not in page


def test_a_table_without_its_place_is_an_error(script):
    with pytest.raises(ValueError, match="0 places for the table steps"):
        script.place("nothing here", {"steps": "| x |"})


def test_a_step_of_eight_devices_is_worked_out_by_hand(script):
    # BASE: 700 s x 44.62 GFLOP at 98.9 TFLOP/s; 7/8 x 8 x 95.0446 MB at 300 GB/s and 16 buckets of 6 hops of 5 us
    step = script.step_of("base", 8, 0.10, "400 Gb/s a device")
    assert step.compute_s == pytest.approx(700 * 44.62e9 / 98.9e12, rel=1e-3)
    assert step.bytes_sent == pytest.approx(2 * 7 / 8 * 4 * 95_044_608)
    assert step.exchange_s == pytest.approx(step.bytes_sent / 300e9 + 16 * 6 * 5e-6)
    assert step.shown_s == pytest.approx(step.exchange_s / 16)  # all but the last bucket is hidden


def test_what_does_not_hide_behind_the_backward_pass_is_shown(script):
    step = script.step_of("base", 64, 0.30, "100 Gb/s a node")
    assert step.exchange_s > step.compute_s
    assert step.shown_s == pytest.approx(step.exchange_s - step.compute_s * 2 / 3)
    assert step.efficiency == pytest.approx(step.compute_s / (step.compute_s / 3 + step.exchange_s))


def test_no_device_gets_less_than_a_crop(script):
    assert script.step_of("base", 1024, 0.1, "400 Gb/s a device").audio_s == 15.625
    assert script.step_of("base", 64, 0.1, "400 Gb/s a device").audio_s == 87.5


def test_the_best_interval_loses_least(script):
    # 10 s to write, a failure every 50,000 s: Young's interval is 1,000 s
    best = script.lost(1000, 10, 50_000)
    assert best == pytest.approx(0.01 + (500 + 120) / 50_000)
    assert best < script.lost(500, 10, 50_000)
    assert best < script.lost(2000, 10, 50_000)
