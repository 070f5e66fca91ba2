"""Bootstrap intervals of any score."""

import math

import numpy as np
import pytest

from speechssl.asr.scoring.intervals import Interval
from speechssl.downstream.bootstrap import draws, interval, interval_of


def test_whole_blocks_are_drawn():
    blocks = ["a", "b", "a", "c"]
    for indices in draws(blocks, samples=20, seed=0):
        assert sum(indices == 0) == sum(indices == 2)
        assert len({*indices.tolist()} & {0, 1, 3}) >= 1


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(1).normal(size=400)
    found = interval(lambda indices: float(values[indices].mean()), [str(i) for i in range(400)], samples=2000)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.015)
    assert found.high == pytest.approx(values.mean() + half, abs=0.015)


def test_blocks_of_equal_items_widen_the_interval_by_the_root_of_their_size():
    values = np.repeat(np.random.default_rng(2).normal(size=100), 9)
    one_by_one, by_block = (
        interval(lambda indices: float(values[indices].mean()), blocks, samples=2000)
        for blocks in ([str(i) for i in range(900)], [str(i // 9) for i in range(900)])
    )
    assert (by_block.high - by_block.low) / (one_by_one.high - one_by_one.low) == pytest.approx(3, rel=0.15)


def test_samples_without_a_score_do_not_count():
    assert interval_of([math.nan, 1.0, 1.0]) == Interval(low=1.0, high=1.0)
    assert math.isnan(interval_of([math.nan]).low)
