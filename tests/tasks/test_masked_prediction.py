"""HuBERT's objective: speechssl.tasks.masked_prediction."""

import dataclasses

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError, LabelError
from speechssl.model.context import INFERENCE
from speechssl.model.encoder import Encoded
from speechssl.tasks.masked_prediction import MaskedPredictionConfig, MaskedPredictionObjective
from tests.model.tiny import noise, randomise
from tests.oracles.contrastive import oracle_cosine, oracle_cross_entropy
from tests.tasks.labelled import labelled

TINY = MaskedPredictionConfig(dim=8, feature_penalty=0.0)
LINEAR = dataclasses.replace(TINY, logits="linear")
IS_MASKED = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
IS_VALID = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()  # leaves 7 masked and 3 unmasked frames


def _objective(config: MaskedPredictionConfig = TINY, clusters: tuple[int, ...] = (5,)) -> MaskedPredictionObjective:
    objective = MaskedPredictionObjective(config, dim=32, clusters=clusters)
    randomise(objective)
    return objective


def _encoded() -> Encoded:
    conv = noise(2, 6, 16)
    return Encoded(conv=conv, features=conv * 2, layers=[noise(2, 6, 32, seed=1)], is_valid=IS_VALID.clone())


def _labels(*clusters: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(k, (2, 6), generator=generator) for k in clusters])


def _oracle_loss(objective: MaskedPredictionObjective, is_chosen: Tensor, labels: Tensor, stream: int = 0) -> float:
    """Sum the cross-entropy over the chosen frames, one by one."""
    total = 0.0
    for row, frame in is_chosen.nonzero().tolist():
        logits = objective.logits(_encoded().last[row, frame])[stream]
        total += oracle_cross_entropy(logits.tolist(), int(labels[stream, row, frame]))
    return total


def test_cosine_logits_compare_the_projection_with_every_label_embedding() -> None:
    objective = _objective(dataclasses.replace(TINY, temperature=0.2), clusters=(5, 3))
    x = noise(4, 32)
    projected = objective.project(x)
    for stream, found in enumerate(objective.logits(x)):
        part = projected[:, 8 * stream : 8 * stream + 8].tolist()
        embeddings = objective.embeddings[stream].tolist()
        expected = torch.tensor([[oracle_cosine(row, one) / 0.2 for one in embeddings] for row in part])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_linear_logits_are_a_linear_layer_for_each_stream() -> None:
    objective = _objective(LINEAR, clusters=(5, 3))
    x = noise(4, 32)
    for head, found in zip(objective.heads, objective.logits(x), strict=True):
        torch.testing.assert_close(found, x @ head.weight.T + head.bias)


@pytest.mark.parametrize("config", [TINY, LINEAR], ids=["cosine", "linear"])
@pytest.mark.parametrize(("masked", "unmasked"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.7, 0.2)])
def test_loss_is_the_weighted_cross_entropy_of_masked_and_unmasked_frames(
    config: MaskedPredictionConfig, masked: float, unmasked: float
) -> None:
    objective = _objective(dataclasses.replace(config, masked_weight=masked, unmasked_weight=unmasked))
    labels = _labels(5)
    loss = objective(_encoded(), IS_MASKED, labelled(labels), INFERENCE)
    on_masked = _oracle_loss(objective, IS_MASKED & IS_VALID, labels)
    on_unmasked = _oracle_loss(objective, ~IS_MASKED & IS_VALID, labels)
    assert loss.value.item() == pytest.approx(masked * on_masked + unmasked * on_unmasked, rel=1e-4)
    assert loss.parts["masked_loss"].item() == pytest.approx(on_masked / 7, rel=1e-4)
    assert loss.parts["unmasked_loss"].item() == pytest.approx(on_unmasked / 3, rel=1e-4)


