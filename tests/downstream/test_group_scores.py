"""Scores by group, and the gap between groups with its interval and what chance makes of it."""

import json
import math

import numpy as np
import pytest

from speechssl.downstream.group_scores import Ratio, gap_line, score_groups


def ones(hits: np.ndarray) -> Ratio:
    return Ratio(hits.astype(float), np.ones(len(hits)))


def own(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def test_each_group_is_scored_and_the_worst_named():
    errors, totals = np.array([1.0, 2, 0, 1, 3, 3]), np.array([10.0, 20, 5, 5, 6, 4])
    found = score_groups(Ratio(errors, totals), list("aabbcc"), own(6), higher_is_better=False, samples=50, fewest=2)
    assert [(each.name, each.score, each.items) for each in found.groups] == [
        ("a", 0.1, 2),
        ("b", 0.1, 2),
        ("c", 0.6, 2),
    ]
    assert found.gap is not None
    assert (found.gap.worst, found.gap.gap) == ("c", 0.5)
    assert found.gap.behind == pytest.approx(0.6 - 4 / 40)
    assert found.gap.spread == pytest.approx(np.std([0.1, 0.1, 0.6]))


def test_where_higher_is_better_the_gap_is_below_zero():
    hits = np.r_[np.ones(30), np.zeros(10), np.ones(20), np.zeros(20)]
    found = score_groups(ones(hits), ["a"] * 40 + ["b"] * 40, own(80), higher_is_better=True)
    assert found.gap is not None
    assert (found.gap.worst, found.gap.best, found.gap.gap) == ("b", "a", -0.25)
    assert found.gap.interval.low < -0.25 < found.gap.interval.high < 0
    assert found.gap.expected < 0


def test_the_interval_of_the_gap_is_that_of_the_normal_law():
    random = np.random.default_rng(0)
    values = np.r_[random.normal(1, 1, 300), random.normal(0, 2, 500)]
    found = score_groups(ones(values), ["a"] * 300 + ["b"] * 500, own(800), higher_is_better=False, samples=4000)
    assert found.gap is not None
    half = 1.96 * math.sqrt(values[:300].var() / 300 + values[300:].var() / 500)
    assert found.gap.interval.low == pytest.approx(found.gap.gap - half, abs=0.02)
    assert found.gap.interval.high == pytest.approx(found.gap.gap + half, abs=0.02)


def test_any_score_gives_what_its_ratio_gives():
    hits = np.random.default_rng(1).integers(0, 2, 60)
    groups, blocks = ["abc"[i % 3] for i in range(60)], [f"s{i // 4}" for i in range(60)]
    fast, slow = (
        score_groups(score, groups, blocks, higher_is_better=True, samples=3000)
        for score in (ones(hits), lambda indices: float(hits[indices].mean()))
    )
    assert fast.gap is not None
    assert slow.gap is not None
    assert (fast.gap.gap, fast.gap.worst, fast.gap.behind) == (slow.gap.gap, slow.gap.worst, slow.gap.behind)
    for name in ("interval", "behind_interval"):
        one, other = getattr(fast.gap, name), getattr(slow.gap, name)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.04)
    assert fast.gap.p_value == slow.gap.p_value  # the same permutations
    assert fast.gap.expected == pytest.approx(slow.gap.expected)


def test_blocks_of_equal_items_widen_the_interval():
    values = np.repeat(np.random.default_rng(2).normal(size=80), 9)
    groups = ["ab"[i // 9 % 2] for i in range(720)]
    one_by_one, by_block = (
        score_groups(ones(values), groups, blocks, higher_is_better=False).gap
        for blocks in (own(720), [str(i // 9) for i in range(720)])
    )
    assert one_by_one is not None
    assert by_block is not None
    widths = [each.interval.high - each.interval.low for each in (one_by_one, by_block)]
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.2)
    assert by_block.p_value > one_by_one.p_value


def test_many_equal_groups_differ_as_much_as_expected():
    """Under equal groups p-values are uniform, though the gap itself is far from zero."""
    p_values, gaps, expected = [], [], []
    for seed in range(120):
        values = np.random.default_rng(seed).normal(size=300)  # no ties, with which p-values are too large
        found = score_groups(
            ones(values), [f"g{i % 12}" for i in range(300)], own(300), higher_is_better=True, samples=99
        )
        assert found.gap is not None
        p_values.append(found.gap.p_value)
        gaps.append(found.gap.gap)
        expected.append(found.gap.expected)
    assert np.mean(gaps) == pytest.approx(np.mean(expected), abs=0.03)
    assert np.mean(gaps) < -0.5
    assert np.mean(np.array(p_values) <= 0.2) == pytest.approx(0.2, abs=0.1)


def test_a_real_gap_is_found_among_many_groups():
    random = np.random.default_rng(3)
    groups = [f"g{i % 12}" for i in range(1200)]
    hits = random.random(1200) < np.array([0.5 if group == "g7" else 0.9 for group in groups])
    gap = score_groups(ones(hits), groups, own(1200), higher_is_better=True, samples=999).gap
    assert gap is not None
    assert (gap.worst, gap.p_value) == ("g7", 0.001)


def test_small_groups_and_items_without_a_group_are_reported_but_not_ranked():
    hits = np.r_[np.ones(10), np.zeros(10), np.zeros(3), np.zeros(12)]
    groups = ["a"] * 10 + ["b"] * 10 + ["few"] * 3 + ["unknown"] * 12
    found = score_groups(ones(hits), groups, own(35), higher_is_better=True)
    assert {each.name: each.is_ranked for each in found.groups} == {
        "a": True,
        "b": True,
        "few": False,
        "unknown": False,
    }
    assert found.gap is not None
    assert found.gap.worst == "b"
    assert found.notes == [
        "not ranked, as they have fewer than 10 items: few",
        "not ranked, as they have no group: 12 items",
    ]


def test_a_single_group_has_no_gap():
    found = score_groups(ones(np.ones(20)), ["a"] * 20, own(20), higher_is_better=True)
    assert found.gap is None
    assert found.notes == ["no gap: fewer than two groups are ranked"]


def test_groups_of_a_block_each_have_a_gap_without_interval_or_test():
    hits = np.r_[np.ones(20), np.zeros(20)]
    found = score_groups(ones(hits), ["a"] * 20 + ["b"] * 20, ["a"] * 20 + ["b"] * 20, higher_is_better=True)
    assert found.gap is not None
    assert math.isnan(found.gap.interval.low)
    assert math.isnan(found.gap.p_value)
    assert "[no interval]" in gap_line("accuracy", found.gap)
    assert "without interval, as they are one block of the bootstrap: a, b" in found.notes
    stored = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert stored["gap"]["interval"] == {"low": None, "high": None}


def test_a_score_that_a_group_does_not_have_is_not_ranked():
    counts, totals = np.ones(30), np.r_[np.ones(20), np.zeros(10)]
    found = score_groups(Ratio(counts, totals), ["a"] * 10 + ["b"] * 10 + ["c"] * 10, own(30), higher_is_better=True)
    assert [each.is_ranked for each in found.groups] == [True, True, False]
