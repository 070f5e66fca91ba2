"""What wav2vec 2.0's quantizer sees: speechssl.tasks.contrastive_targets."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count
from speechssl.model.log_mel import LogMel
from speechssl.model.masking import MaskConfig
from speechssl.tasks.contrastive import ContrastiveConfig
from speechssl.tasks.contrastive_targets import (
    CopyConfig,
    LogMelTargetConfig,
    changed_copy,
    frame_loudness,
    log_mel_targets,
)
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import PretrainModel
from speechssl.tasks.quantizer import QuantizerConfig
from speechssl.tasks.registry import task_of
from speechssl.tasks.task import DataSizes
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise, tiny_encoder

STACK = ((8, 10, 5), (12, 8, 8), (16, 8, 8))  # a frame every 20 ms, from 325 samples
LENGTHS = (8000, 5000, 6505)
COPY = CopyConfig(gain_db=9.0, gain_every_s=0.1, tilt=0.5)
PLAIN = ContrastiveConfig(
    dim=8,
    negatives=6,
    feature_dropout=0.0,
    quantizer=QuantizerConfig(groups=2, entries=5, dim=12),
    mask=MaskConfig(start_prob=0.1, span=3),
)
LOG_MEL = dataclasses.replace(PLAIN, targets="log_mel", log_mel=LogMelTargetConfig(bins=7))
OPTIONS = {
    "log_mel": LOG_MEL,
    "log_mel, copy": dataclasses.replace(LOG_MEL, copy=COPY),
    "log_mel without level, loudness": dataclasses.replace(
        LOG_MEL, log_mel=LogMelTargetConfig(bins=7, level=False), loudness_neighbours=3
    ),
    "copy": dataclasses.replace(PLAIN, copy=COPY),
    "copy, loudness": dataclasses.replace(PLAIN, copy=COPY, loudness_neighbours=3, cross_negatives=2),
}
EVERY_OPTION = pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model(config: ContrastiveConfig, encoder: EncoderConfig = BASE_LIKE) -> PretrainModel:
    torch.manual_seed(0)
    trunk = tiny_encoder(dataclasses.replace(encoder, conv=STACK))
    model = task_of(config).build(config, trunk, DataSizes())
    randomise(model.objective)
    return model.train()


def _batch(padding: float = 0.0) -> Batch:
    waveforms = noise(3, 8000) * (1 + noise(3, 1, seed=1) ** 2)
    for row, length in zip(waveforms, LENGTHS, strict=True):
        row[length:] = padding
    return Batch(ids=tuple("abc"), waveforms=waveforms, num_samples=torch.tensor(LENGTHS))


def _loss(model: PretrainModel, batch: Batch | None = None, seed: int = 0) -> LossSum:
    return model(batch or _batch(), StepContext(step=0, generator=_generator(seed)))


def test_a_copy_has_gains_that_are_linear_in_db_between_knots_and_a_filter_of_two_taps() -> None:
    config = CopyConfig(gain_db=9.0, gain_every_s=10 / 16_000, tilt=0.5)  # a knot every ten samples
    waveforms = noise(2, 35)
    found = changed_copy(waveforms, config, _generator())
    draws = torch.rand((2, 6), generator=_generator()) * 2 - 1  # the tap and the gains at 0, 10, 20, 30 and 40
    for row in range(2):
        tap, gains = 0.5 * float(draws[row, 0]), (9 * draws[row, 1:]).tolist()
        for time in range(35):
            share = time % 10 / 10
            gain_db = gains[time // 10] * (1 - share) + gains[time // 10 + 1] * share
            before = float(waveforms[row, time - 1]) if time else 0.0
            expected = (float(waveforms[row, time]) + tap * before) * 10 ** (gain_db / 20)
            assert float(found[row, time]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("time", [1, 7999, 8000, 8001])
def test_a_copy_without_changes_is_the_waveform_at_any_length(time: int) -> None:
    waveforms = noise(2, time)
    assert torch.equal(changed_copy(waveforms, CopyConfig(), _generator()), waveforms)
    assert not CopyConfig().is_on


@pytest.mark.parametrize("fault", [{"gain_db": -1.0}, {"gain_every_s": 0.0}, {"tilt": 1.0}, {"tilt": -0.1}])
def test_impossible_changes_are_refused(fault: dict[str, float]) -> None:
    with pytest.raises(
        ConfigError, match=r"objective\.copy: expected gain_db of 0 or more, .* and tilt from 0 to below 1"
    ):
        CopyConfig(**fault)


@pytest.mark.parametrize("bins", [0, 101])
def test_targets_without_filters_or_with_empty_ones_are_refused(bins: int) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.log_mel\.bins must lie between 1 and 100, found {bins}"):
        LogMelTargetConfig(bins=bins)


@pytest.mark.parametrize("level", [True, False])
def test_log_mel_targets_are_those_of_each_utterance_alone_step_by_step(level: bool) -> None:
    log_mel, batch = LogMel(7), _batch(padding=math.nan)
    frames = int(frame_count(torch.tensor(8000), STACK))
    found = log_mel_targets(
        batch.waveforms,
        batch.num_samples,
        log_mel,
        LogMelTargetConfig(bins=7, level=level),
        hop=320,
        window=325,
        frames=frames,
    )
    assert found.shape == (3, frames, 14)
    for row, length in enumerate(LENGTHS):
        energies = log_mel(batch.waveforms[row : row + 1, :length])[0]
        energies = energies - energies.mean(0)
        energies = energies if level else energies - energies.mean(1, keepdim=True)
        energies = energies / energies.square().mean().sqrt()
        for frame in range(int(frame_count(torch.tensor(length), STACK))):
            centre = 320 * frame + 325 / 2
            # of two neighbouring log-mel frames, the pair whose middle lies nearest; the later of two as near
            first = min(range(-2, len(energies) + 2), key=lambda k: (abs(160 * k + 80 + 200 - centre), -k))
            pair = [energies[min(max(place, 0), len(energies) - 1)] for place in (first, first + 1)]
            torch.testing.assert_close(found[row, frame], torch.cat(pair), rtol=1e-4, atol=1e-4)


def test_log_mel_targets_do_not_depend_on_the_gain_of_the_recording_nor_without_level_on_that_of_a_frame() -> None:
    log_mel, batch = LogMel(7), _batch()

    def targets(waveforms: Tensor, *, level: bool) -> Tensor:
        config = LogMelTargetConfig(bins=7, level=level)
        return log_mel_targets(waveforms, batch.num_samples, log_mel, config, hop=320, window=325, frames=24)

    torch.testing.assert_close(
        targets(batch.waveforms * 0.1, level=True), targets(batch.waveforms, level=True), atol=1e-3, rtol=0
    )
    slow = 10 ** (torch.linspace(-1, 1, 8000) * 0.5)  # 20 dB over half a second
    waveforms = batch.waveforms * slow
    torch.testing.assert_close(targets(waveforms, level=False), targets(batch.waveforms, level=False), atol=0.1, rtol=0)
    assert (targets(waveforms, level=True) - targets(batch.waveforms, level=True)).abs().max() > 1


def test_targets_of_silence_are_nothing() -> None:
    found = log_mel_targets(
        torch.zeros(1, 8000),
        torch.tensor([8000]),
        LogMel(7),
        LogMelTargetConfig(bins=7),
        hop=320,
        window=325,
        frames=24,
    )
    assert float(found.abs().max()) < 0.01


def test_loudness_is_the_mean_square_of_what_a_frame_sees() -> None:
    waveforms = noise(2, 1000)
    found = frame_loudness(waveforms, hop=320, window=325)
    expected = [[float(row[320 * k :][:325].square().mean()) for k in range(3)] for row in waveforms]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("encoder", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
@pytest.mark.parametrize("bfloat16", [False, True])
@EVERY_OPTION
def test_every_parameter_receives_a_finite_gradient(
    config: ContrastiveConfig, encoder: EncoderConfig, bfloat16: bool
) -> None:
    model = _model(config, encoder)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = _loss(model)
    loss.value.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@EVERY_OPTION
def test_loss_follows_the_generator_and_not_the_padding(config: ContrastiveConfig) -> None:
    model, losses = _model(config), []
    for global_seed, seed, padding in ((0, 1, 0.0), (1, 1, 3.0), (1, 2, 0.0)):
        torch.manual_seed(global_seed)
        losses.append(_loss(model, _batch(padding), seed).value.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


@pytest.mark.parametrize("targets", ["extractor", "log_mel"])
def test_only_training_quantizes_a_copy(targets: str) -> None:
    model = _model(dataclasses.replace(LOG_MEL, targets=targets, copy=COPY))
    batch, context = _batch(), StepContext(generator=_generator())
    encoded = model.encoder(batch.waveforms, batch.num_samples)
    changed = model.objective.with_targets(encoded, model.encoder, batch, context).features
    model.eval()
    plain = model.objective.with_targets(encoded, model.encoder, batch, StepContext()).features
    assert changed.shape == plain.shape
    assert not torch.allclose(changed, plain, atol=0.1)
    assert torch.equal(plain, encoded.features) == (targets == "extractor")


def test_targets_of_a_copy_are_the_extractors_output_for_it() -> None:
    model, batch = _model(OPTIONS["copy"]), _batch()
    encoded = model.encoder(batch.waveforms, batch.num_samples)
    found = model.objective.with_targets(encoded, model.encoder, batch, StepContext(generator=_generator(3))).features
    copy = changed_copy(batch.waveforms, COPY, _generator(3))
    expected = model.encoder(copy, batch.num_samples).features
    for row, count in enumerate(frame_count(batch.num_samples, STACK)):
        torch.testing.assert_close(found[row, :count], expected[row, :count])


def test_log_mel_targets_save_no_filters_and_quantize_stacked_frames() -> None:
    model = _model(LOG_MEL)
    assert not [name for name in model.state_dict() if "log_mel" in name]
    assert model.objective.quantizer.score.in_features == 7 * 2
