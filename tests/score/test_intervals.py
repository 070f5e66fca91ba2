"""Bootstrap and paired test: speechssl.score.intervals."""

import numpy as np
import pytest

from speechssl.score.intervals import bootstrap, compare_systems, in_blocks


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


def test_portions_of_draws_change_nothing_but_the_draws(
    counts: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bootstrap(*counts, samples=5_000, seed=0, level=0.95)
    monkeypatch.setattr("speechssl.score.intervals._AT_ONCE", 80 * 7)
    parts = bootstrap(*counts, samples=5_000, seed=0, level=0.95)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.004)


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
    found = compare_systems(errors, errors, lengths, samples=500, seed=0, level=0.95)
    assert found.difference == 0
    assert found.p_value == 1
    assert (found.interval.low, found.interval.high) == (0, 0)


def test_a_better_system_is_found_and_the_sign_says_which() -> None:
    lengths = np.full(100, 10)
    worse, better = np.full(100, 4), np.full(100, 3)
    worse[::2] += 1
    found = compare_systems(worse, better, lengths, samples=2_000, seed=0, level=0.95)
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
        below += compare_systems(first, second, lengths, samples=200, seed=trial, level=0.95).p_value <= 0.1
    assert 0.04 <= below / 200 <= 0.17
