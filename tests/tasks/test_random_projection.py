"""BEST-RQ's objective and task: speechssl.tasks.random_projection, best_rq and random_projection_health."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.errors import ConfigError, LabelError
from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.encoder import Encoded, EncoderConfig, SpeechEncoder
from speechssl.model.masking import MaskConfig
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.random_projection import RandomProjectionConfig, RandomProjectionObjective
from speechssl.tasks.random_quantizer import CodebookConfig
from speechssl.tasks.registry import find_method, task_of
from speechssl.tasks.task import DataSizes
from speechssl.train.monitor import HealthConfig, Monitor
from tests.model.tiny import BASE_LIKE, noise, randomise
from tests.oracles.contrastive import oracle_cross_entropy

TINY = RandomProjectionConfig(
    codebook=CodebookConfig(number=2, entries=7, dim=3, bins=5), mask=MaskConfig(start_prob=0.1, span=3)
)
ONE = dataclasses.replace(TINY, codebook=dataclasses.replace(TINY.codebook, number=1))
IS_MASKED = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]]).bool()
IS_VALID = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()  # leaves 7 masked and 3 unmasked frames
BATCH = Batch(ids=("a", "b"), waveforms=noise(2, 4150), num_samples=torch.tensor([4150, 2900]))
SMALL = dataclasses.replace(EncoderConfig.small(), transformer=BASE_LIKE.transformer)


def objective_of(config: RandomProjectionConfig = TINY) -> RandomProjectionObjective:
    objective = RandomProjectionObjective(config, SMALL)
    randomise(objective)
    return objective.eval()


def encoded() -> Encoded:
    conv = noise(2, 6, 16)
    return Encoded(conv=conv, features=conv * 2, layers=[noise(2, 6, 32, seed=1)], is_valid=IS_VALID.clone())


def oracle_loss(objective: RandomProjectionObjective, is_chosen: Tensor, codebook: int) -> float:
    """Sum the cross-entropy over the chosen frames, one by one."""
    codes = objective.quantizer(BATCH.waveforms, BATCH.num_samples, 6)
    entries, total = objective.config.codebook.entries, 0.0
    for row, frame in is_chosen.nonzero().tolist():
        logits = objective.heads(encoded().last[row, frame])[entries * codebook :][:entries]
        total += oracle_cross_entropy(logits.tolist(), int(codes[row, frame, codebook]))
    return total


@pytest.mark.parametrize(("masked", "unmasked", "count"), [(1.0, 0.0, 7), (0.0, 1.0, 3), (0.7, 0.2, 10)])
def test_loss_is_the_weighted_cross_entropy_averaged_over_codebooks(masked: float, unmasked: float, count: int) -> None:
    objective = objective_of(dataclasses.replace(TINY, masked_weight=masked, unmasked_weight=unmasked))
    loss = objective(encoded(), IS_MASKED, BATCH, INFERENCE)
    on_masked = [oracle_loss(objective, IS_MASKED & IS_VALID, codebook) for codebook in range(2)]
    on_unmasked = [oracle_loss(objective, ~IS_MASKED & IS_VALID, codebook) for codebook in range(2)]
    assert int(loss.count) == count
    assert loss.value.item() == pytest.approx((masked * sum(on_masked) + unmasked * sum(on_unmasked)) / 2, rel=1e-4)
    for codebook in range(2):
        assert loss.parts[f"masked_loss_{codebook}"].item() == pytest.approx(on_masked[codebook] / 7, rel=1e-4)
        assert loss.parts[f"unmasked_loss_{codebook}"].item() == pytest.approx(on_unmasked[codebook] / 3, rel=1e-4)


def test_accuracy_codes_and_predictions_are_counted_for_masked_frames() -> None:
    objective, is_chosen = objective_of(ONE), IS_MASKED & IS_VALID
    codes = objective.quantizer(BATCH.waveforms, BATCH.num_samples, 6)[is_chosen][:, 0]
    best, number = objective.predicted_units(encoded().last[is_chosen])
    loss = objective(encoded(), IS_MASKED, BATCH, INFERENCE)
    assert number == 7
    assert loss.tallies["codes"].tolist() == torch.bincount(codes, minlength=7).tolist()
    assert loss.tallies["predicted"].tolist() == torch.bincount(best, minlength=7).tolist()
    assert loss.parts["masked_accuracy"].item() == pytest.approx((best == codes).float().mean().item())
    assert loss.parts["most_frequent"].item() == pytest.approx(torch.bincount(codes).max().item() / 7)


def test_feature_penalty_is_multiplied_by_the_count() -> None:
    plain = objective_of()(encoded(), IS_MASKED, BATCH, INFERENCE)
    penalised = objective_of(dataclasses.replace(TINY, feature_penalty=4.0))(encoded(), IS_MASKED, BATCH, INFERENCE)
    expected = 7 * 4.0 * encoded().conv[IS_VALID].square().mean().item()
    assert (penalised.value - plain.value).item() == pytest.approx(expected, rel=1e-4)


def test_frames_without_weight_send_no_gradient() -> None:
    given = encoded()
    given.last.requires_grad_()
    objective_of()(given, IS_MASKED, BATCH, INFERENCE).value.backward()
    assert torch.equal(given.last.grad.abs().sum(-1) > 0, IS_MASKED & IS_VALID)


def test_the_quantizer_learns_in_training_only_and_from_real_audio_only() -> None:
    codebook = dataclasses.replace(TINY.codebook, projection="pca", update="ema", pca_steps=1)
    objective = objective_of(dataclasses.replace(TINY, codebook=codebook))
    drawn = {name: tensor.clone() for name, tensor in objective.quantizer.state_dict().items()}
    objective(encoded(), IS_MASKED, BATCH, INFERENCE)
    objective.train()(encoded(), IS_MASKED, dataclasses.replace(BATCH, is_stand_in=True), INFERENCE)
    assert objective.quantizer._frames.step == objective.quantizer._members.step == -1
    objective(encoded(), IS_MASKED, BATCH, INFERENCE)
    objective.after_step(SpeechEncoder(BASE_LIKE), 1)
    assert objective.quantizer.frame_sums[-1, -1] == IS_VALID.sum()
    assert all(not torch.equal(tensor, drawn[name]) for name, tensor in objective.quantizer.state_dict().items())


def test_it_learns_what_the_most_frequent_code_does_not_tell() -> None:
    codebook = CodebookConfig(entries=6, dim=4, bins=20, projection="pca", pca_steps=4, update="ema")
    encoder = dataclasses.replace(BASE_LIKE, conv=((8, 40, 40), (16, 4, 4)))
    torch.manual_seed(0)
    config = RandomProjectionConfig(codebook=codebook, unmasked_weight=1.0, mask=MaskConfig(start_prob=0.1, span=2))
    model = task_of(config).build(config, SpeechEncoder(encoder), DataSizes()).train()
    pitch = 300 * 2 ** (torch.arange(40) % 4).repeat_interleave(480)  # four tones in turn, three frames each
    tones = torch.sin(2 * math.pi * (pitch / 16_000).cumsum(0)).repeat(4, 1) + 0.05 * noise(4, len(pitch))
    batch = Batch(ids=tuple("abcd"), waveforms=tones, num_samples=torch.full((4,), len(pitch)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(50):
        loss = model(batch, StepContext(step=step, generator=torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        (loss.value / loss.count).backward()
        optimizer.step()
        model.after_step(step + 1)
    assert loss.parts["masked_accuracy"] > loss.parts["most_frequent"] + 0.2


def test_codes_that_are_nearly_all_one_raise_an_alarm() -> None:
    model = task_of(TINY).build(TINY, SpeechEncoder(BASE_LIKE), DataSizes())
    monitor = Monitor(HealthConfig(patience=1, grace_steps=0), model.health())
    metrics = {f"{name}_{book}": 6.0 for name in ("codes", "predicted") for book in "01"}
    metrics = {f"{name}_perplexity": value for name, value in metrics.items()} | {
        "masked_loss_0": 1.5,
        "masked_loss_1": 1.5,
    }
    assert monitor.check(1, 9, metrics) == []
    found = monitor.check(2, 9, metrics | {"codes_1_perplexity": 1.2})
    assert "one_code" in [alarm.name for alarm in found]


def test_its_method_builds_the_model_and_takes_no_labels() -> None:
    task = find_method("best-rq")
    assert task is task_of(TINY)
    assert isinstance(task.build(TINY, SpeechEncoder(BASE_LIKE), DataSizes()), PretrainModel)
    with pytest.raises(LabelError, match=r"objective\.kind=random_projection takes no labels; remove the key labels"):
        task.build(TINY, SpeechEncoder(BASE_LIKE), DataSizes(clusters=(5,)))


def test_head_keys_are_those_that_change_what_is_saved() -> None:
    shapes = {name: tensor.shape for name, tensor in objective_of().state_dict().items()}
    values = {"number": 3, "entries": 9, "dim": 4, "bins": 6, "projection": "pca", "update": "ema"}
    assert {f"codebook.{key}" for key in values} == {*task_of(TINY).head_keys(TINY)}
    for key, value in values.items():
        other = objective_of(dataclasses.replace(TINY, codebook=dataclasses.replace(TINY.codebook, **{key: value})))
        assert {name: tensor.shape for name, tensor in other.state_dict().items()} != shapes, key


def test_products_are_those_of_heads_and_targets() -> None:
    products = task_of(TINY).products(TINY, SMALL, (), frames=1000)
    heads, project, compare = products
    masked = round(1000 * (1 - 0.9**3))
    assert heads.flops == 3 * 2 * masked * 32 * 14
    assert project.flops == 2 * 2 * 1000 * 20 * 3
    assert compare.flops == 2 * 2 * 1000 * 3 * 7


@pytest.mark.parametrize(("masked", "unmasked"), [(0.0, 0.0), (-1.0, 1.0)])
def test_weights_that_leave_nothing_to_learn_are_refused(masked: float, unmasked: float) -> None:
    with pytest.raises(ConfigError, match=rf"one of them above 0; found {masked} and {unmasked}"):
        RandomProjectionConfig(masked_weight=masked, unmasked_weight=unmasked)
