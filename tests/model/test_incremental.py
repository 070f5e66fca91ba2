"""Encoding of a stream: speechssl.model.incremental and speechssl.model.earlier_frames."""

import pickle

import pytest
import torch

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.incremental import IncrementalEncoder
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, LOG_MEL_BOTH, noise, tiny_encoder

HOP, WINDOW = BASE_LIKE.hop, BASE_LIKE.window
BOTH = pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE], ids=["base", "large"])


def samples_of(frames: int) -> int:
    return (frames - 1) * HOP + WINDOW


@torch.no_grad()
def slowly(encoder: SpeechEncoder, waveform: torch.Tensor, ends: list[tuple[int, int]], context: int) -> torch.Tensor:
    """Encode a stream whose frames need no statistics by whole layers, over the stored inputs of settled frames.

    Args:
        encoder: an encoder with layer norm in its extractor.
        waveform: (time,).
        ends: frames that have arrived, and of these the settled ones, for each run.
        context: frames that attend to each other.
    """
    transformer = encoder.transformer
    conv = encoder.conv(waveform[None], torch.tensor([len(waveform)]))[0]
    features = encoder.project(encoder.norm(conv))
    stored = [torch.zeros(0, encoder.dim) for _ in transformer.layers]  # inputs of each layer
    found, settled = [], 0
    for arrived, until in ends:
        x = features[:arrived] + transformer.positions(features[None, :arrived])[0]
        x = (transformer.norm(x) if transformer.config.norm == "post" else x)[settled:]
        number = len(x)
        for index, layer in enumerate(transformer.layers):
            inputs = torch.cat([stored[index], x])
            stored[index] = torch.cat([stored[index], x[: until - settled]])[-max(1, context - number) :]
            x = layer(inputs[None], None)[0, -number:]
        x = transformer.norm(x) if transformer.config.norm == "pre" else x
        found.append(x[: until - settled])
        settled = until
    return torch.cat(found)


@pytest.mark.parametrize("config", [BASE_LIKE, LARGE_LIKE, *LOG_MEL_BOTH.values()])
@pytest.mark.parametrize("normalize", [False, True])
@torch.no_grad()
def test_a_stream_that_is_settled_at_once_is_encoded_as_the_whole(config, normalize):
    encoder, waveform = tiny_encoder(config), noise(59 * config.hop + config.window + 7)
    stream = IncrementalEncoder(encoder, normalize=normalize, context=60)
    for part in waveform.split(5 * config.hop):
        stream.frames.add(part)
    if normalize:
        waveform = (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-5).sqrt()
    expected = encoder(waveform[None], torch.tensor([len(waveform)])).last[0]
    torch.testing.assert_close(stream.settle(60), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [30, 1000])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_settled_frames_attend_as_they_were_when_they_were_settled(context, norm):
    config = EncoderConfig(
        **{**vars(LARGE_LIKE), "transformer": {"pre": LARGE_LIKE, "post": BASE_LIKE}[norm].transformer}
    )
    encoder, waveform = tiny_encoder(config), noise(samples_of(100))
    ends = [
        (7, 3),
        (12, 10),
        (20, 11),
        (29, 29),
        (30, 30),
        (50, 40),
        (60, 57),
        (80, 70),
        (81, 71),
        (100, 95),
        (100, 100),
    ]
    stream, found, added = IncrementalEncoder(encoder, normalize=False, context=context), [], 0
    for arrived, until in ends:
        stream.frames.add(waveform[added : samples_of(arrived)])
        found.append(stream.settle(until))
        added = samples_of(arrived)
        assert stream.settled == until
    torch.testing.assert_close(torch.cat(found), slowly(encoder, waveform, ends, context), rtol=1e-4, atol=1e-4)


@BOTH
def test_each_frame_is_extracted_once_and_encoded_until_it_is_settled(config, monkeypatch):
    encoder, waveform = tiny_encoder(config), noise(samples_of(500))
    passed: list[int] = []
    encoder.transformer.layers[0].register_forward_pre_hook(lambda _, given: passed.append(given[0].shape[1]))
    encoder.norm.register_forward_pre_hook(lambda _, given: extracted.append(len(given[0])))
    extracted: list[int] = []
    stream = IncrementalEncoder(encoder, normalize=False, context=100)
    for part in waveform.split(20 * HOP):
        stream.frames.add(part)
        if stream.frames.available > 10:
            stream.settle(stream.frames.available - 10)
    stream.settle(500)
    assert sum(extracted) == 500
    assert max(passed) == 30
    assert sum(passed) == 500 + 10 * (len(passed) - 1)


@BOTH
def test_a_stream_holds_no_more_when_it_goes_on(config):
    stream, sizes = IncrementalEncoder(tiny_encoder(config), normalize=True, context=50), []
    for part in noise(samples_of(2000)).split(20 * HOP):
        stream.frames.add(part)
        if stream.frames.available > 10:
            stream.settle(stream.frames.available - 10)
        parts = [held for name, held in vars(stream).items() if name not in ("_encoder", "frames")]
        sizes.append(len(pickle.dumps(parts)))
    assert max(sizes) == max(sizes[:10])
