"""Quality of hidden units, with and without phones: speechssl.units.quality."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data.labels import FrameLabels, LabelSource
from speechssl.errors import LabelError
from speechssl.units.phone_alignments import Interval
from speechssl.units.quality import FeatureSpread, UnitTally, measure_units
from tests.oracles.clusters import (
    oracle_cluster_purity,
    oracle_coverage,
    oracle_effective_rank,
    oracle_mean_run,
    oracle_perplexity,
    oracle_phone_purity,
    oracle_pnmi,
)

PAIRS = st.lists(st.tuples(st.sampled_from("aeiou"), st.integers(0, 5)), min_size=2, max_size=40)


def _labels(units: dict[str, list[int]], clusters: int = 6) -> FrameLabels:
    source = LabelSource(clusters=clusters, hop=160, window=400, features="mfcc", kmeans="0123")  # centres 12.5 ms + 10
    return FrameLabels(source=source, units={key: np.array(row, dtype=np.int16) for key, row in units.items()})


def _phones(*ends: tuple[float, str]) -> list[Interval]:
    """Put phones one after the other, the first from 0 on."""
    starts = [0.0, *(end for end, _ in ends)]
    return [Interval(start, end, phone) for start, (end, phone) in zip(starts, ends, strict=False)]


def _aligned(pairs: list[tuple[str, int]]) -> tuple[FrameLabels, dict[str, list[Interval]]]:
    """Put each pair's phone around the centre of its frame, in one utterance."""
    phones = _phones(*((0.0175 + 0.01 * frame, phone) for frame, (phone, _) in enumerate(pairs)))
    return _labels({"u": [unit for _, unit in pairs]}), {"u": phones}


@settings(max_examples=80, deadline=None)
@given(pairs=PAIRS.filter(lambda pairs: len({phone for phone, _ in pairs}) > 1))
def test_figures_match_the_oracle(pairs: list[tuple[str, int]]) -> None:
    quality = measure_units(*_aligned(pairs))
    assert quality.pnmi == pytest.approx(oracle_pnmi(pairs), abs=1e-9)
    assert quality.phone_purity == pytest.approx(oracle_phone_purity(pairs))
    assert quality.cluster_purity == pytest.approx(oracle_cluster_purity(pairs))
    assert (quality.used, quality.frames) == (len({unit for _, unit in pairs}), len(pairs))


def test_units_that_are_phones_are_perfect() -> None:
    quality = measure_units(*_aligned([("a", 3), ("a", 3), ("b", 0), ("c", 5), ("c", 5)]))
    assert quality.pnmi == pytest.approx(1)
    assert (quality.phone_purity, quality.cluster_purity) == (1, 1)


def test_a_unit_for_every_frame_has_pure_phones_and_impure_units() -> None:
    quality = measure_units(*_aligned([("a", 0), ("a", 1), ("b", 2), ("b", 3)]))
    assert quality.pnmi == pytest.approx(1)
    assert (quality.phone_purity, quality.cluster_purity) == (1, 0.5)


def test_units_independent_of_phones_share_no_information() -> None:
    pairs = [(phone, unit) for phone in "aabbbbbbc" for unit in (0, 0, 0, 0, 1, 1, 2, 5)]
    quality = measure_units(*_aligned(pairs))
    assert quality.pnmi == pytest.approx(0, abs=1e-12)
    assert quality.phone_purity == pytest.approx(6 / 9)


def test_random_units_share_almost_no_information() -> None:
    random = np.random.default_rng(0)
    pairs = [(str(phone), int(unit)) for phone, unit in random.integers(4, size=(4000, 2))]
    assert measure_units(*_aligned(pairs)).pnmi < 0.01


def test_a_single_phone_has_no_information_to_share() -> None:
    assert measure_units(*_aligned([("a", 0), ("a", 1)])).pnmi == 0


@pytest.mark.parametrize(
    ("end", "phones"), [(0.0124, "bbb"), (0.0125, "bbb"), (0.0126, "abb"), (0.0226, "aab"), (0.0324, "aab")]
)
def test_frame_takes_the_phone_at_its_centre(end: float, phones: str) -> None:
    labels = _labels({"u": [0, 1, 2]})  # centres at 12.5, 22.5 and 32.5 ms
    quality = measure_units(labels, {"u": _phones((end, "a"), (1.0, "b"))})
    assert quality.cluster_purity == pytest.approx((int("a" in phones) + 1) / 3)
    assert quality.pnmi == pytest.approx(float("a" in phones))


