"""wav2vec 2.0's objective: speechssl.tasks.contrastive."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechssl.errors import ConfigError, TrainingError
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded
from speechssl.tasks.contrastive import (
    ContrastiveConfig,
    ContrastiveObjective,
    draw_negatives,
    own_similarities,
)
from speechssl.tasks.model import LossSum
from speechssl.tasks.quantizer import QuantizerConfig
from tests.model.tiny import BASE_LIKE, noise, randomise
from tests.oracles.contrastive import oracle_contrastive_logits, oracle_cross_entropy, oracle_like_loudness
from tests.tasks.labelled import labelled

TINY = ContrastiveConfig(
    dim=8, negatives=6, feature_dropout=0.0, quantizer=QuantizerConfig(groups=2, entries=5, dim=12)
)
IS_MASKED = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]]).bool()  # 7 frames
SIZES = st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any)  # masked frames of each utterance


def _objective(config: ContrastiveConfig = TINY) -> ContrastiveObjective:
    objective = ContrastiveObjective(config, dim=32, conv_dim=16)
    randomise(objective)
    return objective.eval()


def _encoded(frames: int = 6, batch: int = 2) -> Encoded:
    conv = noise(batch, frames, 16)
    is_valid = torch.ones(batch, frames, dtype=torch.bool)
    return Encoded(conv=conv, features=conv * 2, layers=[noise(batch, frames, 32, seed=1)], is_valid=is_valid)


def _forward(objective: ContrastiveObjective, encoded: Encoded, is_masked: Tensor, seed: int = 0) -> LossSum:
    return objective(encoded, is_masked, labelled(), StepContext(step=0, generator=torch.Generator().manual_seed(seed)))


def _utterances(sizes: list[int]) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


@settings(max_examples=80, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_own_negatives_are_other_masked_frames_of_the_same_utterance(sizes: list[int], seed: int) -> None:
    utterance = _utterances(sizes)
    drawn = draw_negatives(utterance, 9, 0, torch.Generator().manual_seed(seed))
    assert drawn.shape == (sum(sizes), 9)
    for position, row in enumerate(drawn.tolist()):
        if sizes[int(utterance[position])] == 1:
            assert row == [-1] * 9
        else:
            assert position not in row
            assert {int(utterance[other]) for other in row} == {int(utterance[position])}


@settings(max_examples=80, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_cross_negatives_are_other_masked_frames_of_the_batch(sizes: list[int], seed: int) -> None:
    drawn = draw_negatives(_utterances(sizes), 2, 9, torch.Generator().manual_seed(seed))
    assert drawn.shape == (sum(sizes), 11)
    for position, row in enumerate(drawn[:, 2:].tolist()):
        if sum(sizes) == 1:
            assert row == [-1] * 9
        else:
            assert position not in row
            assert all(0 <= other < sum(sizes) for other in row)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, neighbours=st.integers(1, 6), seed=st.integers(0, 1000))
def test_negatives_of_like_loudness_are_the_nearest_in_its_order(sizes: list[int], neighbours: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    utterance = _utterances(sizes)
    loudness = torch.randint(4, (sum(sizes),), generator=generator).float()  # with equal ones
    drawn = draw_negatives(utterance, 300, 2, generator, loudness=loudness, neighbours=neighbours)
    start = 0
    for size in sizes:
        own = loudness[start : start + size].tolist()
        for frame in range(size):
            expected = {start + other for other in oracle_like_loudness(own, frame, neighbours)} or {-1}
            assert {*drawn[start + frame, :300].tolist()} == expected
        start += size
    assert drawn.shape == (sum(sizes), 302)


def test_as_many_neighbours_as_there_are_frames_are_all_of_them() -> None:
    draws = [
        draw_negatives(_utterances([5, 4]), 400, 0, torch.Generator().manual_seed(0), **like)
        for like in ({}, {"loudness": noise(9), "neighbours": 99})
    ]
    assert [{*row} for row in draws[0].tolist()] == [{*row} for row in draws[1].tolist()]


@pytest.mark.parametrize(("own", "cross", "others"), [(3000, 0, range(3, 8)), (0, 3000, range(8))])
def test_negatives_are_uniform(own: int, cross: int, others: range) -> None:
    drawn = draw_negatives(_utterances([3, 5]), own, cross, torch.Generator().manual_seed(0))
    for position in range(3, 8):
        counts = torch.bincount(drawn[position], minlength=8)
        expected = torch.tensor([3000 / (len(others) - 1) if k in others and k != position else 0.0 for k in range(8)])
        possible = expected > 0
        assert (counts[~possible] == 0).all()
        chi_square = ((counts - expected)[possible].square() / expected[possible]).sum()
        assert float(chi_square) < 28  # at most 6 degrees of freedom: exceeded once in 10,000 trials


def test_negatives_follow_the_generator_and_nothing_else() -> None:
    draws = []
    for global_seed, seed in ((0, 1), (1, 1), (1, 2)):
        torch.manual_seed(global_seed)
        draws.append(draw_negatives(_utterances([4, 7]), 20, 0, torch.Generator().manual_seed(seed)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])


@pytest.mark.parametrize("cross", [0, 4])
@pytest.mark.parametrize("sizes", [[5, 3], [1, 6], [7], [4, 1, 1, 2]])
def test_logits_equal_cosines_taken_pair_by_pair(sizes: list[int], cross: int) -> None:
    objective = _objective(dataclasses.replace(TINY, cross_negatives=cross))
    utterance = _utterances(sizes)
    masked = len(utterance)
    context, targets = noise(masked, 8), noise(masked, 8, seed=1)
    codes = torch.randint(2, (masked, 2), generator=torch.Generator().manual_seed(0))  # many are equal
    negatives = draw_negatives(utterance, 6, cross, torch.Generator().manual_seed(1))

    found = objective.score(context, targets, codes, utterance, negatives)

    expected = oracle_contrastive_logits(
        context.tolist(), targets.tolist(), codes.tolist(), negatives.tolist(), TINY.temperature
    )
    assert torch.isinf(found).any()
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", [1.0, 1.25, 100.0])
@pytest.mark.parametrize("sizes", [[5, 3], [1, 6], [7], [4, 1, 1, 2], [3, 3, 3], [9, 10, 10]])
def test_products_of_own_negatives_equal_those_taken_pair_by_pair_with_their_gradients(
    sizes: list[int], padding: float
) -> None:
    utterance = _utterances(sizes)
    context, targets = (noise(len(utterance), 8, seed=k).double().requires_grad_() for k in range(2))
    negatives = draw_negatives(utterance, 6, 0, torch.Generator().manual_seed(1))
    exists = negatives >= 0

    found = own_similarities(context, targets, utterance, negatives, padding)
    expected = torch.stack(
        [
            torch.stack([context[frame] @ targets[other] for other in row])
            for frame, row in enumerate(negatives.clamp(min=0).tolist())
        ]
    )

    torch.testing.assert_close(found[exists], expected[exists])
    cotangent = noise(*found.shape, seed=2).double() * exists
    for one, other in zip(
        torch.autograd.grad(found, (context, targets), cotangent),
        torch.autograd.grad(expected, (context, targets), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_utterances_without_a_masked_frame_do_not_shift_the_others() -> None:
    objective, context, targets = _objective(), noise(5, 8), noise(5, 8, seed=1)
    codes = torch.arange(5)[:, None].expand(-1, 2)
    gap, dense = torch.tensor([1, 1, 4, 4, 4]), torch.tensor([0, 0, 1, 1, 1])
    negatives = draw_negatives(gap, 6, 0, torch.Generator().manual_seed(1))
    assert torch.equal(negatives, draw_negatives(dense, 6, 0, torch.Generator().manual_seed(1)))
    assert torch.equal(
        objective.score(context, targets, codes, gap, negatives),
        objective.score(context, targets, codes, dense, negatives),
    )


@pytest.mark.parametrize("cross", [0, 3])
def test_contrastive_loss_is_the_cross_entropy_of_the_target(cross: int) -> None:
    objective = _objective(dataclasses.replace(TINY, cross_negatives=cross))
    encoded = _encoded()
    loss = _forward(objective, encoded, IS_MASKED, seed=4)

    generator = torch.Generator().manual_seed(4)
    quantized = objective.quantizer(encoded.features[IS_MASKED], temperature=2.0, generator=generator)
    negatives = draw_negatives(IS_MASKED.nonzero()[:, 0], 6, cross, generator)
    rows = oracle_contrastive_logits(
        objective.project_context(encoded.last[IS_MASKED]).tolist(),
        objective.project_quantized(quantized.vectors).tolist(),
        quantized.codes.tolist(),
        negatives.tolist(),
        TINY.temperature,
    )
    expected = sum(oracle_cross_entropy(row, 0) for row in rows)
    assert int(loss.count) == 7
    assert float(loss.parts["contrastive_loss"]) == pytest.approx(expected / 7, rel=1e-4)


def test_additional_losses_are_multiplied_by_the_number_of_masked_frames() -> None:
    config = dataclasses.replace(TINY, diversity_weight=0.3, feature_penalty=7.0)
    loss = _forward(_objective(config), _encoded(), IS_MASKED)
    parts = {name: float(value) for name, value in loss.parts.items()}
    expected = 7 * (parts["contrastive_loss"] + 0.3 * parts["diversity_loss"] + 7.0 * parts["feature_penalty"])
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)


def test_default_weights_are_those_of_the_paper_and_the_released_code() -> None:
    config = ContrastiveConfig()
    assert (config.diversity_weight, config.feature_penalty, config.temperature, config.negatives) == (
        0.1,
        10,
        0.1,
        100,
    )


def test_diversity_is_the_share_of_entries_the_perplexity_does_not_reach() -> None:
    parts = _forward(_objective(), _encoded(), IS_MASKED).parts
    assert float(parts["diversity_loss"]) == pytest.approx((10 - float(parts["soft_perplexity"])) / 10, rel=1e-5)


def test_feature_penalty_is_the_mean_square_over_valid_frames() -> None:
    encoded = _encoded()
    encoded.is_valid[1, 4:] = False
    loss = _forward(_objective(), encoded, IS_MASKED)
    valid = torch.cat([encoded.conv[0], encoded.conv[1, :4]])
    assert float(loss.parts["feature_penalty"]) == pytest.approx(float(valid.square().mean()), rel=1e-5)


def test_masked_positions_in_the_padding_are_not_scored() -> None:
    encoded = _encoded()
    encoded.is_valid[1, 4:] = False
    padded = IS_MASKED.clone()
    padded[1, 4:] = True
    expected, found = (_forward(_objective(), encoded, is_masked) for is_masked in (IS_MASKED, padded))
    assert int(found.count) == int(expected.count) == 7
    assert found.value.item() == pytest.approx(expected.value.item(), rel=1e-6)


def test_single_masked_frame_of_an_utterance_adds_nothing_to_the_contrastive_loss() -> None:
    is_masked = IS_MASKED.clone()
    is_masked[1] = torch.tensor([0, 0, 1, 0, 0, 0])
    encoded = _encoded()
    encoded.last.requires_grad_()
    loss = _forward(_objective(), encoded, is_masked)
    first = is_masked.clone()
    first[1] = False
    alone = _forward(_objective(), encoded, first)
    loss.value.backward()
    assert int(loss.count) == 5
    assert float(loss.parts["contrastive_loss"]) * 5 == pytest.approx(
        float(alone.parts["contrastive_loss"]) * 4, rel=1e-5
    )
    assert torch.isfinite(encoded.last.grad).all()
    assert (encoded.last.grad[1] == 0).all()


def test_micro_batches_add_up_to_one_batch_except_for_the_diversity_of_codes_which_each_has_of_its_own() -> None:
    objective, encoded = _objective(dataclasses.replace(TINY, diversity_weight=0.0)), _encoded()
    is_masked = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0]]).bool()  # one negative for each: nothing to draw
    whole = _forward(objective, encoded, is_masked)
    parts = []
    for row in (slice(0, 1), slice(1, 2)):
        own = Encoded(
            conv=encoded.conv[row],
            features=encoded.features[row],
            layers=[encoded.last[row]],
            is_valid=encoded.is_valid[row],
        )
        parts.append(_forward(objective, own, is_masked[row], seed=1))
    assert whole.value.item() == pytest.approx(sum(part.value.item() for part in parts), rel=1e-5)
    assert int(whole.count) == sum(int(part.count) for part in parts) == 4
    usage = [float(part.parts["soft_perplexity"]) for part in parts]
    assert float(whole.parts["soft_perplexity"]) > sum(usage) / 2  # of the usage of both together


@pytest.mark.parametrize(
    ("logits", "accuracy"),
    [
        ([[2.0, 1.0, 0.0], [1.0, 0.5, -1.0]], 1.0),
        ([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0]], 0.5),
        ([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]], 0.0),
        ([[1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]], 0.5),
        ([[1.0, 2.0, -torch.inf], [3.0, 2.0, -torch.inf]], 0.5),
    ],
)
def test_accuracy_counts_the_frames_whose_target_wins_and_never_a_tie_of_all(
    monkeypatch: pytest.MonkeyPatch, logits: list[list[float]], accuracy: float
) -> None:
    objective = _objective()
    monkeypatch.setattr(objective, "score", lambda *_: torch.tensor(logits))
    is_masked = torch.zeros(2, 6, dtype=torch.bool)
    is_masked[0, :2] = True
    assert float(_forward(objective, _encoded(), is_masked).parts["accuracy"]) == accuracy


def test_negatives_follow_the_loudness_of_what_a_frame_sees_and_guessing_is_measured() -> None:
    shape = dataclasses.replace(BASE_LIKE, conv=((16, 4, 2),))
    objective = ContrastiveObjective(dataclasses.replace(TINY, loudness_neighbours=1), 32, 16, shape).eval()
    levels = torch.tensor([[5.0, 1, 9, 2, 6, 9], [9, 8, 1, 7, 9, 9]])  # of the two samples of each hop
    waveforms = torch.nn.functional.pad(levels.repeat_interleave(2, dim=1), (0, 2))
    batch = dataclasses.replace(labelled(), waveforms=waveforms)
    seen: list[Tensor] = []

    def score(_: Tensor, __: Tensor, codes: Tensor, utterance: Tensor, negatives: Tensor) -> Tensor:
        seen.append(negatives)
        return torch.tensor([[1.0, 0.0, -torch.inf]]).repeat(len(utterance), 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "score", score)
        loss = objective(_encoded(), IS_MASKED, batch, StepContext(generator=torch.Generator()))
    # mean squares of the four samples from each masked frame on: 13, 41, 20, 58.5; 32.5, 25, 65: the louder neighbour,
    # and for the loudest of an utterance the softer one
    assert [row[0] for row in seen[0].tolist()] == [2, 3, 1, 1, 6, 4, 4]
    assert float(loss.parts["guessing_loss"]) == pytest.approx(math.log(2))
    assert "guessing_loss" not in _forward(_objective(), _encoded(), IS_MASKED).parts


@pytest.mark.parametrize("options", [{"targets": "log_mel"}, {"loudness_neighbours": 2}])
def test_options_that_need_the_frames_of_the_encoder_say_so(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"need the encoder: build the model by `Task\.build`"):
        _forward(_objective(dataclasses.replace(TINY, **options)), _encoded(), IS_MASKED)


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"objective\.loudness_neighbours must be 1 or more, or null for all frames, found 0"
    ):
        dataclasses.replace(TINY, loudness_neighbours=0)


def test_collapsed_codebooks_leave_no_negative() -> None:
    objective = _objective()
    with torch.no_grad():
        objective.quantizer.score.bias[[0, 5]] = 1000.0  # every frame takes the first entry of both groups
    parts = _forward(objective, _encoded(), IS_MASKED).parts
    assert float(parts["contrastive_loss"]) == 0.0
    assert float(parts["code_perplexity"]) == pytest.approx(2, abs=1e-3)


def test_temperature_of_the_step_is_reported() -> None:
    loss = _objective()(_encoded(), IS_MASKED, labelled(), StepContext(step=200_000, generator=torch.Generator()))
    assert float(loss.parts["temperature"]) == pytest.approx(TINY.quantizer.temperature(200_000))


@pytest.mark.parametrize("name", ["contrastive_loss", "diversity_loss", "feature_penalty", "soft_perplexity"])
def test_reported_parts_are_detached(name: str) -> None:
    assert not _forward(_objective().train(), _encoded(), IS_MASKED).parts[name].requires_grad


def _disturb_context(encoded: Encoded) -> None:
    encoded.last[~IS_MASKED] += 5


def _disturb_features(encoded: Encoded) -> None:
    encoded.features[~IS_MASKED] += 5


@pytest.mark.parametrize("disturb", [_disturb_context, _disturb_features])
def test_unmasked_frames_do_not_matter(disturb: Callable[[Encoded], None]) -> None:
    plain, disturbed = _encoded(), _encoded()
    disturb(disturbed)
    assert torch.equal(
        _forward(_objective(), plain, IS_MASKED).value, _forward(_objective(), disturbed, IS_MASKED).value
    )


def test_batch_without_a_masked_frame_is_refused() -> None:
    nothing = torch.zeros((2, 6), dtype=torch.bool)
    with pytest.raises(TrainingError, match=r"no frame of the batch is masked.*objective\.mask\.min_spans"):
        _forward(_objective(), _encoded(), nothing)
