"""Health metrics of a run: speechssl.tasks.metrics."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.encoder import Encoded, SpeechEncoder
from speechssl.tasks.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.tasks.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective
from speechssl.tasks.metrics import (
    empty_share,
    feature_metrics,
    mean_cosine,
    participation_ratio,
    perplexity,
    report_metrics,
    row_spread,
    tally,
)
from speechssl.tasks.quantizer import QuantizerConfig
from tests.model.tiny import noise, randomise
from tests.oracles.contrastive import oracle_cosine, oracle_perplexity
from tests.tasks.labelled import labelled

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any)


@settings(max_examples=50, deadline=None)
@given(counts=COUNTS)
def test_the_perplexity_of_counts_is_that_of_their_shares(counts: list[int]) -> None:
    expected = oracle_perplexity([count / sum(counts) for count in counts])
    assert perplexity(torch.tensor(counts)).item() == pytest.approx(expected, rel=1e-5)


def test_each_codebook_has_a_perplexity_of_its_own() -> None:
    assert perplexity(torch.tensor([[5, 5, 5, 5], [9, 0, 0, 0], [3, 3, 0, 0]])).tolist() == pytest.approx([4, 1, 2])


def test_the_perplexity_of_nothing_is_one() -> None:
    assert perplexity(torch.zeros(3)).item() == 1


def test_a_tally_counts_every_occurrence() -> None:
    assert tally(torch.tensor([[3, 0], [3, 3]]), 5).tolist() == [1, 0, 0, 3, 0]
    assert tally(torch.zeros(0, dtype=torch.long), 2).tolist() == [0, 0]


def test_tallies_of_batches_add_up_before_the_share_in_use_is_taken() -> None:
    first, second = torch.tensor([[4.0, 0, 0, 0], [1, 1, 1, 1]]), torch.tensor([[0.0, 4, 0, 0], [4, 0, 0, 0]])
    assert report_metrics({"codes": first})["codes_used"] == 5 / 8
    both = report_metrics({"codes": first + second})
    assert both["codes_used"] == 6 / 8
    assert both["codes_perplexity"] == pytest.approx(2.0)  # perplexity of the first codebook, the lower one


def _oracle_ratio(features: np.ndarray) -> float:
    variances = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    return sum(variances) ** 2 / sum(variances**2)


@pytest.mark.parametrize(("frames", "dim"), [(40, 6), (6, 40), (9, 9)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_rank_is_the_participation_ratio_of_the_singular_values(frames: int, dim: int, scale: float) -> None:
    features = noise(frames, dim) * torch.linspace(0.1, 2, dim) + 1
    expected = _oracle_ratio(features.double().numpy())
    assert 1 < expected < dim
    assert participation_ratio(features * scale, torch.ones(frames)).item() == pytest.approx(expected, rel=1e-4)


def test_the_rank_counts_the_dimensions_that_are_used_alike() -> None:
    frames = noise(4000, 8)
    frames[:, 3:] = 5.0
    assert participation_ratio(frames, torch.ones(4000)).item() == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize("value", [0.0, 3.7, 1e6])
def test_equal_frames_have_rank_zero_and_no_rounding_is_taken_for_a_rank(value: float) -> None:
    frames = (torch.ones(100, 1) * noise(1, 16) + value) * (1 + 1e-7 * noise(100, 1, seed=1))
    assert participation_ratio(frames, torch.ones(100)).item() == 0


def test_the_mean_cosine_is_over_all_pairs_of_different_frames() -> None:
    features = noise(7, 5) + 0.5
    pairs = itertools.combinations(features.tolist(), 2)
    expected = np.mean([oracle_cosine(one, other) for one, other in pairs])
    assert mean_cosine(features, torch.ones(7)).item() == pytest.approx(expected, abs=1e-5)


def test_equal_frames_have_a_cosine_of_one_and_a_single_frame_has_none() -> None:
    assert mean_cosine(noise(1, 8).expand(50, 8), torch.ones(50)).item() == pytest.approx(1, abs=1e-5)
    assert mean_cosine(noise(1, 8), torch.ones(1)).item() == 0


@pytest.mark.parametrize("at_most", [512, 20])
def test_padding_does_not_count(at_most: int) -> None:
    features, is_valid = noise(3, 12, 6), torch.arange(12) < torch.tensor([12, 5, 0])[:, None]
    metrics = feature_metrics(features, is_valid, at_most=at_most)
    other = feature_metrics(features.masked_fill(~is_valid[..., None], 77.0), is_valid, at_most=at_most)
    assert metrics == other
    if at_most == 512:
        valid = features[is_valid]
        assert metrics["feature_rank"].item() == pytest.approx(_oracle_ratio(valid.numpy()), rel=1e-4)
        assert metrics["feature_cosine"] == pytest.approx(mean_cosine(valid, torch.ones(17)).item(), abs=1e-6)


def test_a_sample_of_many_frames_is_spread_over_the_batch() -> None:
    features = torch.zeros(4, 1000, 3)
    for row in range(3):
        features[row, :, row] = 1.0  # rank 3 only if all rows are looked at
    features[3] = torch.tensor([1.0, -1.0, 0.5])
    metrics = feature_metrics(features, torch.ones(4, 1000, dtype=torch.bool), at_most=100)
    full = _oracle_ratio(features.flatten(0, 1).numpy())
    assert metrics["feature_rank"].item() == pytest.approx(full, rel=0.01)


def test_metrics_are_the_same_under_autocast_and_carry_no_gradient() -> None:
    features, is_valid = noise(2, 9, 6).requires_grad_(), torch.ones(2, 9, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        inside = feature_metrics(features, is_valid)
    assert inside == feature_metrics(features, is_valid)
    assert not any(value.requires_grad for value in inside.values())


def test_the_spread_of_rows_leaves_out_what_is_not_there() -> None:
    rows = [[1.0, 3.0, -math.inf], [5.0, 5.0, 5.0], [-math.inf] * 3, [2.0, 4.0, 9.0]]
    expected = (np.std([1, 3]) + 0 + np.std([2, 4, 9])) / 3
    values = torch.tensor(rows, requires_grad=True)
    assert row_spread(values).item() == pytest.approx(expected, rel=1e-6)
    assert not row_spread(values).requires_grad


def test_a_transcript_is_empty_where_every_valid_frame_is_blank() -> None:
    best = torch.tensor([[0, 0, 0], [0, 2, 0], [0, 0, 5], [0, 1, 1]])
    is_valid = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool()
    assert empty_share(best, is_valid, 0).item() == 0.5


def _encoded() -> Encoded:
    conv = noise(2, 6, 16)
    is_valid = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    return Encoded(conv=conv, features=conv, layers=[noise(2, 6, 32, seed=1)], is_valid=is_valid)


IS_MASKED = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()


def test_the_contrastive_objective_gives_figures_of_each_codebook_that_add_up_to_the_sums() -> None:
    config = ContrastiveConfig(dim=8, negatives=6, quantizer=QuantizerConfig(groups=2, entries=5, dim=12))
    objective = ContrastiveObjective(config, dim=32, conv_dim=16)
    randomise(objective)
    loss = objective(_encoded(), IS_MASKED, labelled(), StepContext(step=0, generator=torch.Generator().manual_seed(0)))
    assert loss.tallies["codes"].shape == (2, 5)
    assert loss.tallies["codes"].sum(1).tolist() == [7, 7]  # masked frames that are no padding
    assert loss.parts["negative_spread"] > 0.01
    for name in ("soft_perplexity", "code_perplexity"):
        each = [loss.parts[f"{name}_{group}"].item() for group in range(2)]
        assert sum(each) == pytest.approx(loss.parts[name].item(), rel=1e-4)
        assert name != "soft_perplexity" or each[0] != each[1]
    assert loss.parts["code_perplexity_0"].item() == pytest.approx(perplexity(loss.tallies["codes"][0]).item())


@pytest.mark.parametrize("clusters", [(7,), (7, 4)])
def test_masked_prediction_counts_labels_and_predictions_of_masked_frames(clusters: tuple[int, ...]) -> None:
    objective = MaskedPredictionObjective(MaskedPredictionConfig(dim=8), 32, clusters)
    randomise(objective)
    labels = torch.stack([torch.arange(12).view(2, 6) % k for k in clusters])
    encoded = _encoded()
    loss = objective(encoded, IS_MASKED, labelled(labels), INFERENCE)
    is_chosen = IS_MASKED & encoded.is_valid
    for stream, k in enumerate(clusters):
        suffix = f"_{stream}" if len(clusters) > 1 else ""
        expected = [labels[stream][is_chosen].tolist().count(unit) for unit in range(k)]
        assert loss.tallies[f"labels{suffix}"].tolist() == expected
        best = objective.logits(encoded.last[is_chosen])[stream].argmax(-1).tolist()
        assert loss.tallies[f"predicted{suffix}"].tolist() == [best.count(unit) for unit in range(k)]


def test_a_trunk_that_says_the_same_everywhere_is_seen(tiny_encoder) -> None:
    trunk = SpeechEncoder(tiny_encoder).eval()
    encoded = trunk(noise(2, 8000), torch.tensor([8000, 6000]))
    healthy = feature_metrics(encoded.last, encoded.is_valid)
    flat = feature_metrics(_constant(encoded.last), encoded.is_valid)
    assert healthy["feature_cosine"] < 0.9 < 0.999 < flat["feature_cosine"]
    assert flat["feature_rank"] == 0 < healthy["feature_rank"]
    assert math.isfinite(healthy["feature_rank"].item())


def _constant(features: Tensor) -> Tensor:
    return features[:1, :1].expand_as(features)