def test_frames_past_the_last_phone_are_left_out() -> None:
    assert measure_units(_labels({"u": [0] * 10}), {"u": _phones((0.03, "a"), (0.05, "b"))}).frames == 4


def test_frames_in_a_gap_between_phones_are_left_out() -> None:
    labels = _labels({"u": [0, 1, 1, 1, 2]})  # centres from 12.5 ms on, every 10 ms
    quality = measure_units(labels, {"u": [Interval(0, 0.02, "a"), Interval(0.04, 0.06, "b")]})
    assert (quality.frames, quality.used) == (3, 3)


def test_utterances_without_an_alignment_are_left_out() -> None:
    labels = _labels({"u": [0, 1], "v": [2, 3], "w": [4]})
    assert measure_units(labels, {"u": _phones((1.0, "a")), "w": []}).frames == 2


def test_alignment_of_another_corpus_is_an_error() -> None:
    with pytest.raises(LabelError, match="no utterance has both units and a phone alignment"):
        measure_units(_labels({"u": [0, 1]}), {"v": _phones((1.0, "a"))})


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=12), min_size=1, max_size=4))
def test_figures_of_the_units_alone_match_the_oracle(rows: list[list[int]]) -> None:
    labels = _labels({str(i): row for i, row in enumerate(rows)})
    quality = measure_units(labels, {key: _phones((1.0, "a")) for key in labels.units})
    units = [unit for row in rows for unit in row]
    assert quality.coverage == pytest.approx(oracle_coverage(units, 6))
    assert quality.perplexity == pytest.approx(oracle_perplexity(units))
    assert quality.unit_segment_s == pytest.approx(0.01 * oracle_mean_run(rows))


def test_a_gap_ends_a_run_of_units() -> None:
    labels = _labels({"u": [4] * 6})
    gap = [Interval(0, 0.02, "a"), Interval(0.04, 0.07, "a")]
    assert measure_units(labels, {"u": gap}).unit_segment_s == pytest.approx(0.04 / 2)


def test_the_mean_phone_is_that_of_the_measured_utterances() -> None:
    alignments = {"u": _phones((0.1, "a"), (0.4, "b")), "not measured": _phones((9.0, "a"))}
    assert measure_units(_labels({"u": [0] * 30}), alignments).phone_segment_s == pytest.approx(0.2)


def test_equally_frequent_units_have_their_number_as_perplexity() -> None:
    quality = measure_units(_labels({"u": [0, 1, 2, 3]}, clusters=8), {"u": _phones((1.0, "a"))})
    assert (quality.perplexity, quality.coverage) == (pytest.approx(4), 0.5)


def test_a_tally_of_nothing_has_no_quality() -> None:
    tally = UnitTally("ab", 3, hop=160, window=400)
    tally.add(np.zeros(0, dtype=np.int16), _phones((1.0, "a")))
    with pytest.raises(LabelError, match="no utterance has both"):
        tally.quality()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 30), max_size=4), offset=st.sampled_from([0, 1, 1e4]))
def test_effective_rank_matches_the_oracle_however_the_features_are_cut(
    seed: int, cuts: list[int], offset: float
) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(30, 5)) @ random.normal(size=(5, 5)) + offset
    spread = FeatureSpread(5)
    for part in np.split(features, sorted(cuts)):
        spread.add(part)
    assert spread.count == 30
    assert spread.effective_rank() == pytest.approx(oracle_effective_rank(features), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_features_spread_evenly_over_some_dimensions_have_their_number_as_rank(rank: int) -> None:
    features = np.zeros((2 * rank, 8))
    features[np.arange(2 * rank), np.arange(2 * rank) % rank] = [1] * rank + [-1] * rank
    spread = FeatureSpread(8)
    spread.add(features)
    assert spread.effective_rank() == pytest.approx(rank)


def test_features_that_do_not_vary_have_no_rank() -> None:
    spread = FeatureSpread(4)
    spread.add(np.ones((10, 4)))
    assert spread.effective_rank() == 0
