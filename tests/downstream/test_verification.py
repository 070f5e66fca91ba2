"""Evaluation of trials, with intervals."""

import itertools
import json
import math

import numpy as np
import pytest

from speechssl.downstream.verification import DetectionConfig, as_json, evaluate_trials, score_lines
from speechssl.errors import ConfigError


def all_pairs(speakers, per_speaker, *, seed):
    """Draw utterances as points on a line about their speakers; score pairs by nearness."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 2, speakers)
    rows = [(f"s{i}", centre + generator.normal()) for i, centre in enumerate(centres) for _ in range(per_speaker)]
    pairs = [*itertools.combinations(rows, 2)]
    scores = [-abs(one[1] - other[1]) for one, other in pairs]
    sides = [one[0] for one, _ in pairs], [other[0] for _, other in pairs]
    return scores, [one == other for one, other in zip(*sides, strict=True)], sides


def test_speakers_drawn_twice_are_two_persons():
    """The weights of one draw are compared with those of utterances that were copied for it."""
    scores, is_target, sides = all_pairs(5, 3, seed=0)
    config = DetectionConfig(samples=1)
    found = evaluate_trials(scores, is_target, config, speakers=sides).measures[0].over_speakers
    generator = np.random.default_rng(config.seed)
    drawn = generator.integers(5, size=5).tolist()
    copied = []
    for score, target, one, other in zip(scores, is_target, *sides, strict=True):
        for i, j in itertools.product(range(5), repeat=2):  # persons, each with a speaker's utterances
            is_pair = (one, other) == (f"s{drawn[i]}", f"s{drawn[j]}")
            if is_pair and (i == j if one == other else True):
                copied.append((score, target))
    alone = evaluate_trials(*zip(*copied, strict=True), DetectionConfig(samples=0)).measures[0].value
    assert found.low == found.high == pytest.approx(alone, abs=1e-12)


def test_the_interval_over_speakers_covers_other_speakers():
    none, few = DetectionConfig(samples=0), DetectionConfig(samples=100)
    truth = np.mean([evaluate_trials(*all_pairs(25, 3, seed=s)[:2], none).measures[0].value for s in range(100)])
    covered = {"over_trials": 0, "over_speakers": 0}
    for seed in range(100, 140):
        scores, is_target, sides = all_pairs(25, 3, seed=seed)
        eer = evaluate_trials(scores, is_target, few, speakers=sides).measures[0]
        for unit in covered:
            interval = getattr(eer, unit)
            covered[unit] += interval.low <= truth <= interval.high
    assert covered["over_speakers"] >= 34
    assert covered["over_trials"] < covered["over_speakers"]


def test_lines_and_json_hold_all_of_it():
    scores, is_target, sides = all_pairs(4, 3, seed=1)
    found = evaluate_trials(scores, is_target, DetectionConfig(samples=20), speakers=sides)
    lines = score_lines(found)
    assert lines[0].startswith("EER ") and lines[1].startswith("minDCF(0.01) ") and lines[2].startswith("minDCF(0.05)")
    assert lines[3].startswith("66 trials, 12 of them targets, 4 speakers; intervals of 95 %: speakers drawn 20 times")
    assert "only 4 speakers" in lines[4]
    told = json.loads(json.dumps(as_json(found)))
    assert told["measures"]["EER"]["value"] == found.measures[0].value
    assert (told["targets"], told["nontargets"], told["speakers"]) == (12, 54, 4)
    assert (told["det"]["miss"][0], told["det"]["false_alarm"][-1]) == (1, 1)


def test_without_speakers_trials_are_drawn():
    scores, is_target, _ = all_pairs(4, 3, seed=1)
    found = evaluate_trials(scores, is_target, DetectionConfig(samples=20))
    assert found.measures[0].over_speakers is None
    assert "trials drawn 20 times" in score_lines(found)[3]
    assert not any(math.isnan(measure.over_trials.low) for measure in found.measures)


@pytest.mark.parametrize("wrong", [{"p_targets": (1.0,)}, {"c_miss": 0.0}, {"samples": -1}, {"level": 1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        DetectionConfig(**wrong)
