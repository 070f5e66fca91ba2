"""Spans of speech: within the lengths wanted, the cheapest of all divisions, cut in speech only where they must be."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.corpus.activity import FRAME, Activity
from speechssl.corpus.spans import SegmentConfig, spans
from speechssl.errors import ConfigError


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_s": 6.0}, "min_s: expected at least 0.2 s, found 6; max_s: at least three times as much"),
        ({"min_s": 0.1}, "min_s: expected at least 0.2 s, found 0.1"),
        ({"pad_s": 0.6}, "pad_s: expected 0 s to a quarter of min_s, found 0.6"),
        ({"pause_s": 0.0}, "pause_s, min_pause_s: expected more than 0 s, found 0"),
    ],
)
def test_lengths_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        SegmentConfig(**wrong)


def activity_of(stretches: list[tuple[int, int]]) -> tuple[Activity, int]:
    """Make an activity of stretches: pause and speech in frames; loud, but for a quiet frame in every tenth."""
    pieces = [np.repeat(np.float32([0, 1]), (pause, spoken)) for pause, spoken in stretches]
    likely = np.concatenate([*pieces, np.zeros(3, np.float32)])
    level = np.where(likely > 0, -20.0, -60.0).astype(np.float32)
    level[::10] -= 5
    return Activity(speech=likely, level_db=level), len(likely) * FRAME - 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 200)), min_size=1, max_size=25))
def test_spans_keep_to_the_lengths_and_lose_only_what_is_short(stretches):
    config = SegmentConfig(min_s=1.0, max_s=4.0, pad_s=0.2, min_pause_s=0.1)
    activity, total = activity_of(stretches)
    found, _ = spans(activity, total, config)
    edges = [0, *itertools.chain.from_iterable((span.start, span.end) for span in found), total]
    assert edges == sorted(edges), "in order, without overlaps, within the recording"
    for span in found:
        assert span.speech <= span.end - span.start <= 4 * SAMPLE_RATE
        assert span.is_wanted == (span.end - span.start > SAMPLE_RATE)
    inside = np.zeros(total, bool)
    for span in found:
        inside[span.start : span.end] = True
    assert inside[np.repeat(activity.speech > 0, FRAME)[:total]].all(), "all speech is in a span"


def cost_of(groups: list[list[tuple[int, int]]], config: SegmentConfig) -> float:
    """Add up what a division of stretches, first frame and last, costs; straight from the definition, without pads."""
    cost = 0.0
    for group in groups:
        length_s = (group[-1][1] - group[0][0]) * FRAME / SAMPLE_RATE
        spoken_s = sum(behind - first for first, behind in group) * FRAME / SAMPLE_RATE
        if length_s >= config.max_s:
            return np.inf
        cost += config.pause_s + length_s - spoken_s if length_s > config.min_s else 2 * spoken_s
    return cost


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(10, 60), st.integers(5, 100)), min_size=1, max_size=8))
def test_of_all_divisions_the_cheapest_is_taken(stretches):
    config = SegmentConfig(min_s=1.0, max_s=4.0, pad_s=0.0)
    activity, total = activity_of(stretches)
    pieces, at = [], 0
    for pause, spoken in stretches:
        pieces.append((at + pause, at + pause + spoken))
        at += pause + spoken
    divisions = []
    for bits in itertools.product((False, True), repeat=len(pieces) - 1):
        groups = [[pieces[0]]]
        for piece, is_new in zip(pieces[1:], bits, strict=True):
            groups.append([piece]) if is_new else groups[-1].append(piece)
        divisions.append(cost_of(groups, config))
    found, _ = spans(activity, total, config)
    ours = [[piece for piece in pieces if span.start <= piece[0] * FRAME < span.end] for span in found]
    assert cost_of(ours, config) == pytest.approx(min(divisions))


def test_speech_without_pauses_is_cut_where_it_is_quietest():
    activity, total = activity_of([(5, 400)])
    found, in_speech = spans(activity, total, SegmentConfig(min_s=1.0, max_s=4.0))
    assert in_speech == len(found) - 1 == 3
    for before, after in itertools.pairwise(found):
        assert before.end == after.start, "no speech is lost"
        assert abs((before.end // FRAME + 2) % 10 - 2) <= 2, "near a quiet frame"
