"""The teacher network: speechssl.tasks.ema."""

import dataclasses

import pytest
import torch

from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig
from speechssl.tasks.ema import EmaConfig, Teacher, normalize_over_time
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise, tiny_encoder
from tests.oracles.teacher import oracle_normalized

LENGTHS = torch.tensor([820, 430, 35])  # the last has one frame


@pytest.mark.parametrize("changes", [{"start": 0.9, "end": 0.8}, {"end": 1.1}, {"start": -0.1}, {"steps": 0}])
def test_an_impossible_schedule_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"objective\.ema must have 0 <= start <= end <= 1 and steps of 1 or more"):
        EmaConfig(**changes)  # type: ignore[arg-type]


def test_the_decay_rises_linearly_and_stays() -> None:
    decays = [EmaConfig(start=0.5, end=0.9, steps=4).decay(step) for step in range(1, 7)]
    assert decays == pytest.approx([0.6, 0.7, 0.8, 0.9, 0.9, 0.9])


@pytest.mark.parametrize("encoder", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
def test_a_teacher_starts_as_the_student_without_masks_and_dropout(encoder: EncoderConfig) -> None:
    transformer = dataclasses.replace(encoder.transformer, dropout=0.5, attention_dropout=0.5, layer_drop=0.5)
    student = tiny_encoder(dataclasses.replace(encoder, feature_dropout=0.5, transformer=transformer))
    teacher = Teacher(student).train()
    is_masked = torch.zeros(3, 40, dtype=torch.bool)
    is_masked[:, 3:9] = True
    expected = student.eval()(noise(3, 820), LENGTHS)
    seen = student.train()(noise(3, 820), LENGTHS, is_masked)
    found = teacher(seen.features, seen.is_valid)
    for ours, theirs in zip(found, expected.layers, strict=True):
        torch.testing.assert_close(ours[seen.is_valid], theirs[seen.is_valid], rtol=1e-5, atol=1e-5)
        assert not ours.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_it_follows_every_parameter_of_projection_and_transformer() -> None:
    student = tiny_encoder()
    teacher = Teacher(student)
    before = {name: parameter.clone() for name, parameter in teacher.named_parameters()}
    randomise(student, seed=1)
    teacher.follow(student, 0.75)
    now = dict(student.named_parameters())
    assert {*before} == {name for name in now if name.startswith(("project.", "transformer."))}
    for name, parameter in teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.75 * before[name] + 0.25 * now[name].detach())
        assert not torch.equal(parameter, before[name])


def test_channels_are_normalised_over_the_valid_frames_of_each_utterance() -> None:
    x, is_valid = 3 * noise(3, 7, 5) + 2, torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    found = normalize_over_time(x, is_valid)
    for row, length in enumerate((7, 4, 1)):
        expected = torch.tensor(oracle_normalized(x[row, :length].tolist()))
        torch.testing.assert_close(found[row, :length], expected, rtol=1e-4, atol=1e-5)
    changed = torch.where(is_valid[..., None], x, 99.0)
    torch.testing.assert_close(normalize_over_time(changed, is_valid)[is_valid], found[is_valid])
