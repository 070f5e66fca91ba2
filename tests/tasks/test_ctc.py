"""Fine-tuning with CTC: speechssl.tasks.ctc."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.model.context import StepContext
from speechssl.model.masking import MaskConfig
from speechssl.tasks.ctc import CTCConfig, CTCModel, divergence_from_uniform, required_frames
from tests.model.tiny import noise, tiny_encoder
from tests.oracles.ctc import oracle_ctc_loss, oracle_required_frames

NO_MASK = MaskConfig(start_prob=0, min_spans=0)
TINY = CTCConfig(freeze_conv=True, freeze_steps=10, mask=NO_MASK, channel_mask=NO_MASK)
LENGTHS = (110, 70, 90)  # samples: 5, 3 and 4 frames
TARGETS = ([1, 2], [2, 2], [3])


def _model(config: CTCConfig = TINY) -> CTCModel:
    torch.manual_seed(0)
    model = CTCModel(tiny_encoder(), config, vocabulary_size=4)
    with torch.no_grad():
        model.head.weight.copy_(noise(4, 32))
    return model.train()


def _batch(targets: tuple[list[int], ...] = TARGETS, filling: int = 0) -> Batch:
    width = max(map(len, targets))
    return Batch(
        ids=tuple("abc"),
        waveforms=noise(3, max(LENGTHS)),
        num_samples=torch.tensor(LENGTHS),
        targets=torch.tensor([row + [filling] * (width - len(row)) for row in targets]),
        target_lengths=torch.tensor([len(row) for row in targets]),
    )


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(target=st.lists(st.integers(1, 2), min_size=1, max_size=4), padding=st.lists(st.integers(0, 2), max_size=3))
def test_required_frames_are_those_of_the_shortest_path(target: list[int], padding: list[int]) -> None:
    found = required_frames(torch.tensor([target + padding]), torch.tensor([len(target)]))
    assert found.tolist() == [oracle_required_frames(target)]


def test_required_frames_are_counted_row_by_row() -> None:
    targets = torch.tensor([[1, 1, 1], [1, 1, 2], [1, 2, 2]])
    assert required_frames(targets, torch.tensor([3, 3, 1])).tolist() == [5, 4, 1]


def test_loss_sums_over_every_path_that_collapses_to_the_target() -> None:
    model, batch = _model(), _batch()
    loss = model(batch, StepContext(step=0, generator=_generator()))
    logits, counts = model.logits(batch)
    assert counts.tolist() == [5, 3, 4]
    expected = [
        oracle_ctc_loss(logits[row, :count].log_softmax(-1).tolist(), TARGETS[row])
        for row, count in enumerate(counts.tolist())
    ]
    assert loss.value.item() == pytest.approx(sum(expected), rel=1e-4)
    assert loss.parts["ctc_loss"].item() == pytest.approx(sum(expected) / 5, rel=1e-4)


def test_weights_are_factors_of_the_losses_of_utterances() -> None:
    model, batch, weights = _model(), _batch(), (0.25, 2.0, 0.0)
    weighted = dataclasses.replace(batch, weights=torch.tensor(weights))
    found = model(weighted, StepContext(step=0, generator=_generator()))
    logits, counts = model.logits(batch)
    losses = [
        oracle_ctc_loss(logits[row, :count].log_softmax(-1).tolist(), TARGETS[row])
        for row, count in enumerate(counts.tolist())
    ]
    expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    assert found.value.item() == pytest.approx(expected, rel=1e-4)
    assert int(found.count) == 3
    ones = model(dataclasses.replace(batch, weights=torch.ones(3)), StepContext(step=0, generator=_generator()))
    assert torch.equal(ones.value, model(batch, StepContext(step=0, generator=_generator())).value)


@pytest.mark.parametrize("weights", [None, (0.25, 2.0, 0.75)])
def test_smoothing_is_a_share_of_the_divergence_of_valid_frames(weights: tuple[float, ...] | None) -> None:
    model, batch = _model(dataclasses.replace(TINY, smoothing=0.3)), _batch()
    if weights is not None:
        batch = dataclasses.replace(batch, weights=torch.tensor(weights))
    found = model(batch, StepContext(step=0, generator=_generator()))
    logits, counts = model.logits(batch)
    expected, plain = 0.0, 0.0
    for row, (count, weight) in enumerate(zip(counts.tolist(), weights or (1.0,) * 3, strict=True)):
        posteriors = logits[row, :count].detach().softmax(-1)
        loss = oracle_ctc_loss(posteriors.log().tolist(), TARGETS[row])
        divergence = float((posteriors * (posteriors * 4).log()).sum())  # from 1/4 each
        expected += weight * (0.7 * loss + 0.3 * divergence)
        plain += loss
    assert found.value.item() == pytest.approx(expected, rel=1e-4)
    assert found.parts["ctc_loss"].item() == pytest.approx(plain / 5, rel=1e-4)


def test_divergence_from_uniform_is_zero_where_nothing_is_known_and_finite_where_all_is() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [1e4, 0.0, 0.0, 0.0]]], requires_grad=True)
    found = divergence_from_uniform(logits.log_softmax(-1))
    assert found[0].tolist() == pytest.approx([0.0, math.log(4)], abs=1e-6)
    found.sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_count_is_the_number_of_utterances() -> None:
    assert int(_model()(_batch(), StepContext(step=0, generator=_generator())).count) == 3


def test_target_too_long_for_its_frames_adds_nothing_and_is_counted() -> None:
    model = _model()
    possible = model(_batch(), StepContext(step=0, generator=_generator()))
    impossible = model(_batch(([1, 2], [2, 2, 3], [3])), StepContext(step=0, generator=_generator()))
    logits, _ = model.logits(_batch())
    second = oracle_ctc_loss(logits[1, :3].log_softmax(-1).tolist(), [2, 2])
    assert int(possible.parts["impossible"]) == 0
    assert int(impossible.parts["impossible"]) == 1
    assert (possible.value - impossible.value).item() == pytest.approx(second, rel=1e-3)


def test_impossible_target_gives_finite_gradients() -> None:
    model = _model()
    model(
        _batch(([1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3])), StepContext(step=100, generator=_generator())
    ).value.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("filling", [1, 3])
def test_padding_of_the_targets_does_not_matter(filling: int) -> None:
    model = _model()
    losses = [model(_batch(filling=value), StepContext(step=0, generator=_generator())) for value in (0, filling)]
    assert torch.equal(losses[0].value, losses[1].value)
    assert torch.equal(losses[0].parts["impossible"], losses[1].parts["impossible"])


def _gradients(model: CTCModel, step: int) -> dict[str, Tensor]:
    model(_batch(), StepContext(step=step, generator=_generator())).value.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("step", [0, 9])
def test_only_the_head_learns_in_the_first_steps(step: int) -> None:
    assert set(_gradients(_model(), step)) == {"head.weight", "head.bias"}


def test_transformer_learns_after_the_first_steps_and_the_extractor_never() -> None:
    names = set(_gradients(_model(), 10))
    assert {"head.weight", "encoder.project.weight", "encoder.transformer.layers.0.expand.weight"} <= names
    assert not any(name.startswith("encoder.conv.") for name in names)


def test_extractor_learns_if_the_configuration_says_so() -> None:
    model = _model(dataclasses.replace(TINY, freeze_conv=False))
    assert any(name.startswith("encoder.conv.") for name in _gradients(model, 10))


@pytest.mark.parametrize(("token", "share"), [(0, 1.0), (1, 0.0)])
def test_blank_share_is_the_share_of_valid_frames_whose_best_token_is_the_blank(token: int, share: float) -> None:
    model = _model()
    with torch.no_grad():
        model.head.bias[token] = 1000.0
    assert model(_batch(), StepContext(step=0, generator=_generator())).parts["blank_share"].item() == share


def test_blank_share_does_not_look_at_the_padding() -> None:
    model = _model()
    batch = _batch()
    logits, counts = model.logits(batch)
    blanks = [int((logits[row, :count].argmax(-1) == 0).sum()) for row, count in enumerate(counts.tolist())]
    found = model(batch, StepContext(step=0, generator=_generator())).parts["blank_share"].item()
    assert found == pytest.approx(sum(blanks) / 12)


def _seen_by_the_encoder(model: CTCModel, generator: torch.Generator | None) -> tuple[Tensor | None, Tensor | None]:
    seen = []
    with model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2:4])):
        model.logits(_batch(), StepContext(generator=generator))
    return seen[0]


MASKED = dataclasses.replace(
    TINY, mask=MaskConfig(start_prob=0, span=2, min_spans=1), channel_mask=MaskConfig(start_prob=0, span=7, min_spans=1)
)


def test_training_masks_frames_and_channels() -> None:
    is_masked, is_channel_masked = _seen_by_the_encoder(_model(MASKED), _generator())
    assert is_masked.sum(1).tolist() == [2, 2, 2]
    assert is_channel_masked.shape == (3, 32)
    assert is_channel_masked.sum(1).tolist() == [7, 7, 7]


@pytest.mark.parametrize(("is_training", "has_generator"), [(False, True), (True, False)])
def test_evaluation_and_inference_mask_nothing(is_training: bool, has_generator: bool) -> None:
    model = _model(MASKED).train(is_training)
    assert _seen_by_the_encoder(model, _generator() if has_generator else None) == (None, None)


def test_batch_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch without targets cannot be scored"):
        _model()(dataclasses.replace(_batch(), targets=None), StepContext(step=0, generator=_generator()))


def test_default_schedule_is_the_references_for_ten_hours() -> None:
    config = CTCConfig()
    assert (config.freeze_conv, config.freeze_steps) == (True, 10_000)
    assert (config.mask.start_prob, config.mask.span) == (0.065, 10)
    assert (config.channel_mask.start_prob * 64, config.channel_mask.span) == (0.5, 64)
