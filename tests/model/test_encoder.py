"""The encoder: speechssl.model.encoder."""

import dataclasses

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.frames import frame_count
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, LOG_MEL_LIKE, TINY_STACK, noise, tiny_encoder

FORMS = [
    pytest.param(BASE_LIKE, id="base"),
    pytest.param(LARGE_LIKE, id="large"),
    pytest.param(
        dataclasses.replace(BASE_LIKE, transformer=dataclasses.replace(BASE_LIKE.transformer, norm="pre")),
        id="group-pre",
    ),
    pytest.param(dataclasses.replace(BASE_LIKE, conv_norm="layer"), id="layer-post"),
]
LENGTHS = (163, 77, 90)  # samples: 7, 3 and 4 frames


def _score(layers: list[Tensor]) -> Tensor:
    """Reduce the layers to a number whose gradient reaches every valid frame of every layer."""
    return torch.stack([(layer * noise(*layer.shape[-2:], seed=5)).sum() for layer in layers]).sum()


def _transformer_input(encoder: SpeechEncoder, waveforms: Tensor, *masks: Tensor | None) -> Tensor:
    seen = []
    with encoder.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        encoder(waveforms, torch.full((len(waveforms),), waveforms.shape[1]), *masks)
    return seen[0]


@pytest.mark.parametrize("config", FORMS)
def test_padded_batch_equals_each_utterance_alone(config: EncoderConfig) -> None:
    encoder = tiny_encoder(config)
    waveforms, num_samples = noise(len(LENGTHS), max(LENGTHS)), torch.tensor(LENGTHS)
    is_masked = noise(len(LENGTHS), 7, seed=1) > 0.5
    together = encoder(waveforms, num_samples, is_masked)
    for row, count in enumerate(frame_count(num_samples, TINY_STACK).tolist()):
        length = num_samples[row : row + 1]
        alone = encoder(waveforms[row : row + 1, : LENGTHS[row]], length, is_masked[row : row + 1, :count])
        for name in ("conv", "features"):
            torch.testing.assert_close(
                getattr(together, name)[row, :count], getattr(alone, name)[0], rtol=1e-4, atol=1e-4
            )
        for ours, expected in zip(together.layers, alone.layers, strict=True):
            torch.testing.assert_close(ours[row, :count], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", FORMS)
def test_gradient_of_a_padded_batch_is_the_sum_of_the_utterances_gradients(config: EncoderConfig) -> None:
    encoder = tiny_encoder(config)
    parameters = dict(encoder.named_parameters())
    waveforms, num_samples = noise(len(LENGTHS), max(LENGTHS)), torch.tensor(LENGTHS)
    counts = frame_count(num_samples, TINY_STACK).tolist()

    def gradients(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters.values(), strict=True)]

    layers = encoder(waveforms, num_samples).layers
    together = gradients(sum(_score([layer[row, :count] for layer in layers]) for row, count in enumerate(counts)))
    alone = [
        gradients(_score([layer[0] for layer in encoder(waveforms[row : row + 1, :length], num_samples[[row]]).layers]))
        for row, length in enumerate(LENGTHS)
    ]
    for name, one, *others in zip(parameters, together, *alone, strict=True):
        expected = torch.stack(others).sum(0)
        worst = float((one - expected).abs().max()) / max(float(expected.abs().max()), 1.0)
        assert worst < 2e-4, name


