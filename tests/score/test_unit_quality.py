"""Purities and PNMI of hidden units: speechssl.score.clusters."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data.labels import FrameLabels, LabelSource
from speechssl.errors import LabelError
from speechssl.score.clusters import measure_units, quality_of_counts, read_phones
from tests.oracles.clusters import oracle_cluster_purity, oracle_phone_purity, oracle_pnmi

PAIRS = st.lists(st.tuples(st.sampled_from("aeiou"), st.integers(0, 5)), min_size=2, max_size=40)


def _labels(units: dict[str, list[int]], clusters: int = 6) -> FrameLabels:
    source = LabelSource(clusters=clusters, hop=160, window=400, features="mfcc", kmeans="0123")  # centres 12.5 ms + 10
    return FrameLabels(source=source, units={key: np.array(row, dtype=np.int16) for key, row in units.items()})


def _aligned(pairs: list[tuple[str, int]]) -> tuple[FrameLabels, dict[str, list[tuple[float, str]]]]:
    """Put each pair's phone around the centre of its frame, in one utterance."""
    phones = [(0.0175 + 0.01 * frame, phone) for frame, (phone, _) in enumerate(pairs)]
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
    quality = quality_of_counts(np.outer([10, 30, 5], [4, 2, 8, 1]))
    assert quality.pnmi == pytest.approx(0, abs=1e-12)
    assert quality.phone_purity == pytest.approx(30 / 45)


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
    quality = measure_units(labels, {"u": [(end, "a"), (1.0, "b")]})
    assert quality.cluster_purity == pytest.approx((int("a" in phones) + 1) / 3)
    assert quality.pnmi == pytest.approx(float("a" in phones))


def test_frames_past_the_last_phone_are_left_out() -> None:
    assert measure_units(_labels({"u": [0] * 10}), {"u": [(0.03, "a"), (0.05, "b")]}).frames == 4


def test_utterances_without_an_alignment_are_left_out() -> None:
    labels = _labels({"u": [0, 1], "v": [2, 3], "w": [4]})
    assert measure_units(labels, {"u": [(1.0, "a")], "w": []}).frames == 2


def test_alignment_of_another_corpus_is_an_error() -> None:
    with pytest.raises(LabelError, match="no utterance has both units and a phone alignment"):
        measure_units(_labels({"u": [0, 1]}), {"v": [(1.0, "a")]})


def test_phones_are_read_with_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "phones.tsv"
    path.write_text("id\tphones\nu\t0.25:AA1 1.5:sil\nv\t2:B\n", encoding="utf-8")
    assert read_phones(path) == {"u": [(0.25, "AA1"), (1.5, "sil")], "v": [(2.0, "B")]}


@pytest.mark.parametrize("row", ["u\tAA1:0.25", "u\t0.25:", "u\t0.25", "u 0.25:AA1"])
def test_row_that_does_not_parse_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "phones.tsv"
    path.write_text(f"id\tphones\nt\t1:A\n{row}\n", encoding="utf-8")
    with pytest.raises(LabelError, match=r"phones\.tsv:3: expected `id<TAB>end:phone \.\.\.`, found '"):
        read_phones(path)


def test_missing_alignment_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"phones\.tsv: cannot read the phone alignments"):
        read_phones(tmp_path / "phones.tsv")
