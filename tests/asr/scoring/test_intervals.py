"""Bootstrap and paired test: speechssl.asr.scoring.intervals."""

import numpy as np
import pytest

from speechssl.asr.scoring.intervals import Difference, Interval, compare_systems, drawn_sums, in_blocks, percentiles


def bootstrap(errors: np.ndarray, lengths: np.ndarray, *, samples: int, seed: int, level: float) -> Interval:
    """Draw for one rate alone."""
    ((_, drawn),) = drawn_sums([np.stack([errors, lengths], 1)], samples=samples, seed=seed)
    return percentiles(drawn, level)[0]


def compare(first: np.ndarray, second: np.ndarray, lengths: np.ndarray, *, samples: int, seed: int) -> Difference:
    """Compare one rate of two systems."""
    tables = [np.stack([errors, lengths], 1) for errors in (first, second)]
    drawn = dict(drawn_sums(tables, samples=samples, seed=seed))
    return compare_systems(tables[0], tables[1], (drawn[0], drawn[1]), seed=seed, level=0.95)[0]


def sums_of_draws_one_by_one(table: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Draw for a table alone, and add up the rows that each draw takes."""
    random, blocks = np.random.default_rng([seed, 0]), len(table)
    rows = []
    for _ in range(samples):
        taken = [
            row
            for row, times in enumerate(random.multinomial(blocks, np.full(blocks, 1 / blocks)))
            for _ in range(times)
        ]
        rows.append(sum(table[row] for row in taken))
    return np.array(rows)


def slow_bootstrap(errors: np.ndarray, lengths: np.ndarray, samples: int) -> tuple[float, float]:
    """Draw blocks one by one."""
    random = np.random.default_rng(99)
    rates = []
    for _ in range(samples):
        drawn = random.integers(0, len(errors), len(errors))
        rates.append(errors[drawn].sum() / lengths[drawn].sum())
    return float(np.quantile(rates, 0.025)), float(np.quantile(rates, 0.975))


@pytest.fixture
def counts() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 30, 80)
    return random.binomial(lengths, 0.2), lengths


def test_the_interval_is_that_of_drawing_one_by_one(counts: tuple[np.ndarray, np.ndarray]) -> None:
    found = bootstrap(*counts, samples=20_000, seed=0, level=0.95)
    assert (found.low, found.high) == pytest.approx(slow_bootstrap(*counts, samples=4_000), abs=0.003)


def test_the_seed_decides_the_draws(counts: tuple[np.ndarray, np.ndarray]) -> None:
    draw = [bootstrap(*counts, samples=200, seed=seed, level=0.9) for seed in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]


@pytest.mark.parametrize("at_once", [2**22, 23 * 4 * 2, 50])  # all, the sums of two tables, a draw and a table
def test_tables_that_share_draws_in_portions_have_the_sums_of_drawing_for_each(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechssl.asr.scoring.intervals._AT_ONCE", at_once)
    random = np.random.default_rng(4)
    tables = [random.integers(0, 30, (blocks, 4)) for blocks in (7, 40, 7, 1, 7, 40)]
    found = list(drawn_sums(tables, samples=23, seed=5))
    assert sorted(number for number, _ in found) == list(range(len(tables)))
    for number, drawn in found:
        assert drawn.tolist() == sums_of_draws_one_by_one(tables[number], 23, 5).tolist()


def test_draws_of_one_height_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    of_seed = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: made.append(seed) or of_seed(seed))
    list(drawn_sums([np.ones((blocks, 2), np.int64) for blocks in (5, 9, 5, 5, 9)], samples=10, seed=3))
    assert made == [[3, 0], [3, 0]]


def test_intervals_hold_the_true_rate_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    held = 0
    for trial in range(300):
        lengths = random.integers(5, 20, 60)
        found = bootstrap(random.binomial(lengths, 0.3), lengths, samples=400, seed=trial, level=0.9)
        held += found.low <= 0.3 <= found.high
    assert 0.85 <= held / 300 <= 0.94


def test_speakers_drawn_as_wholes_make_wider_intervals() -> None:
    random = np.random.default_rng(2)
    hard = np.repeat(random.uniform(0, 0.6, 20), 30)  # 20 speakers with 30 utterances each
    lengths = np.full(600, 10)
    table = np.stack([random.binomial(lengths, hard), lengths], 1)
    speakers = in_blocks(table, [str(i // 30) for i in range(600)])
    assert speakers.shape == (20, 2)
    assert speakers.sum(0).tolist() == table.sum(0).tolist()
    narrow = bootstrap(table[:, 0], table[:, 1], samples=2_000, seed=0, level=0.95)
    wide = bootstrap(speakers[:, 0], speakers[:, 1], samples=2_000, seed=0, level=0.95)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_same_system_does_not_differ(counts: tuple[np.ndarray, np.ndarray]) -> None:
    errors, lengths = counts
    found = compare(errors, errors, lengths, samples=500, seed=0)
    assert found.difference == 0
    assert found.p_value == 1
    assert (found.interval.low, found.interval.high) == (0, 0)


def test_a_better_system_is_found_and_the_sign_says_which() -> None:
    lengths = np.full(100, 10)
    worse, better = np.full(100, 4), np.full(100, 3)
    worse[::2] += 1
    found = compare(worse, better, lengths, samples=2_000, seed=0)
    assert found.difference == pytest.approx(-0.15)
    assert found.p_value == pytest.approx(1 / 2001)
    assert found.better_share == 1
    assert found.interval.low < -0.15 < found.interval.high < 0


def test_p_values_of_equal_systems_are_spread_evenly() -> None:
    random = np.random.default_rng(3)
    lengths = np.full(50, 20)
    below = 0
    for trial in range(200):
        first, second = random.binomial(lengths, 0.3), random.binomial(lengths, 0.3)
        below += compare(first, second, lengths, samples=200, seed=trial).p_value <= 0.1
    assert 0.04 <= below / 200 <= 0.17
