"""Samples: hours reached, languages shared with an exponent, nested and without repetition."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.corpus.hashing import place_of
from speechssl.corpus.sample import hours_by_language, quotas, sample
from speechssl.errors import ManifestError


@pytest.fixture(scope="module")
def rows(make_utterances):
    """List 10 h of Russian, 2.5 h of Dutch and 0.1 h of no language, of 2 to 8 s."""
    seconds = [2 + i % 7 for i in range(9072)]
    made = make_utterances([16_000 * s for s in seconds])
    return [replace(row, language="ru" if i < 7200 else "nl" if i < 9000 else None) for i, row in enumerate(made)]


def oracle_quotas(hours_of, hours, alpha):
    """Pour the hours out in small drops, each shared among the languages that are not empty."""
    drops = 5000
    quota = dict.fromkeys(hours_of, 0.0)
    for _ in range(drops):
        weights = {name: of**alpha for name, of in hours_of.items() if quota[name] < of}
        for name, weight in weights.items():
            quota[name] = min(hours_of[name], quota[name] + hours / drops * weight / sum(weights.values()))
    return quota


def test_the_hours_and_the_shares_are_met_to_within_half_an_utterance(rows):
    for alpha in (0.0, 0.5, 1.0):
        drawn = sample(rows, 3.0, alpha=alpha)
        wanted = quotas(hours_by_language(rows), 3.0, alpha)
        assert hours_by_language(drawn) == pytest.approx(wanted, abs=4.001 / 3600)
        assert len({row.id for row in drawn}) == len(drawn)


def test_a_smaller_exponent_gives_small_languages_more(rows):
    dutch = [hours_by_language(sample(rows, 2.0, alpha=alpha))["nl"] for alpha in (1.0, 0.5, 0.0)]
    assert dutch == sorted(dutch)
    assert dutch[0] < 0.42
    assert dutch[2] > 0.9


@given(
    hours_of=st.dictionaries(st.sampled_from("abcde"), st.floats(0.1, 100), min_size=1),
    share=st.floats(0.01, 1),
    alpha=st.floats(0, 1),
)
@settings(max_examples=10, deadline=None)
def test_quotas_are_what_pouring_drop_by_drop_gives(hours_of, share, alpha):
    hours = share * math.fsum(hours_of.values())
    found = quotas(hours_of, hours, alpha)
    assert math.fsum(found.values()) == pytest.approx(hours)
    assert found == pytest.approx(oracle_quotas(hours_of, hours, alpha), rel=0.01, abs=0.01 * hours)


def test_a_larger_draw_holds_the_smaller_one_and_the_seed_changes_it(rows):
    small, large = (set(sample(rows, hours, alpha=0.5)) for hours in (0.5, 2.0))
    assert small < large
    assert set(sample(rows, 0.5, alpha=0.5, seed=1)) != small


def test_all_hours_are_all_utterances_in_their_order(rows):
    assert sample(rows, sum(row.duration_s for row in rows) / 3600, alpha=0.5) == rows


def test_the_durations_drawn_are_those_of_the_whole(rows):
    drawn = sample(rows, 2.0)
    mean, whole = (sum(row.duration_s for row in found) / len(found) for found in (drawn, rows))
    assert mean == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(("hours", "alpha", "what"), [(13, 1, "hours"), (0, 1, "hours"), (1, 1.5, "alpha")])
def test_more_than_there_is_and_exponents_out_of_range_are_refused(rows, hours, alpha, what):
    with pytest.raises(ManifestError, match=f"{what}: expected"):
        sample(rows, hours, alpha=alpha)


def test_what_is_drawn_of_a_language_is_the_beginning_of_its_order(make_utterances):
    rows = make_utterances([16_000 * (1 + 30 * (i % 2)) for i in range(60)])  # 1 s and 31 s in turn
    for seed in range(8):
        drawn = {row.id for row in sample(rows, 0.1, seed=seed)}
        order = sorted((place_of(row.id, str(seed)), row.id) for row in rows)
        is_drawn = [key in drawn for _, key in order]
        assert is_drawn == sorted(is_drawn, reverse=True), "short ones from further on"
        assert any(is_drawn)
