"""EER and minDCF against slow definitions, and scikit-learn's ROC."""

from fractions import Fraction

import numpy as np
import pytest

from speechssl.downstream.error_rates import SortedTrials, equal_error_rate, min_dcf
from speechssl.errors import ManifestError
from tests.oracles.detection import slow_eer, slow_min_dcf


def random_trials(seed):
    """Draw up to 60 trials; most sets have many ties."""
    generator = np.random.default_rng(seed)
    number = int(generator.integers(2, 60))
    is_target = generator.random(number) < generator.uniform(0.05, 0.95)
    is_target[:2] = True, False
    levels = int(generator.choice([1, 2, 4, 10, 1000]))
    scores = np.round(generator.normal(is_target * generator.uniform(-1, 3), 1) * levels) / levels
    return scores, is_target


@pytest.mark.parametrize("seed", range(200))
def test_error_rates_are_those_of_the_definitions(seed):
    scores, is_target = random_trials(seed)
    curve = SortedTrials(scores, is_target).curve()
    lists = scores.tolist(), is_target.tolist()
    assert equal_error_rate(curve) == pytest.approx(float(slow_eer(*lists)), abs=1e-12)
    for p_target, c_miss, c_false_alarm in ((0.01, 1, 1), (0.05, 1, 1), (0.5, 10, 1), (0.9, 1, 3)):
        found = min_dcf(curve, p_target, c_miss=c_miss, c_false_alarm=c_false_alarm)
        wanted = slow_min_dcf(*lists, Fraction(p_target), Fraction(c_miss), Fraction(c_false_alarm))
        assert found == pytest.approx(float(wanted), abs=1e-12)
        assert 0 <= found <= 1


@pytest.mark.parametrize("seed", range(200))
def test_error_rates_are_those_of_scikit_learns_roc(seed):
    metrics, optimize = (pytest.importorskip(name) for name in ("sklearn.metrics", "scipy.optimize"))
    scores, is_target = random_trials(seed)
    alarms, accepted, _ = metrics.roc_curve(is_target, scores)  # points on straight lines are dropped
    curve = SortedTrials(scores, is_target).curve()
    crossing = optimize.brentq(lambda x: 1 - x - np.interp(x, alarms, accepted), 0, 1, xtol=1e-13)
    assert equal_error_rate(curve) == pytest.approx(crossing, abs=1e-9)
    costs = 0.01 * (1 - accepted) + 0.99 * alarms
    assert min_dcf(curve, 0.01) == pytest.approx(costs.min() / 0.01, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_weights_are_repetitions(seed):
    scores, is_target = random_trials(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores))
    weights[:2] = 1
    weighted = SortedTrials(scores, is_target).curve(weights)
    repeated = SortedTrials(np.repeat(scores, weights), np.repeat(is_target, weights)).curve()
    assert equal_error_rate(weighted) == pytest.approx(equal_error_rate(repeated), abs=1e-12)
    assert min_dcf(weighted, 0.05) == pytest.approx(min_dcf(repeated, 0.05), abs=1e-12)


def test_without_targets_of_any_weight_there_is_no_curve():
    assert SortedTrials([1.0, 0.0], [True, False]).curve(np.array([0, 1])) is None


def test_perfect_worthless_and_reversed_scores():
    labels = [True, True, False, False]
    for scores, eer, cost in (([4, 3, 2, 1], 0, 0), ([1, 1, 1, 1], 0.5, 1), ([1, 2, 3, 4], 1, 1)):
        curve = SortedTrials(scores, labels).curve()
        assert (equal_error_rate(curve), min_dcf(curve, 0.01)) == (eer, cost)


def test_the_order_of_tied_trials_does_not_matter():
    scores, is_target = random_trials(1)
    turned = SortedTrials(scores[::-1], is_target[::-1]).curve()
    assert equal_error_rate(turned) == equal_error_rate(SortedTrials(scores, is_target).curve())


def test_infinite_scores_are_the_first_and_last():
    curve = SortedTrials([np.inf, 0.0, 1.0, -np.inf], [True, True, False, False]).curve()
    assert equal_error_rate(curve) == 0.5


def test_bad_scores_are_refused():
    with pytest.raises(ManifestError, match=r"1 of 3 scores are not a number, the first of trial 2"):
        SortedTrials([1, float("nan"), 0], [True, False, True])
    with pytest.raises(ManifestError, match=r"target and non-target trials, found 2 and 0"):
        SortedTrials([1, 0], [True, True])
