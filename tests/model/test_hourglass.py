"""Layers at a lower frame rate: speechssl.model.hourglass."""

import dataclasses

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.model.context import StepContext
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.hourglass import HourglassConfig
from speechssl.model.incremental import IncrementalEncoder
from speechssl.model.precision import pack
from speechssl.model.windows import encode_windows
from tests.model.precisions import skip_without
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, distance, noise, tiny_encoder

LENGTHS = (163, 77, 90)  # samples: 7, 3 and 4 frames


def with_hourglass(config: EncoderConfig, *, num_layers: int = 4, **keys: int) -> EncoderConfig:
    transformer = dataclasses.replace(config.transformer, num_layers=num_layers, hourglass=HourglassConfig(**keys))
    return dataclasses.replace(config, transformer=transformer)


FORMS = pytest.mark.parametrize(
    "config",
    [
        with_hourglass(BASE_LIKE),
        with_hourglass(LARGE_LIKE),
        with_hourglass(BASE_LIKE, factor=3, before=0, after=2),
        with_hourglass(LARGE_LIKE, factor=5, before=2, after=0),
    ],
    ids=["post", "pre", "three", "last"],
)


def slowly(encoder: SpeechEncoder, waveform: Tensor) -> list[Tensor]:
    """Encode one utterance, group by group: num_layers x (frames, dim)."""
    transformer = encoder.transformer
    config, hourglass = transformer.config, transformer.config.hourglass
    x = encoder.project(encoder.norm(encoder.conv(waveform[None], torch.tensor([len(waveform)]))))
    x = x + transformer.positions(x)
    x = (transformer.norm(x) if config.norm == "post" else x)[0]
    outputs = []
    for index, layer in enumerate(transformer.layers):
        if index == hourglass.before:
            before = x
            x = torch.stack([part.mean(0) for part in before.split(hourglass.factor)])
        x = layer(x[None], None)[0]
        is_lower = hourglass.before <= index < config.num_layers - hourglass.after
        full = torch.stack([frame + x[i // hourglass.factor] for i, frame in enumerate(before)]) if is_lower else x
        outputs.append(full)
        if index == config.num_layers - hourglass.after - 1:
            x = full
    if config.norm == "pre":
        outputs[-1] = transformer.norm(outputs[-1])
    return outputs


@pytest.mark.parametrize("packed", [False, True])
@FORMS
def test_each_utterance_of_a_batch_is_encoded_as_the_definition_says(config, packed) -> None:
    encoder = tiny_encoder(config)
    encoder.prepare(recompute=False, packed=packed, compiled=False)
    waveforms, lengths = noise(4, max(LENGTHS)), torch.tensor([*LENGTHS, 29])  # the last has no frame
    waveforms = waveforms.masked_fill(torch.arange(max(LENGTHS)) >= lengths[:, None], torch.nan)
    layers = encoder(waveforms, lengths).layers
    assert len(layers) == config.transformer.num_layers
    for row, length in enumerate(LENGTHS):
        for found, expected in zip(layers, slowly(encoder, waveforms[row, :length]), strict=True):
            torch.testing.assert_close(found[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)


@FORMS
def test_layers_run_on_as_many_frames_as_there_are_groups(config) -> None:
    encoder, passed = tiny_encoder(config), []
    for layer in encoder.transformer.layers:
        layer.register_forward_pre_hook(lambda _, given: passed.append(given[0].shape[1]))
    encoder(noise(1, 163), torch.tensor([163]))
    lower = -(-7 // config.transformer.hourglass.factor)
    assert passed == [lower if index in config.transformer.lower else 7 for index in range(4)]


@FORMS
def test_packed_and_recomputed_layers_have_the_same_gradients(config) -> None:
    waveforms, lengths = noise(3, max(LENGTHS)), torch.tensor(LENGTHS)
    found = []
    for packed in (False, True):
        encoder = tiny_encoder(config).train()
        encoder.prepare(recompute=packed, packed=packed, compiled=False)
        encoded = encoder(waveforms, lengths, context=StepContext(layer_seed=0))
        score = sum(
            (layer[encoded.is_valid] * (index + 1)).square().sum() for index, layer in enumerate(encoded.layers)
        )
        parameters = {name: each for name, each in encoder.named_parameters() if name != "mask_vector"}
        found.append(torch.autograd.grad(score, [*parameters.values()]))
    for name, one, other in zip(parameters, *found, strict=True):
        assert distance(one, other) < 1e-4, name


@FORMS
def test_a_limited_number_of_layers_gives_the_first_ones(config) -> None:
    encoder, given = tiny_encoder(config), (noise(1, 163), torch.tensor([163]))
    whole = encoder(*given).layers
    for number in range(1, 4):
        layers = encoder(*given, num_layers=number).layers
        for one, other in zip(layers, whole[:number], strict=True):
            torch.testing.assert_close(one, other)


@FORMS
@torch.no_grad()
def test_a_stream_that_is_settled_at_once_is_encoded_as_the_whole(config) -> None:
    encoder, waveform = tiny_encoder(config), noise(59 * config.hop + config.window)
    stream = IncrementalEncoder(encoder, normalize=False, context=60)
    for part in waveform.split(100):
        stream.frames.add(part)
    torch.testing.assert_close(stream.settle(60), encoder(waveform[None], torch.tensor([len(waveform)])).last[0])


@torch.no_grad()
def streamed_slowly(encoder: SpeechEncoder, waveform: Tensor, ends: list[tuple[int, int]], context: int) -> Tensor:
    """Encode a stream by whole layers, over the stored inputs of settled frames and groups.

    Args:
        encoder: an encoder with layer norm in its extractor.
        waveform: (time,).
        ends: frames that have arrived, and of these the settled ones, for each run.
        context: frames that attend to each other.
    """
    transformer, factor = encoder.transformer, encoder.config.transformer.hourglass.factor
    features = encoder.project(encoder.norm(encoder.conv(waveform[None], torch.tensor([len(waveform)]))[0]))
    stored = [torch.zeros(0, encoder.dim) for _ in transformer.layers]  # inputs of each layer
    found, settled = [], 0
    for arrived, until in ends:
        x = features[:arrived] + transformer.positions(features[None, :arrived])[0]
        x = (transformer.norm(x) if transformer.config.norm == "post" else x)[settled:]
        frames, number = len(x), until - settled
        for index, layer in enumerate(transformer.layers):
            group = factor if index in transformer.config.lower else 1
            if index == transformer.config.lower[0]:
                before = x
                x = torch.stack([part.mean(0) for part in x.split(factor)])
            inputs = torch.cat([stored[index], x])
            room = max(0, context - frames) // group
            kept = torch.cat([stored[index], x[: -(-number // group)]])
            stored[index] = kept[len(kept) - min(room, len(kept)) :]
            x = layer(inputs[None], None)[0, -len(x) :]
            if index == transformer.config.lower[-1]:
                x = before + torch.stack([x[i // factor] for i in range(frames)])
        x = transformer.norm(x) if transformer.config.norm == "pre" else x
        found.append(x[:number])
        settled = until
    return torch.cat(found)


@pytest.mark.parametrize("context", [30, 1000])
@pytest.mark.parametrize("config", [LARGE_LIKE, dataclasses.replace(BASE_LIKE, conv_norm="layer")], ids=["pre", "post"])
def test_settled_groups_attend_as_they_were_when_they_were_settled(config, context) -> None:
    config = with_hourglass(config, factor=3)
    encoder, waveform = tiny_encoder(config), noise(99 * config.hop + config.window)
    ends = [(7, 3), (13, 9), (20, 18), (29, 18 + 9), (50, 42), (60, 60), (80, 69), (100, 96), (100, 100)]
    stream, found, added = IncrementalEncoder(encoder, normalize=False, context=context), [], 0
    for arrived, until in ends:
        samples = (arrived - 1) * config.hop + config.window
        stream.frames.add(waveform[added:samples])
        found.append(stream.settle(until))
        added = samples
    expected = streamed_slowly(encoder, waveform, ends, context)
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-4, atol=1e-4)


def test_a_part_of_a_group_is_settled_only_at_the_end() -> None:
    config = with_hourglass(LARGE_LIKE, factor=3)
    stream = IncrementalEncoder(tiny_encoder(config), normalize=False, context=30)
    stream.frames.add(noise(9 * config.hop + config.window))
    with pytest.raises(ValueError, match="until is 7, expected a multiple of 3"):
        stream.settle(7)
    assert len(stream.settle(10)) == 10


@torch.no_grad()
def test_windows_keep_the_groups_of_the_whole() -> None:
    """Without attention and positions, windows that begin within a group would average other frames."""
    config = with_hourglass(LARGE_LIKE, factor=3)
    encoder, waveform = tiny_encoder(config), noise(99 * config.hop + config.window)
    for layer in encoder.transformer.layers:
        layer.attention.project_out.weight.zero_()
    encoder.transformer.positions.conv.parametrizations.weight.original0.zero_()
    expected = encoder(waveform[None], torch.tensor([len(waveform)])).layers
    found = [*encode_windows(encoder, waveform, (2, 4), size=40, overlap=11)]
    for layer, parts in zip((2, 4), zip(*found, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), expected[layer - 1][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@torch.no_grad()
def test_in_fewer_bits_it_is_the_same_but_for_rounding(kind) -> None:
    skip_without(kind)
    encoder, given = tiny_encoder(with_hourglass(BASE_LIKE)), (noise(1, 820), torch.tensor([820]))
    assert 0 < distance(pack(encoder, kind)(*given).last, encoder(*given).last) < 0.1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"factor": 1}, r"encoder\.transformer\.hourglass: expected factor from 2 to 100"),
        ({"factor": 101}, "found 101, 1 and 1"),
        ({"before": -1}, "before and after from 0 up"),
        ({"before": 3, "after": 1}, r"keeps 3 \+ 1 layers at the full rate, expected fewer than num_layers \(4\)"),
    ],
)
def test_layers_that_are_not_there_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_hourglass(BASE_LIKE, **keys)
