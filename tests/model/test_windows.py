"""Encoding in windows: speechssl.model.windows."""

import dataclasses
import itertools

import pytest
import torch

from speechssl.model import local_frames as module
from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.frames import frame_count
from speechssl.model.windows import encode_windows, place_windows
from tests.model.tiny import noise

SECOND = 16_000


@pytest.fixture(params=["group", "layer", "group of log-mel", "layer of log-mel"])
def encoder(request, tiny_encoder) -> SpeechEncoder:
    """Return a tiny trunk with either norm, whose frames are far from those of another level of the audio."""
    torch.manual_seed(0)
    norm, _, is_log_mel = request.param.partition(" of ")
    config = dataclasses.replace(tiny_encoder, conv_norm=norm, conv_bias=norm == "layer")
    if is_log_mel:
        config = dataclasses.replace(config, input="log_mel", conv=((16, 3, 2), (16, 3, 1)))
    return SpeechEncoder(config).eval()


def encode(encoder: SpeechEncoder, waveform: torch.Tensor, **changes: int) -> list[torch.Tensor]:
    """Return both layers, concatenated from windows."""
    pieces = list(encode_windows(encoder, waveform, (1, 2), **({"size": 40, "overlap": 10} | changes)))
    return [torch.cat(layer) for layer in zip(*pieces, strict=True)]


def local_only(encoder: SpeechEncoder) -> SpeechEncoder:
    """Disable what is not local: attention and the positional convolution."""
    with torch.no_grad():
        for layer in encoder.transformer.layers:
            layer.attention.project_out.weight.zero_()
        encoder.transformer.positions.conv.parametrizations.weight.original0.zero_()
    return encoder


@pytest.mark.parametrize("num_frames", [1, 39, 40, 41, 69, 70, 71, 100, 1234])
@pytest.mark.parametrize(("size", "overlap"), [(40, 10), (40, 0), (40, 39), (1, 0)])
def test_every_frame_is_kept_once_and_seen_with_its_neighbours(num_frames, size, overlap):
    placed = place_windows(num_frames, size, overlap)
    kept = list(itertools.chain(*(range(window.keep_from, window.keep_to) for window in placed)))
    assert kept == list(range(num_frames))
    for window in placed:
        assert window.stop - window.start == min(size, num_frames)
        assert window.keep_from == 0 or window.keep_from - window.start >= overlap // 2
        assert window.keep_to == num_frames or window.stop - window.keep_to >= overlap // 2


def test_no_more_windows_than_needed():
    assert len(place_windows(40 + 3 * 30, 40, 10)) == 4
    assert len(place_windows(40 + 3 * 30 + 1, 40, 10)) == 5


@pytest.mark.parametrize("at_once", [2**15, 1000, 7])
def test_what_is_local_is_that_of_the_whole(encoder, monkeypatch, at_once):
    monkeypatch.setattr(module, "_AT_ONCE", at_once)  # steps whose statistics are gathered at once
    waveform = noise(5 * SECOND + 77) * torch.linspace(0.01, 1, 5 * SECOND + 77)  # parts differ in level
    local_only(encoder)
    with torch.no_grad():
        whole = encoder(waveform[None], torch.tensor([len(waveform)])).layers
    for expected, found in zip(whole, encode(encoder, waveform), strict=True):
        torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


def test_windows_normalised_by_themselves_would_differ(tiny_encoder):
    torch.manual_seed(0)
    encoder = local_only(SpeechEncoder(dataclasses.replace(tiny_encoder, conv_norm="group")).eval())
    waveform = noise(2 * SECOND) * torch.linspace(0.01, 1, 2 * SECOND)
    with torch.no_grad():
        alone = encoder(waveform[None, :SECOND], torch.tensor([SECOND])).last[0]
    assert (encode(encoder, waveform)[1][: len(alone)] - alone).abs().max() > 0.1


def test_one_window_is_the_whole(encoder):
    waveform = noise(SECOND)
    with torch.no_grad():
        whole = encoder(waveform[None], torch.tensor([SECOND])).layers
    for expected, found in zip(whole, encode(encoder, waveform, size=49), strict=True):
        torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_samples", [16_000 * 2, 16_000 * 2 + 319, 16_000 * 3 + 1])
def test_frames_are_as_many_as_of_the_whole(encoder, num_samples):
    found = encode(encoder, noise(num_samples))
    assert len(found[0]) == len(found[1]) == frame_count(num_samples, encoder.config.stack)


def test_more_overlap_comes_closer_to_the_whole(encoder):
    waveform = noise(6 * SECOND)
    with torch.no_grad():
        whole = encoder(waveform[None], torch.tensor([len(waveform)])).last[0]
    far, near = (
        (encode(encoder, waveform, size=size, overlap=overlap)[1] - whole).square().mean()
        for size, overlap in ((20, 0), (280, 200))
    )
    assert near < far / 2


def test_small_is_read_as_it_is_described():
    config = EncoderConfig.small()
    torch.manual_seed(0)
    found = list(encode_windows(SpeechEncoder(config).eval(), noise(3 * SECOND), (4,), size=30, overlap=5))
    assert [piece[0].shape[1] for piece in found] == [192] * len(found)
    assert sum(len(piece[0]) for piece in found) == frame_count(3 * SECOND, config.conv)


@torch.no_grad()
def test_layer_0_is_the_input_of_the_first_layer_in_every_window(encoder):
    waveform, given = noise(3 * SECOND), list[torch.Tensor]()
    hook = encoder.transformer.layers[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    (whole,) = encode_windows(encoder, waveform, (0, 2), size=10_000, overlap=10)
    assert torch.equal(whole[0], given.pop()[0])
    pieces = list(encode_windows(encoder, waveform, (0, 1), size=40, overlap=10))
    assert len(pieces) == len(given) > 1
    assert sum(len(layers[0]) for layers in pieces) == len(whole[0])
    assert torch.equal(pieces[0][0], given[0][0, : len(pieces[0][0])])
    hook.remove()
