"""Speaker information in features and units."""

import numpy as np
import pytest

from speechssl.downstream.speaker_information import speaker_accuracy, unit_speaker_information
from speechssl.errors import LabelError
from tests.oracles.clusters import oracle_pnmi


def _embeddings(speakers: list[str], distance: float) -> np.ndarray:
    random = np.random.default_rng(0)
    centres = {name: random.normal(size=6) * distance for name in sorted(set(speakers))}
    return np.stack([centres[name] + random.normal(size=6) for name in speakers]).astype(np.float32)


def test_speakers_far_apart_are_recognised_and_equal_ones_are_not():
    speakers = ["a", "b", "c"] * 40
    far = speaker_accuracy(_embeddings(speakers, 10), speakers)
    assert (far.accuracy, far.chance, far.speakers, far.utterances) == (1, pytest.approx(1 / 3), 3, 40)
    near = speaker_accuracy(_embeddings(speakers, 0), speakers)
    assert near.interval.low < 1 / 3 + 0.05
    assert near.accuracy == pytest.approx(1 / 3, abs=0.15)


def test_each_speaker_counts_equally_and_rare_ones_are_left_out():
    speakers = ["many"] * 80 + ["few"] * 10 + ["rare"] * 4
    found = speaker_accuracy(_embeddings(speakers, 0), speakers)
    assert (found.chance, found.utterances, found.left_out) == (0.5, 10, ("rare",))
    assert found.accuracy < 0.85  # to guess `many` for all 90 would be 0.89


def test_dimensions_of_any_scale_count_and_constant_ones_do_no_harm():
    speakers = ["a", "b"] * 20
    embeddings = _embeddings(speakers, 10) * np.array([1e-6, 1, 1, 1, 1, 1e3]) + 5
    assert speaker_accuracy(np.c_[embeddings, np.ones(40)].astype(np.float32), speakers).accuracy == 1


def test_fewer_than_two_speakers_are_refused():
    with pytest.raises(LabelError, match="expected two speakers with 5 utterances each, found 1 among 2"):
        speaker_accuracy(_embeddings(["a"] * 9 + ["b"], 1), ["a"] * 9 + ["b"])


def test_information_of_units_is_that_of_the_pairs_of_frames():
    random = np.random.default_rng(0)
    counts = random.integers(0, 6, size=(12, 4))
    speakers = ["a", "b", "c"] * 4
    pairs = [
        (speaker, unit)
        for speaker, row in zip(speakers, counts, strict=True)
        for unit, count in enumerate(row)
        for _ in range(count)
    ]
    found, chance = unit_speaker_information(counts, speakers)
    assert found == pytest.approx(oracle_pnmi(pairs))
    assert 0 < chance < 0.5


def test_a_unit_of_each_speaker_tells_all():
    assert unit_speaker_information(np.eye(3, dtype=np.int64)[[0, 1, 2, 0]] * 5, ["a", "b", "c", "a"])[0] == (
        pytest.approx(1)
    )
    assert unit_speaker_information(np.ones((3, 2), np.int64), ["a"] * 3) == (0, 0)