@pytest.mark.parametrize("garbage", [1e6, -1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("config", FORMS)
def test_padding_may_hold_anything(config: EncoderConfig, garbage: float) -> None:
    encoder = tiny_encoder(config)
    num_samples = torch.tensor(LENGTHS)
    is_padding = torch.arange(max(LENGTHS)) >= num_samples[:, None]
    waveforms = noise(len(LENGTHS), max(LENGTHS))
    results = []
    for filling in (0.0, garbage):
        encoded = encoder(waveforms.masked_fill(is_padding, filling), num_samples)
        loss = _score([layer.masked_fill(~encoded.is_valid[..., None], 0) for layer in encoded.layers])
        gradients = torch.autograd.grad(loss, list(encoder.conv.parameters()))
        results.append([encoded.last[encoded.is_valid], encoded.features[encoded.is_valid], *gradients])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_padding_in_norm_makes_a_batch_equal_its_zero_filled_waveforms() -> None:
    config = dataclasses.replace(BASE_LIKE, padding_in_norm=True)
    num_samples = torch.tensor(LENGTHS)
    waveforms = noise(len(LENGTHS), max(LENGTHS)) * (torch.arange(max(LENGTHS)) < num_samples[:, None])
    padded = tiny_encoder(config)(waveforms, num_samples)
    whole = tiny_encoder(BASE_LIKE)(waveforms, torch.full_like(num_samples, max(LENGTHS)))
    torch.testing.assert_close(padded.conv[padded.is_valid], whole.conv[padded.is_valid], rtol=0, atol=0)
    plain = tiny_encoder(BASE_LIKE)(waveforms, num_samples)
    assert not torch.allclose(padded.conv[padded.is_valid], plain.conv[padded.is_valid], atol=1e-2)


def test_utterance_without_frames_leaves_the_others_alone() -> None:
    encoder = tiny_encoder()
    waveforms = noise(2, 163)
    encoded = encoder(waveforms, torch.tensor([163, 29]))
    assert encoded.is_valid.sum(1).tolist() == [7, 0]
    torch.testing.assert_close(encoded.last[0], encoder(waveforms[:1], torch.tensor([163])).last[0])
    loss = encoded.last[encoded.is_valid].square().sum()
    for gradient in torch.autograd.grad(loss, [p for n, p in encoder.named_parameters() if n != "mask_vector"]):
        assert torch.isfinite(gradient).all()


def test_valid_frames_are_those_the_convolutions_make() -> None:
    encoded = tiny_encoder()(noise(3, 163), torch.tensor(LENGTHS))
    assert encoded.is_valid.sum(1).tolist() == [7, 3, 4]
    assert encoded.is_valid.shape == encoded.last.shape[:2] == encoded.conv.shape[:2] == (3, 7)


def test_masked_frames_enter_the_transformer_as_the_mask_vector() -> None:
    encoder = tiny_encoder()
    waveforms, is_masked = noise(2, 163), noise(2, 7, seed=1) > 0
    plain, masked = _transformer_input(encoder, waveforms), _transformer_input(encoder, waveforms, is_masked)
    assert torch.equal(masked[is_masked], encoder.mask_vector.expand(int(is_masked.sum()), -1))
    assert torch.equal(masked[~is_masked], plain[~is_masked])


def test_masked_channels_enter_the_transformer_as_zero() -> None:
    encoder = tiny_encoder()
    waveforms, is_masked, is_channel_masked = noise(2, 163), noise(2, 7, seed=1) > 0, noise(2, 32, seed=2) > 0
    plain = _transformer_input(encoder, waveforms, is_masked)
    masked = _transformer_input(encoder, waveforms, is_masked, is_channel_masked)
    is_zeroed = is_channel_masked[:, None].expand_as(masked)
    assert (masked[is_zeroed] == 0).all()
    assert torch.equal(masked[~is_zeroed], plain[~is_zeroed])


def test_masking_leaves_the_features_as_they_are() -> None:
    encoder = tiny_encoder()
    waveforms, num_samples, is_masked = noise(2, 163), torch.tensor([163, 163]), noise(2, 7, seed=1) > 0
    plain, masked = encoder(waveforms, num_samples), encoder(waveforms, num_samples, is_masked)
    assert torch.equal(masked.features, plain.features)
    assert not torch.equal(masked.last, plain.last)


def test_features_are_the_layer_norm_of_the_extractor() -> None:
    encoder = tiny_encoder()
    encoded = encoder(noise(2, 163), torch.tensor([163, 163]))
    torch.testing.assert_close(encoded.features, encoder.norm(encoded.conv))


def test_number_of_layers_can_be_limited() -> None:
    encoder = tiny_encoder()
    waveforms, num_samples = noise(1, 163), torch.tensor([163])
    encoded = encoder(waveforms, num_samples, num_layers=1)
    assert len(encoded.layers) == 1
    assert torch.equal(encoded.last, encoder(waveforms, num_samples).layers[0])


def _gradients(scale: float) -> dict[str, Tensor | None]:
    encoder = tiny_encoder(dataclasses.replace(BASE_LIKE, conv_grad_scale=scale))
    encoder(noise(1, 163), torch.tensor([163])).last.square().sum().backward()
    return {name: parameter.grad for name, parameter in encoder.named_parameters()}


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_gradient_scale_multiplies_the_extractors_gradient_and_no_other(scale: float) -> None:
    plain, scaled = _gradients(1.0), _gradients(scale)
    for name, gradient in plain.items():
        if name != "mask_vector":
            factor = scale if name.startswith("conv.") else 1.0
            torch.testing.assert_close(scaled[name], factor * gradient, rtol=1e-4, atol=1e-6)


def test_gradient_scale_zero_freezes_the_extractor() -> None:
    gradients = _gradients(0.0)
    assert all(gradient is None for name, gradient in gradients.items() if name.startswith("conv."))
    assert all(g is not None for name, g in gradients.items() if not name.startswith("conv.") and name != "mask_vector")


def test_gradient_scale_does_not_change_the_output() -> None:
    waveforms, num_samples = noise(1, 163), torch.tensor([163])
    one, other = (tiny_encoder(dataclasses.replace(BASE_LIKE, conv_grad_scale=scale)) for scale in (1.0, 0.1))
    assert torch.equal(one(waveforms, num_samples).last, other(waveforms, num_samples).last)


def test_frozen_extractor_has_no_trainable_parameter() -> None:
    encoder = tiny_encoder().with_frozen_conv()
    assert not any(parameter.requires_grad for parameter in encoder.conv.parameters())
    assert all(parameter.requires_grad for parameter in encoder.transformer.parameters())
    assert not encoder.extract(noise(1, 163), torch.tensor([163])).requires_grad


def test_feature_dropout_acts_in_training_only() -> None:
    encoder = tiny_encoder(dataclasses.replace(BASE_LIKE, feature_dropout=0.5))
    waveforms = noise(1, 163)
    assert torch.equal(_transformer_input(encoder, waveforms), _transformer_input(encoder, waveforms))
    encoder.train()
    assert not torch.equal(_transformer_input(encoder, waveforms), _transformer_input(encoder, waveforms))


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [
        (EncoderConfig.base(), 94.0e6, 95.0e6),
        (EncoderConfig.large(), 315.0e6, 317.0e6),
        (EncoderConfig.small(), 1.5e6, 3.0e6),
    ],
    ids=["base", "large", "small"],
)
def test_size_of_the_published_models(config: EncoderConfig, least: float, most: float) -> None:
    with torch.device("meta"):
        encoder = SpeechEncoder(config)
    assert least < sum(parameter.numel() for parameter in encoder.parameters()) < most


@pytest.mark.parametrize(
    ("config", "window", "hop", "rate"),
    [(EncoderConfig.base(), 400, 320, 50.0), (EncoderConfig.small(), None, 640, 25.0), (BASE_LIKE, 30, 20, 800.0)],
    ids=["base", "small", "tiny"],
)
def test_configuration_knows_window_hop_and_frame_rate(
    config: EncoderConfig, window: int | None, hop: int, rate: float
) -> None:
    assert (config.hop, config.frames_per_second) == (hop, rate)
    assert window is None or config.window == window


@pytest.mark.parametrize(
    ("conv", "window", "hop"), [(((512, 3, 2), (512, 3, 1)), 1_360, 320), (((256, 3, 2), (256, 3, 2)), 1_360, 640)]
)
def test_log_mel_input_has_the_windows_and_hops_of_all_its_layers(conv: tuple, window: int, hop: int) -> None:
    config = dataclasses.replace(BASE_LIKE, input="log_mel", conv=conv)
    assert (config.window, config.hop) == (window, hop)
    encoder = tiny_encoder(config)
    lengths = torch.tensor([window - 1, window, window + hop - 1, window + hop])
    assert encoder.count_frames(lengths).tolist() == [0, 1, 1, 2]
    assert encoder(0.1 * noise(4, int(lengths.max())), lengths).is_valid.sum(1).tolist() == [0, 1, 1, 2]


def test_log_mel_input_has_no_parameters_of_its_own() -> None:
    names = {name for name in tiny_encoder(LOG_MEL_LIKE).state_dict() if name.startswith("conv.convs.")}
    assert names == {"conv.convs.1.weight", "conv.convs.2.weight"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"input": "log_mel"}, r"a frame every 3\.2 s .* set encoder\.conv=\[\[512,3,2\],\[512,3,1\]\]"),
        ({"log_mel_bins": 101}, "encoder.log_mel_bins must lie between 1 and 100, found 101"),
    ],
)
def test_log_mel_input_that_cannot_be_meant_is_refused(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncoderConfig(**keys)


@pytest.mark.parametrize("conv", [(), ((8, 10, 0),), ((0, 10, 5),)])
def test_impossible_convolutions_are_refused(conv: tuple) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.conv must list \(channels, kernel, stride\)"):
        EncoderConfig(conv=conv)


@pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["post", "pre"])
def test_where_the_first_layer_is_frozen_only_what_comes_after_it_learns(config):
    encoder = tiny_encoder(config).with_frozen_layers(1)
    learning = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    after = ("transformer.layers.1.", *(["transformer.norm."] if config is LARGE_LIKE else []))
    assert learning == {name for name, _ in encoder.named_parameters() if name.startswith(after)}
