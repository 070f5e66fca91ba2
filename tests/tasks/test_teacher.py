"""The objective of data2vec and DinoSR: speechssl.tasks.teacher."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.errors import ConfigError, TrainingError
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded
from speechssl.model.frames import frame_count
from speechssl.model.masking import MaskConfig
from speechssl.plan.costs import pretraining_flops
from speechssl.tasks.ema import EmaConfig
from speechssl.tasks.flops import transformer_products, trunk_products
from speechssl.tasks.online_codebooks import OnlineCodebookConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.teacher import TeacherConfig, TeacherObjective
from tests.model.tiny import BASE_LIKE, TINY_STACK, noise, randomise, tiny_encoder
from tests.oracles.contrastive import oracle_cross_entropy
from tests.oracles.teacher import oracle_nearest, oracle_normalized

MASK = MaskConfig(start_prob=0.1, span=3)
EMA = EmaConfig(start=0.5, end=0.75, steps=2)
REGRESSION = TeacherConfig(layers=2, ema=EMA, mask=MASK)
CODEBOOKS = dataclasses.replace(REGRESSION, form="codebooks", codebooks=OnlineCodebookConfig(entries=5))
FORMS = pytest.mark.parametrize("config", [REGRESSION, CODEBOOKS], ids=["regression", "codebooks"])
LENGTHS = (820, 430, 610)
COUNTS = frame_count(torch.tensor(LENGTHS), TINY_STACK)
CONTEXT = StepContext(step=3)


def model_of(config: TeacherConfig) -> PretrainModel:
    """Build a model whose teacher differs from the student."""
    torch.manual_seed(0)
    model = PretrainModel(tiny_encoder(BASE_LIKE), TeacherObjective(config, dim=32))
    randomise(model.objective.head)
    randomise(model.encoder.transformer, seed=7)
    return model.train()


def batch_of(**changes: object) -> Batch:
    batch = Batch(ids=tuple("abc"), waveforms=noise(3, 820), num_samples=torch.tensor(LENGTHS))
    return dataclasses.replace(batch, **changes)


def encode(model: PretrainModel) -> tuple[Encoded, Tensor]:
    is_masked = torch.zeros(3, int(COUNTS.max()), dtype=torch.bool)
    is_masked[:, 2:9] = True
    return model.encoder(batch_of().waveforms, torch.tensor(LENGTHS), is_masked), is_masked


def oracle_targets(model: PretrainModel) -> list[list[list[list[float]]]]:
    """Return the normalised layers of the teacher for each utterance alone: layers x utterances x frames x dim."""
    teacher = model.objective.teacher
    rows: list[list[list[list[float]]]] = [[], []]
    for waveform, length in zip(batch_of().waveforms, LENGTHS, strict=True):
        alone = model.encoder(waveform[None, :length], torch.tensor([length]))
        for layer, output in enumerate(teacher(alone.features, alone.is_valid)):
            rows[layer].append(oracle_normalized(output[0].tolist()))
    return rows


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_regression_predicts_the_average_of_the_normalised_layers(beta: float) -> None:
    model = model_of(dataclasses.replace(REGRESSION, beta=beta))
    encoded, is_masked = encode(model)
    first, second = oracle_targets(model)
    expected = 0.0
    for row, frame in is_masked.nonzero().tolist():
        predicted = model.objective.head.predict(encoded.last[row, frame]).tolist()
        for channel, value in enumerate(predicted):
            error = abs(value - (first[row][frame][channel] + second[row][frame][channel]) / 2)
            expected += error**2 if beta == 0 else error - beta / 2 if error > beta else error**2 / (2 * beta)
    loss = model.objective(encoded, is_masked, batch_of(), CONTEXT)
    assert loss.value.item() == pytest.approx(expected / math.sqrt(32), rel=1e-4)
    assert loss.count.item() == 21
    assert loss.parts["masked_loss"].item() == pytest.approx(expected / (21 * 32), rel=1e-4)


def test_the_average_may_be_normalised_over_its_channels() -> None:
    head = TeacherObjective(dataclasses.replace(REGRESSION, norm_average=True), dim=32).head
    average = head.answers(noise(2, 9, 32))
    torch.testing.assert_close(average.mean(1), torch.zeros(9), atol=1e-5, rtol=0)
    torch.testing.assert_close(average.square().mean(1), torch.ones(9), atol=1e-4, rtol=0)


def test_codebooks_are_predicted_layer_by_layer() -> None:
    model = model_of(dataclasses.replace(CODEBOOKS, unmasked_weight=0.5))
    encoded, is_masked = encode(model)
    head, sums = model.objective.head, {True: 0.0, False: 0.0}
    targets = oracle_targets(model)
    for row, frame in encoded.is_valid.nonzero().tolist():
        logits = head.logits(encoded.last[row, frame][None])[0].tolist()
        for layer in range(2):
            code = oracle_nearest(targets[layer][row][frame], head.codebooks.entries[layer].tolist())
            sums[bool(is_masked[row, frame])] += oracle_cross_entropy(logits[layer], code) / 2
    loss = model.objective(encoded, is_masked, batch_of(), CONTEXT)
    assert loss.value.item() == pytest.approx(sums[True] + 0.5 * sums[False], rel=1e-4)
    assert loss.count.item() == int(COUNTS.sum())
    assert loss.tallies["codes"].sum(1).tolist() == [float(COUNTS.sum())] * 2


@FORMS
def test_the_student_alone_learns_and_all_of_it(config: TeacherConfig) -> None:
    model = model_of(config)
    model(batch_of(), StepContext(step=0, generator=torch.Generator().manual_seed(0))).value.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith("objective.teacher.")), name
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == parameter.requires_grad, name


@FORMS
def test_teacher_and_codebooks_move_after_a_step_only(config: TeacherConfig) -> None:
    model = model_of(config)
    before = {name: tensor.clone() for name, tensor in model.objective.state_dict().items()}
    model(batch_of(), StepContext(step=0, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.objective.state_dict().items())
    model.after_step(1)
    moved = {name for name, tensor in model.objective.state_dict().items() if not torch.equal(tensor, before[name])}
    codebooks = {"head.codebooks.entries", "head.codebooks.usage"} if config.form == "codebooks" else set()
    assert moved == codebooks | {f"teacher.{name}" for name, _ in model.encoder.named_parameters() if _follows(name)}
    kept, student = before["teacher.transformer.layers.0.expand.weight"], model.encoder.transformer.layers[0].expand
    found = model.objective.teacher.transformer.layers[0].expand.weight
    torch.testing.assert_close(found, 0.625 * kept + 0.375 * student.weight.detach())  # half way from 0.5 to 0.75


def _follows(name: str) -> bool:
    return name.startswith("transformer.")  # the projection of `model_of` is still the teacher's


@pytest.mark.parametrize("still", ["evaluation", "stand-in"])
def test_neither_evaluation_nor_a_stand_in_moves_the_codebooks(still: str) -> None:
    model = model_of(CODEBOOKS).train(still == "stand-in")
    before = {name: tensor.clone() for name, tensor in model.objective.head.codebooks.state_dict().items()}
    batch = batch_of(is_stand_in=still == "stand-in")
    model(batch, StepContext(step=0, generator=torch.Generator().manual_seed(0)))
    model.after_step(1)
    assert all(torch.equal(x, before[name]) for name, x in model.objective.head.codebooks.state_dict().items())


@FORMS
def test_padding_and_what_is_masked_do_not_change_the_targets(config: TeacherConfig) -> None:
    model = model_of(config).eval()
    lengths = torch.tensor(LENGTHS)
    plain = model.encoder(batch_of().waveforms, lengths)
    padded = model.encoder(torch.nn.functional.pad(batch_of().waveforms, (0, 140), value=3.0), lengths)
    masked, _ = encode(model)
    expected, _ = model.objective.targets(plain)
    for encoded in (padded, masked):
        found, _ = model.objective.targets(encoded)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_perfect_and_a_constant_prediction_are_told_from_guessing() -> None:
    head = TeacherObjective(REGRESSION, dim=32).head
    answers = noise(50, 32)
    torch.nn.init.zeros_(head.predict.weight)
    head.predict.bias.data = answers.mean(0)
    _, metrics = head.score(noise(50, 32, seed=1), answers)
    assert metrics["loss_over_guessing"].item() == pytest.approx(1.0)
    assert metrics["prediction_var"].item() == pytest.approx(0.0, abs=1e-6)
    assert metrics["target_var"].item() == pytest.approx(answers.var(0, unbiased=False).mean().item(), rel=1e-4)
    torch.nn.init.eye_(head.predict.weight)
    torch.nn.init.zeros_(head.predict.bias)
    _, metrics = head.score(answers, answers)
    assert metrics["loss_over_guessing"].item() == pytest.approx(0.0, abs=1e-6)


def test_units_are_the_codes_of_the_lowest_layer() -> None:
    objective = model_of(CODEBOOKS).objective
    units, number = objective.predicted_units(noise(6, 32))
    assert number == 5
    assert torch.equal(units, objective.head.predict(noise(6, 32))[:, :5].argmax(-1))
    assert model_of(REGRESSION).objective.predicted_units(noise(6, 32)) is None


def test_more_layers_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective\.layers=3 asks for more layers than .*num_layers=2; expected at"):
        model_of(dataclasses.replace(REGRESSION, layers=3))


def test_an_objective_without_an_encoder_says_so() -> None:
    encoded, is_masked = encode(model_of(REGRESSION))
    with pytest.raises(TrainingError, match=r"the objective has no teacher, expected `attach\(encoder\)`"):
        TeacherObjective(REGRESSION, dim=32)(encoded, is_masked, batch_of(), CONTEXT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, r"objective\.layers must be 1 or more and objective\.beta not negative"),
        ({"beta": -1.0}, r"objective\.layers must be 1 or more and objective\.beta not negative"),
        ({"masked_weight": 0.0}, r"masked_weight and objective\.unmasked_weight must not be negative, and one"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(REGRESSION, **changes)  # type: ignore[arg-type]


@FORMS
def test_the_plan_counts_the_teacher_s_pass(config: TeacherConfig) -> None:
    def flops(objective: TeacherConfig) -> float:
        return pretraining_flops(BASE_LIKE, objective, clusters=(), samples=16_000)

    frames = int(frame_count(torch.tensor(16_000), TINY_STACK))
    teacher = sum(product.flops for product in transformer_products(BASE_LIKE, 1, frames, is_training=False))
    trunk = sum(product.flops for product in trunk_products(BASE_LIKE, 1, 16_000))
    head = 3 * 2 * frames * 32 * (2 * 5 if config.form == "codebooks" else 32)
    codebooks = 2 * 2 * frames * 32 * 2 * 5 if config.form == "codebooks" else 0
    with_all = dataclasses.replace(config, unmasked_weight=1.0)
    assert flops(with_all) == pytest.approx(trunk + teacher + head + codebooks)
    assert flops(config) < flops(with_all)
