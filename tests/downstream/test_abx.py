"""ABX errors."""

import dataclasses

import numpy as np
import pytest

from speechssl.downstream import abx
from speechssl.downstream.abx import ItemFrames, score_abx
from speechssl.downstream.abx_cells import CONDITIONS, AbxConfig, plan_abx
from speechssl.downstream.phone_items import frames_of
from speechssl.errors import LabelError
from tests.downstream.drawn_items import HOP, drawn_items, frames_for
from tests.oracles.abx import oracle_abx, oracle_angle

ALL = AbxConfig(max_items=None, max_speakers=None, max_pairs=None)
COSTS = {
    "angular": oracle_angle,
    "euclidean": lambda one, other: float(np.sqrt(((one - other) ** 2).sum())),
    "identical": lambda one, other: float(one[0] != other[0]),
}


@pytest.mark.parametrize(("speakers", "context"), CONDITIONS)
@pytest.mark.parametrize("distance", COSTS)
def test_the_error_is_that_of_a_loop_over_triples(monkeypatch, speakers, context, distance):
    monkeypatch.setattr(abx, "_AT_ONCE", 1000)
    items, features = drawn_items(40)
    if distance == "identical":
        features = features[:, :1].round()
    config = dataclasses.replace(ALL, distance=distance)
    found = score_abx(plan_abx(items, speakers, context, config), frames_for(items, features), config)
    expected = oracle_abx(
        [features[slice(*frames_of(item, hop=HOP))].astype(np.float64) for item in items],
        [(item.phone, item.previous, item.next, item.speaker) for item in items],
        within=speakers == "within",
        triphone=context == "triphone",
        cost=COSTS[distance],
    )
    assert found.error == pytest.approx(expected, abs=1e-12)
    assert found.error == pytest.approx(np.mean(list(found.pairs.values())))
    assert 0 < found.error < 0.6
    assert found.interval.low <= found.error <= found.interval.high


def test_features_that_differ_by_phone_alone_have_no_errors_and_equal_ones_are_chance():
    items, features = drawn_items(40)
    task = plan_abx(items, "across", "any", ALL)
    for item in items:
        features[slice(*frames_of(item, hop=HOP))] = np.eye(4)["abc".index(item.phone)]
    assert score_abx(task, frames_for(items, features), ALL).error == 0
    assert score_abx(task, frames_for(items, np.ones_like(features)), ALL).error == 0.5


def test_equal_frames_are_ties_whatever_their_direction():
    items, features = drawn_items(40)
    task = plan_abx(items, "within", "any", ALL)
    assert score_abx(task, frames_for(items, features * 0 + features[0]), ALL).error == 0.5
    assert score_abx(task, frames_for(items, features * 0), ALL).error == 0.5


def test_one_speaker_has_no_interval():
    items, features = drawn_items(30, speakers="s")
    assert score_abx(plan_abx(items, "within", "any", ALL), frames_for(items, features), ALL).interval is None


def test_pieces_of_an_utterance_give_what_the_whole_gives():
    items, features = drawn_items(40)
    task = plan_abx(items, "within", "any", ALL)
    frames = ItemFrames(items, task.used, dim=4, hop=HOP)
    for start in range(0, len(features), 7):
        frames.add("u", features[start : start + 7], start=start)
    assert score_abx(task, frames, ALL) == score_abx(task, frames_for(items, features), ALL)


def test_items_beyond_the_features_or_between_frames_are_left_out():
    items, features = drawn_items(40)
    last = items[-1]
    short = dataclasses.replace(last, onset_s=0.011, offset_s=0.019)
    task = plan_abx([*items, short], "within", "any", ALL)
    frames = ItemFrames([*items, short], task.used, dim=4, hop=HOP)
    frames.add("u", features[:-1])
    assert not frames.has(len(items) - 1)
    assert not frames.has(len(items))
    expected = score_abx(plan_abx(items[:-1], "within", "any", ALL), frames_for(items[:-1], features), ALL)
    assert score_abx(task, frames, ALL).pairs == expected.pairs


def test_features_of_another_corpus_or_that_are_not_finite_are_refused():
    items, features = drawn_items(40)
    task = plan_abx(items, "within", "any", ALL)
    frames = ItemFrames(items, task.used, dim=4, hop=HOP)
    frames.add("another", features)
    with pytest.raises(LabelError, match=r"no triple of phones for ABX \(within, any\) has features"):
        score_abx(task, frames, ALL)
    features[3] = np.nan
    with pytest.raises(LabelError, match="u: a feature is not finite"):
        frames.add("u", features)
