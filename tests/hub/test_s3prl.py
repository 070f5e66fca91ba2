"""Our trunk as an upstream of s3prl: by its interface, and inside s3prl itself."""

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from speechssl.audio.reading import AudioConfig
from speechssl.errors import CheckpointError
from speechssl.hub.s3prl import UpstreamExpert, add_to_s3prl
from speechssl.hub.saved import Description, SavedModel, build_model
from speechssl.model.encoder import EncoderConfig
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise, randomise
from tests.s3prl_package import imported_s3prl

FORMS = pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])
LENGTHS = (810, 1634, 1177)  # s3prl itself pads what is shorter than 800
WAVS = [noise(length, seed=length) for length in LENGTHS]


def saved(folder: Path, config: EncoderConfig = BASE_LIKE, **audio: bool) -> SavedModel:
    description = Description(encoder=config, audio=AudioConfig(**audio))
    model = build_model(description)
    randomise(model)
    saved = SavedModel(description=description, tensors=model.state_dict(), name="made here")
    saved.write(folder)
    return saved


def with_layer_drop(config: EncoderConfig, layer_drop: float) -> EncoderConfig:
    return dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, layer_drop=layer_drop))


@FORMS
@torch.no_grad()
def test_hidden_states_are_the_input_of_the_first_layer_and_the_output_of_each(
    tmp_path: Path, config: EncoderConfig
) -> None:
    encoder = saved(tmp_path, config).encoder()
    first, *layers = UpstreamExpert(tmp_path).eval()(WAVS)["hidden_states"]
    for row, wav in enumerate(WAVS):
        encoded = encoder(wav[None], torch.tensor([len(wav)]))
        frames = encoded.last.shape[1]
        assert len(layers) == len(encoded.layers)
        for found, expected in zip(layers, encoded.layers, strict=True):
            torch.testing.assert_close(found[row, :frames], expected[0], rtol=1e-4, atol=1e-5)
        again = encoder.transformer.layers[0](first[row : row + 1, :frames], None)
        torch.testing.assert_close(again, encoded.layers[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_follows_the_last_frame_repeats_it(tmp_path: Path) -> None:
    saved(tmp_path)
    for layer in UpstreamExpert(tmp_path).eval()(WAVS)["hidden_states"]:
        frames = (LENGTHS[0] - BASE_LIKE.window) // BASE_LIKE.hop + 1
        assert torch.equal(layer[0, frames:], layer[0, frames - 1].expand_as(layer[0, frames:]))
        assert not torch.equal(layer[0, frames - 2], layer[0, frames - 1])


@torch.no_grad()
def test_waveforms_are_normalised_if_the_model_was_trained_so(tmp_path: Path) -> None:
    saved(tmp_path / "plain"), saved(tmp_path / "normalised", normalize=True)
    plain, normalised = (UpstreamExpert(tmp_path / name).eval() for name in ("plain", "normalised"))
    loud = [3 * wav + 1 for wav in WAVS]
    for found, expected in zip(
        normalised(loud)["hidden_states"],
        plain([functional.layer_norm(wav, wav.shape) for wav in loud])["hidden_states"],
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_no_layer_is_dropped_in_training(tmp_path: Path) -> None:
    saved(tmp_path, with_layer_drop(BASE_LIKE, 0.9))
    upstream = UpstreamExpert(tmp_path).train()
    for _ in range(3):
        states = upstream(WAVS)["hidden_states"]
        assert len(states) == 3
        assert not any(torch.equal(one, other) for one, other in itertools.pairwise(states))


@FORMS
def test_gradients_reach_everything_but_the_convolutions_and_the_mask_vector(
    tmp_path: Path, config: EncoderConfig
) -> None:
    saved(tmp_path, config)
    upstream = UpstreamExpert(tmp_path).train()
    sum(state.square().sum() for state in upstream(WAVS)["hidden_states"]).backward()
    without = {name.split(".")[1] for name, parameter in upstream.named_parameters() if parameter.grad is None}
    assert without == {"conv", "mask_vector"}


@torch.no_grad()
def test_an_utterance_too_short_for_a_frame_gets_one(tmp_path: Path) -> None:
    saved(tmp_path)
    upstream = UpstreamExpert(tmp_path).eval()
    (alone,) = upstream([WAVS[0][:7]])["hidden_states"][-1]
    beside = upstream([WAVS[0][:7], WAVS[1]])["hidden_states"][-1][0]
    assert len(alone) == 1
    torch.testing.assert_close(beside, alone.expand_as(beside), rtol=1e-4, atol=1e-5)


def test_the_downsample_rate_is_the_hop(tmp_path: Path) -> None:
    saved(tmp_path)
    assert UpstreamExpert(str(tmp_path)).get_downsample_rates("hidden_states") == BASE_LIKE.hop == 20


def test_a_model_config_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.yaml: a model folder describes itself"):
        UpstreamExpert(tmp_path, model_config="model.yaml")


def test_without_s3prl_the_packages_to_install_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3prl", None)
    monkeypatch.delitem(sys.modules, "s3prl.hub", raising=False)
    with pytest.raises(CheckpointError, match=r"s3prl cannot be imported .*pip install s3prl omegaconf"):
        add_to_s3prl()


@pytest.fixture(scope="module")
def s3prl_nn() -> Iterator[ModuleType]:
    """s3prl with our upstream."""
    with imported_s3prl() as module:
        add_to_s3prl()
        yield module
        del sys.modules["s3prl.hub"].speechssl


def test_s3prl_finds_our_upstream_by_name(tmp_path: Path, s3prl_nn: ModuleType) -> None:
    saved(tmp_path)
    upstream = s3prl_nn.S3PRLUpstream("speechssl", path_or_url=str(tmp_path))
    assert "speechssl" in upstream.available_names()
    assert (upstream.num_layers, upstream.hidden_sizes, upstream.downsample_rates) == (3, [32] * 3, [20] * 3)


@FORMS
@torch.no_grad()
def test_s3prl_gives_an_utterance_the_same_alone_and_in_a_batch(
    tmp_path: Path, s3prl_nn: ModuleType, config: EncoderConfig
) -> None:
    saved(tmp_path, config)
    upstream = s3prl_nn.S3PRLUpstream("speechssl", path_or_url=str(tmp_path)).eval()
    layers, counts = upstream(torch.nn.utils.rnn.pad_sequence(WAVS, batch_first=True), torch.tensor(LENGTHS))
    for row, wav in enumerate(WAVS):
        layers_alone, counts_alone = upstream(wav[None], torch.tensor([len(wav)]))
        for layer, count, alone, count_alone in zip(layers, counts, layers_alone, counts_alone, strict=True):
            assert count[row] == count_alone[0] == -(-len(wav) // config.hop)
            torch.testing.assert_close(layer[row, : count[row]], alone[0], rtol=1e-4, atol=1e-5)


def test_a_weighted_sum_of_s3prl_trains_our_upstream(tmp_path: Path, s3prl_nn: ModuleType) -> None:
    saved(tmp_path, with_layer_drop(BASE_LIKE, 0.5))
    upstream = s3prl_nn.S3PRLUpstream("speechssl", path_or_url=str(tmp_path)).train()
    featurizer = s3prl_nn.Featurizer(upstream)
    summed, counts = featurizer(*upstream(noise(2, 1234), torch.tensor([1234, 700])))
    assert (summed.shape, counts.tolist()) == ((2, 62, 32), [62, 35])
    summed.square().sum().backward()
    assert featurizer.weights.grad.abs().min() > 0
    assert all(p.grad is not None for p in upstream.upstream.encoder.transformer.parameters())
