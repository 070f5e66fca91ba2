"""Pairs of utterances from lists of trials, and all of them."""

import itertools
from collections import Counter

import numpy as np
import pytest

from speechssl.data.utterances import Utterance
from speechssl.downstream.trial_pairs import all_pairs, pairs_of
from speechssl.downstream.trials import TrialList
from speechssl.errors import ManifestError


def utterance(path, key=None):
    return Utterance(
        id=key or path.rpartition(".")[0].replace("/", "-"), path=path, num_samples=9, sample_rate=16000, channels=1
    )


ROWS = [
    utterance("wav/id1/v1/1.wav"),
    utterance("wav/id1/v2/1.wav"),
    utterance("wav/id2/v3/1.flac"),
    utterance("wav/id2/v3/2.v.flac", "odd"),
]


def trials(*rows):
    first, second, is_target = zip(*rows, strict=True)
    lines = tuple(range(1, len(rows) + 1))
    return TrialList(path="t", first=first, second=second, is_target=np.array(is_target), scores=None, lines=lines)


@pytest.mark.parametrize(
    "name",
    [
        "wav-id1-v2-1",
        "wav/id1/v2/1.wav",
        "./wav/id1/v2/1.wav",
        "wav/id1/v2/1",
        "wav/id1/v2/1.m4a",
        "id1/v2/1.wav",
        "v2/1",
        "/data/wav/id1/v2/1.wav",
    ],
)
def test_an_utterance_is_found_by_id_and_by_path(name):
    found = pairs_of(trials((name, "odd", False)), ROWS, missing="stop")
    assert (found.first.tolist(), found.second.tolist()) == ([1], [3])


@pytest.mark.parametrize("name", ["odd", "wav/id2/v3/2.v.flac", "wav/id2/v3/2.v", "2.v", "v3/2.v.flac"])
def test_a_name_with_two_dots_is_found(name):
    assert pairs_of(trials((name, name, True)), ROWS, missing="stop").first.tolist() == [3]


def test_an_id_goes_before_a_path():
    rows = [utterance("a.wav", "b.wav"), utterance("b.wav", "other")]
    assert pairs_of(trials(("b.wav", "other", False)), rows, missing="stop").first.tolist() == [0]


def test_a_path_goes_before_its_like_with_another_suffix():
    rows = [utterance("a.flac", "x"), utterance("a.wav", "y")]
    assert pairs_of(trials(("a.wav", "x", False)), rows, missing="stop").first.tolist() == [1]


@pytest.mark.parametrize("name", ["1.wav", "1"])
def test_a_name_of_several_utterances_is_refused(name):
    with pytest.raises(ManifestError, match=f"t:2: '{name}' may be any of wav-id1-v1-1, wav-id1-v2-1"):
        pairs_of(trials(("odd", "odd", True), (name, "odd", False)), ROWS, missing="stop")


def test_missing_utterances_are_named_or_counted():
    listed = trials(("odd", "v2/1", False), ("no1", "odd", True), ("no1", "no2", True), ("no3", "no4/x.wav", False))
    with pytest.raises(ManifestError, match=r"t:2: 3 of 4 trials name 4 utterances .* 'no1', 'no2', 'no3', ...; exp"):
        pairs_of(listed, ROWS, missing="stop")
    found = pairs_of(listed, ROWS, missing="skip")
    assert (found.first.tolist(), found.second.tolist(), found.is_target.tolist()) == ([3], [1], [False])
    assert found.missing == ("no1", "no2", "no3", "no4/x.wav")
    assert found.left_out == {"missing utterance": 3}


def test_scores_without_names_make_no_pairs():
    nameless = TrialList(path="t", first=(), second=(), is_target=np.array([True]), scores=np.ones(1), lines=(1,))
    with pytest.raises(ManifestError, match="names no utterances"):
        pairs_of(nameless, ROWS, missing="stop")


SPEAKERS = ["a", "b", "a", None, "c", "b", "a", "c", "d"]
SESSIONS = ["1", "1", "1", "1", None, "2", "2", "", "3"]
SEXES = ["f", "m", "f", "f", None, "m", "f", "f", "m"]


def slow_pairs():
    for i, j in itertools.combinations(range(9), 2):
        if SPEAKERS[i] is None or SPEAKERS[j] is None:
            continue
        is_alike = SEXES[i] is not None and SEXES[i] == SEXES[j]
        is_other = SESSIONS[i] in (None, "") or SESSIONS[i] != SESSIONS[j]
        yield i, j, SPEAKERS[i] == SPEAKERS[j], is_alike, is_other


def as_set(pairs):
    return {*zip(pairs.first.tolist(), pairs.second.tolist(), pairs.is_target.tolist(), strict=True)}


def test_all_pairs_are_those_of_known_speakers():
    found = all_pairs(SPEAKERS, most=100, seed=0)
    assert as_set(found) == {pair[:3] for pair in slow_pairs()}
    assert len(found.first) == 28


def test_pairs_differ_and_are_alike_in_the_columns_asked_for():
    columns = {"differ": {"session": SESSIONS}, "alike": {"sex": SEXES}}
    found = all_pairs(SPEAKERS, most=100, seed=0, **columns)
    assert as_set(found) == {pair[:3] for pair in slow_pairs() if pair[3] and pair[4]}
    assert found.left_out["not the same sex"] == sum(not pair[3] for pair in slow_pairs())
    assert found.left_out["same session"] == sum(pair[3] and not pair[4] for pair in slow_pairs())


def test_a_draw_takes_as_many_of_each_kind_and_counts_the_rest():
    every = as_set(all_pairs(SPEAKERS, most=100, seed=0))
    counts = Counter()
    for seed in range(300):
        found = all_pairs(SPEAKERS, most=2, seed=seed)
        assert as_set(found) <= every
        assert sorted(found.is_target.tolist()) == [False, False, True, True]
        assert found.left_out == {"targets not drawn": 3, "non-targets not drawn": 21}
        counts.update(as_set(found))
    assert {*counts} == every  # each pair is drawn at some time
    assert max(counts[pair] for pair in every if pair[2]) < 2 * min(counts[pair] for pair in every if pair[2])


def test_a_draw_depends_on_its_seed_alone():
    found = [as_set(all_pairs(SPEAKERS, most=2, seed=seed)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("speakers", [["a", "a", None], ["a", "b", "c"], [None, None]])
def test_speakers_that_make_no_trials_are_refused(speakers):
    with pytest.raises(ManifestError, match="expected two speakers or more"):
        all_pairs(speakers, most=10, seed=0)