@pytest.mark.parametrize(("masked", "unmasked", "count"), [(1.0, 0.0, 7), (0.0, 1.0, 3), (0.5, 0.1, 10)])
def test_count_takes_the_frames_that_are_weighed(masked: float, unmasked: float, count: int) -> None:
    config = dataclasses.replace(TINY, masked_weight=masked, unmasked_weight=unmasked)
    assert int(_objective(config)(_encoded(), IS_MASKED, labelled(_labels(5)), INFERENCE).count) == count


def test_several_streams_add_their_losses_and_count_each_frame_once() -> None:
    objective, labels = _objective(clusters=(5, 3)), _labels(5, 3)
    loss = objective(_encoded(), IS_MASKED, labelled(labels), INFERENCE)
    expected = [_oracle_loss(objective, IS_MASKED & IS_VALID, labels, stream) for stream in range(2)]
    assert int(loss.count) == 7
    assert loss.value.item() == pytest.approx(sum(expected), rel=1e-4)
    for stream in range(2):
        assert loss.parts[f"masked_loss_{stream}"].item() == pytest.approx(expected[stream] / 7, rel=1e-4)


def test_accuracy_is_the_share_of_frames_whose_unit_scores_best() -> None:
    objective, labels = _objective(), _labels(5)
    best = objective.logits(_encoded().last)[0].argmax(-1)
    labels[0, 0] = best[0]
    labels[0, 1] = (best[1] + 1) % 5
    parts = objective(_encoded(), IS_MASKED, labelled(labels), INFERENCE).parts
    assert parts["masked_accuracy"].item() == pytest.approx(4 / 7)
    assert parts["unmasked_accuracy"].item() == pytest.approx(2 / 3)


def test_feature_penalty_is_multiplied_by_the_count() -> None:
    plain = _objective()(_encoded(), IS_MASKED, labelled(_labels(5)), INFERENCE)
    penalised = _objective(dataclasses.replace(TINY, feature_penalty=4.0))(
        _encoded(), IS_MASKED, labelled(_labels(5)), INFERENCE
    )
    mean_square = _encoded().conv[IS_VALID].square().mean().item()
    assert penalised.parts["feature_penalty"].item() == pytest.approx(mean_square, rel=1e-5)
    assert (penalised.value - plain.value).item() == pytest.approx(7 * 4.0 * mean_square, rel=1e-4)


def test_labels_of_the_padding_may_be_anything() -> None:
    labels = _labels(5)
    disturbed = labels.masked_fill(~IS_VALID, -100)
    one, other = (_objective()(_encoded(), IS_MASKED, labelled(found), INFERENCE) for found in (labels, disturbed))
    assert torch.equal(one.value, other.value)


@pytest.mark.parametrize("streams", [1, 3])
def test_number_of_streams_must_be_that_of_the_heads(streams: int) -> None:
    with pytest.raises(LabelError, match=rf"found {streams} label streams, expected 2"):
        _objective(clusters=(5, 5))(_encoded(), IS_MASKED, labelled(_labels(*[5] * streams)), INFERENCE)


def test_frames_without_weight_send_no_gradient() -> None:
    encoded = _encoded()
    encoded.last.requires_grad_()
    _objective()(encoded, IS_MASKED, labelled(_labels(5)), INFERENCE).value.backward()
    has_gradient = encoded.last.grad.abs().sum(-1) > 0
    assert torch.equal(has_gradient, IS_MASKED & IS_VALID)


def test_default_weights_are_those_of_hubert_base() -> None:
    config = MaskedPredictionConfig()
    assert (config.masked_weight, config.unmasked_weight, config.feature_penalty, config.temperature) == (1, 0, 10, 0.1)
    assert (config.mask.start_prob, config.mask.span) == (0.08, 10)


@pytest.mark.parametrize(("masked", "unmasked"), [(0.0, 0.0), (-1.0, 1.0)])
def test_weights_that_leave_nothing_to_learn_are_refused(masked: float, unmasked: float) -> None:
    with pytest.raises(ConfigError, match=rf"one of them above 0; found {masked} and {unmasked}"):
        MaskedPredictionConfig(masked_weight=masked, unmasked_weight=unmasked)
