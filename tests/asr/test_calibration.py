"""Choice and calibration of confidence: speechssl.asr.calibration."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechssl.asr.calibration import (
    bins_of,
    calibration_error,
    choose_measure,
    cross_fitted,
    fit_isotonic,
    right_letters,
    risk_area,
    risk_coverage,
)
from tests.oracles.confidence import oracle_isotonic, oracle_risk_area
from tests.oracles.edit_distance import oracle_edit_distance

SHARES = st.floats(0, 1).map(lambda value: round(value, 3))
ROWS = st.lists(st.tuples(SHARES, st.integers(1, 50)), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(ROWS)
@example([(0.85, 47), (0.85, 1)])  # means of equal accuracies that rounding tells apart
@example([(0.812, 1), (0.812, 11), (0.812, 1)])
def test_the_map_is_the_isotonic_regression(rows):
    accuracy, weights = zip(*rows, strict=True)
    found = fit_isotonic(range(len(rows)), accuracy, weights)
    expected = oracle_isotonic(accuracy, weights)
    levels = np.unique(np.round(expected, 9))
    assert np.unique(np.round(found.accuracy, 9)) == pytest.approx(levels, abs=1e-6)
    for level, middle in zip(found.accuracy, found.confidence, strict=True):
        block = [i for i, value in enumerate(expected) if value == pytest.approx(level, abs=1e-9)]
        assert middle == pytest.approx(np.average(block, weights=[weights[i] for i in block]), abs=1e-6)
    assert np.all(np.diff(found(np.linspace(-1, 10, 50))) >= 0)


def test_equal_confidence_has_one_expected_accuracy():
    found = fit_isotonic([0.5, 0.5, 0.9], [0.0, 1.0, 1.0], [1, 3, 1])
    assert found([0.5, 0.9, 2.0, -1.0]).tolist() == [0.75, 1.0, 1.0, 0.75]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20)), min_size=1, max_size=8), st.randoms())
def test_the_risk_of_the_surest_is_their_error_rate(rows, random):
    errors, letters = zip(*rows, strict=True)
    confidence = random.sample(range(100), len(rows))
    assert risk_area(confidence, errors, letters) == pytest.approx(oracle_risk_area(confidence, errors, letters))


def test_utterances_of_equal_confidence_have_no_order():
    assert risk_coverage([1, 1, 1], [0, 3, 3], [4, 4, 4]).tolist() == [0.5, 0.5, 0.5]


def test_the_measure_that_sorts_by_errors_is_chosen():
    errors, letters = [0, 1, 5, 9], [10, 10, 10, 10]
    measures = {"bad": [1, 2, 3, 4], "good": [4, 3, 2, 1], "none": [0, 0, 0, 0]}
    name, areas = choose_measure(measures, errors, letters)
    assert name == "good"
    assert areas["good"] < areas["none"] < areas["bad"]


def test_an_utterance_is_judged_by_a_map_of_others():
    accuracy = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    found = cross_fitted(range(6), accuracy, [1] * 6)
    for index in range(6):
        inside = [i for i in range(6) if i % 5 != index % 5]
        alone = fit_isotonic(inside, [accuracy[i] for i in inside], [1] * len(inside))
        assert found[index] == alone([index])[0]
    assert found[5] < 1.0
    assert cross_fitted([0.3], [0.7], [5]).tolist() == [0.7]


def test_letters_of_an_utterance_are_judged_by_a_map_of_other_utterances():
    generator = np.random.default_rng(0)
    utterances = np.repeat(np.arange(7), 9)
    confidence, right = generator.random(63), generator.integers(0, 2, 63).astype(float)
    found = cross_fitted(confidence, right, np.ones(63), utterances=utterances + 100)
    for number in range(7):
        own = utterances == number
        others = utterances % 5 != number % 5  # the other folds
        expected = fit_isotonic(confidence[others], right[others], np.ones(int(others.sum())))(confidence[own])
        assert found[own] == pytest.approx(expected)
    alone = cross_fitted([0.5, 0.7], [0.0, 1.0], [1, 1], utterances=[3, 3])
    assert alone.tolist() == [0.0, 1.0]


@settings(max_examples=100, deadline=None)
@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_right_letters_are_as_many_as_a_minimal_alignment_has(hypothesis, reference):
    found = right_letters(hypothesis, reference)
    assert len(found) == len(hypothesis)
    kept = [letter for letter, is_right in zip(hypothesis, found, strict=True) if is_right]
    rest = iter(reference)
    assert all(letter in rest for letter in kept)  # in this order
    assert oracle_edit_distance(reference, hypothesis) >= max(len(hypothesis), len(reference)) - sum(found)


def test_the_calibration_error_is_the_mean_distance_of_bins_by_letters():
    expected, accuracy, letters = [0.2, 0.4, 0.9], [0.1, 0.5, 0.5], [10, 10, 20]
    assert calibration_error(expected, accuracy, letters) == pytest.approx((0.1 * 10 + 0.1 * 10 + 0.4 * 20) / 40)
    (only,) = bins_of(expected, accuracy, letters, bins=1)
    assert (only.utterances, only.letters) == (3, 40)
    assert only.accuracy == pytest.approx(0.4)
    assert calibration_error([0.5] * 4, [0.0, 1.0, 0.0, 1.0], [1] * 4) > 0  # bins of one utterance
