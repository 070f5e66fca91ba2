"""Span masks: speechssl.model.masking."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.model.masking import MaskConfig, draw_spans
from tests.oracles.masking import oracle_fairseq_spans, oracle_runs, oracle_spans


def _draw(counts: list[int], config: MaskConfig, seed: int = 0, size: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return draw_spans(torch.tensor(counts), size or max(counts), config, generator)


CONFIGS = st.builds(
    MaskConfig,
    start_prob=st.floats(0, 0.99),
    span=st.integers(1, 12),
    min_spans=st.integers(0, 4),
    last_frame=st.booleans(),
    same_count=st.booleans(),
    shared_rounding=st.booleans(),
)
COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=5)


def test_published_rate_masks_49_percent_of_the_frames() -> None:
    assert float(_draw([1500] * 300, MaskConfig()).float().mean()) == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize(
    ("start_prob", "span", "min_spans", "count"),
    [
        (0.065, 10, 2, 1000),
        (0.065, 10, 2, 200),
        (0.065, 10, 2, 50),
        (0.08, 10, 2, 100),
        (0.05, 4, 0, 33),
        (0.3, 3, 1, 20),
    ],
)
def test_masked_share_is_that_of_the_published_procedure(
    start_prob: float, span: int, min_spans: int, count: int
) -> None:
    rows = max(1500, 100_000 // count)
    random = np.random.default_rng(0)
    expected = np.mean([oracle_spans(count, start_prob, span, min_spans, random).mean() for _ in range(rows)])
    found = _draw([count] * rows, MaskConfig(start_prob=start_prob, span=span, min_spans=min_spans)).float().mean()
    assert float(found) == pytest.approx(expected, abs=0.01)


FAIRSEQ = {"last_frame": False, "same_count": True}


@pytest.mark.parametrize(
    ("counts", "start_prob", "span", "min_spans", "padded", "share", "of_ours"),
    [  # the shares are those of fairseq 0.12.2's compute_mask_indices, means of 1,000 to 4,000 batches, and of ours
        ([24] * 4, 0.065, 10, 2, False, 0.501, 0.631),
        ([100, 60, 30], 0.075, 10, 2, True, 0.341, 0.560),
        ([780] * 6, 0.065, 10, 2, False, 0.461, 0.490),
        ([780] * 6, 0.08, 10, 2, True, 0.534, 0.567),
        ([768] * 8, 0.5 / 64, 64, 0, False, 0.326, 0.404),  # channels of fine-tuning
    ],
)
def test_with_its_keys_the_masked_share_is_that_of_fairseq(
    counts: list[int], start_prob: float, span: int, min_spans: int, padded: bool, share: float, of_ours: float
) -> None:
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    lengths = torch.tensor(counts)

    def drawn(config: MaskConfig) -> float:
        masks = [draw_spans(lengths, max(counts), config, generator) for _ in range(300)]
        return float((torch.stack(masks).sum(2) / lengths).mean())

    rows = [oracle_fairseq_spans(counts, start_prob, span, min_spans, random, padded=padded) for _ in range(300)]
    oracle = np.mean([[row.mean() for row in batch] for batch in rows])
    ours = MaskConfig(start_prob=start_prob, span=span, min_spans=min_spans)
    theirs = MaskConfig(start_prob=start_prob, span=span, min_spans=min_spans, shared_rounding=not padded, **FAIRSEQ)
    assert oracle == pytest.approx(share, abs=0.012)
    assert drawn(theirs) == pytest.approx(share, abs=0.012)
    assert drawn(ours) == pytest.approx(of_ours, abs=0.012)


@pytest.mark.parametrize("count", [13, 24, 60])
def test_each_position_is_masked_as_often_as_by_fairseq(count: int) -> None:
    random = np.random.default_rng(0)
    rows = [oracle_fairseq_spans([count], 0.02, 10, 2, random, padded=True)[0] for _ in range(6000)]
    found = _draw([count] * 6000, MaskConfig(start_prob=0.02, min_spans=2, last_frame=False))
    assert found.float().mean(0).tolist() == pytest.approx(np.mean(rows, axis=0).tolist(), abs=0.035)


def test_a_span_reaches_the_last_frame_only_where_it_may() -> None:
    assert _draw([24] * 500, MaskConfig())[:, -1].any()
    assert not _draw([24] * 500, MaskConfig(last_frame=False))[:, -1].any()
    assert _draw([24] * 500, MaskConfig(last_frame=False))[:, -2].any()


def test_no_row_keeps_more_than_the_least_masked_has() -> None:
    counts = [400, 90, 25, 1]
    free = _draw(counts, MaskConfig(), seed=3)
    kept = _draw(counts, MaskConfig(same_count=True), seed=3)
    assert kept.sum(1).tolist() == [int(free[2].sum())] * 3 + [0]  # a row of one frame does not count
    assert torch.equal(kept, kept & free)


def test_one_draw_rounds_the_spans_of_all_rows() -> None:
    config = MaskConfig(start_prob=0.1, span=1, min_spans=0, shared_rounding=True)
    found = [set(_draw([25] * 8, config, seed=seed).sum(1).tolist()) for seed in range(40)]  # 2.5 spans
    assert all(len(counts) == 1 for counts in found)
    assert set.union(*found) == {2, 3}


@settings(max_examples=150, deadline=None)
@given(counts=COUNTS, config=CONFIGS, seed=st.integers(0, 1000), surplus=st.integers(0, 3))
def test_nothing_is_masked_past_the_count_and_no_row_whole(
    counts: list[int], config: MaskConfig, seed: int, surplus: int
) -> None:
    size = max(counts) + surplus
    is_masked = draw_spans(torch.tensor(counts), size, config, torch.Generator().manual_seed(seed))
    assert is_masked.shape == (len(counts), size)
    for row, count in zip(is_masked, counts, strict=True):
        assert not row[count:].any()
        assert int(row.sum()) <= max(count - 1, 0)


@pytest.mark.parametrize("span", [1, 2, 10])
def test_one_span_masks_exactly_its_length(span: int) -> None:
    for row in _draw([30, 25] * 20, MaskConfig(start_prob=0, span=span, min_spans=1)).tolist():
        assert oracle_runs(row) == [span]


def test_every_run_is_at_least_one_span_long() -> None:
    for row in _draw([200] * 50, MaskConfig(start_prob=0.02, span=7)).tolist():
        assert min(oracle_runs(row)) >= 7


@pytest.mark.parametrize("min_spans", [0, 1, 5])
def test_at_least_the_smallest_number_of_spans_is_drawn(min_spans: int) -> None:
    is_masked = _draw([40] * 10, MaskConfig(start_prob=0, span=1, min_spans=min_spans))
    assert is_masked.sum(1).tolist() == [min_spans] * 10


def test_number_of_spans_is_rounded_up_or_down_so_that_its_mean_is_right() -> None:
    found = _draw([25] * 4000, MaskConfig(start_prob=0.09, span=1, min_spans=0)).sum(1)  # 2.25 spans
    assert sorted(set(found.tolist())) == [2, 3]
    assert float(found.float().mean()) == pytest.approx(2.25, abs=0.03)


def test_rows_round_their_number_of_spans_independently() -> None:
    found = _draw([25] * 100, MaskConfig(start_prob=0.1, span=1, min_spans=0)).sum(1)  # 2.5 spans
    assert set(found.tolist()) == {2, 3}


@pytest.mark.parametrize("span", [1, 10])
def test_starts_are_uniform_over_the_places_where_a_span_fits(span: int) -> None:
    rows, places = 21_000, 21
    is_masked = _draw([places + span - 1] * rows, MaskConfig(start_prob=0, span=span, min_spans=1))
    found = torch.bincount(is_masked.int().argmax(1), minlength=places)
    chi_square = float(((found - rows / places).square() / (rows / places)).sum())
    assert len(found) == places
    assert chi_square < 50  # 20 degrees of freedom: exceeded once in 4000 trials


def test_draws_follow_the_generator_and_nothing_else() -> None:
    torch.manual_seed(0)
    first = _draw([50, 70], MaskConfig(), seed=1)
    torch.manual_seed(1)
    assert torch.equal(first, _draw([50, 70], MaskConfig(), seed=1))
    assert not torch.equal(first, _draw([50, 70], MaskConfig(), seed=2))


def test_rows_of_one_batch_differ() -> None:
    one, other = _draw([100, 100], MaskConfig())
    assert not torch.equal(one, other)


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11])
def test_row_too_short_for_a_span_is_masked_in_part(count: int) -> None:
    for row in _draw([count] * 50, MaskConfig(start_prob=0.5, span=10, min_spans=2)):
        assert 1 <= int(row.sum()) <= count - 1


@pytest.mark.parametrize("span", [1, 10])
@pytest.mark.parametrize("count", [0, 1])
def test_row_of_at_most_one_frame_is_never_masked(count: int, span: int) -> None:
    assert not _draw([count, 40], MaskConfig(span=span))[0].any()


def test_position_left_free_of_a_row_masked_whole_is_drawn_uniformly() -> None:
    is_masked = _draw([4] * 8000, MaskConfig(start_prob=0.9, span=2, min_spans=4))
    is_free = ~is_masked
    assert is_free.sum(1).tolist() == [1] * 8000
    assert (is_free.float().mean(0) - 0.25).abs().max() < 0.03


def test_short_rows_do_not_change_the_rate_of_long_ones() -> None:
    counts = [1, 5, 500] * 200
    found = _draw(counts, MaskConfig())[2::3].float().mean()
    assert float(found) == pytest.approx(0.49, abs=0.01)


@pytest.mark.parametrize("start_prob", [-0.1, 1.0, 1.5])
def test_rate_outside_zero_to_one_is_refused(start_prob: float) -> None:
    with pytest.raises(ConfigError, match=rf"mask\.start_prob must lie between 0 and 1, found {start_prob}"):
        MaskConfig(start_prob=start_prob)


@pytest.mark.parametrize(("span", "min_spans"), [(0, 1), (10, -1)])
def test_impossible_spans_are_refused(span: int, min_spans: int) -> None:
    with pytest.raises(ConfigError, match=rf"must be positive, found {span} and {min_spans}"):
        MaskConfig(span=span, min_spans=min_spans)
