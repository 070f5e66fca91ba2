"""Extraction from a stream: speechssl.model.incremental_frames."""

import pickle

import pytest
import torch

from speechssl.audio.reading import normalize_waveform
from speechssl.model.conv import ConvFeatureExtractor
from speechssl.model.frames import frame_count
from speechssl.model.incremental_frames import IncrementalFrames
from tests.model.tiny import LOG_MEL_BOTH, TINY_STACK, noise, randomise

GAPS = ((8, 6, 3), (8, 2, 4))  # the second convolution skips steps of the first
LEVELS = torch.linspace(0.01, 1, 1500)  # parts differ in level


def extractor(norm: str, stack: tuple[tuple[int, int, int], ...] = TINY_STACK) -> ConvFeatureExtractor:
    conv = ConvFeatureExtractor(stack, norm, bias=True)  # type: ignore[arg-type]
    randomise(conv)
    return conv.eval()


@torch.no_grad()
def at_once(conv: ConvFeatureExtractor, waveform: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """Extract the frames of a whole waveform: (frames, channels)."""
    waveform = waveform.clone()
    if normalize:
        normalize_waveform(waveform)
    return conv(waveform[None], torch.tensor([len(waveform)]))[0, : frame_count(len(waveform), conv.stack)]


@pytest.mark.parametrize("stack", [TINY_STACK, GAPS])
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [1, 17, 333, 1500])
@torch.no_grad()
def test_frames_are_those_of_the_audio_until_they_were_extracted(stack, norm, normalize, size):
    conv, waveform = extractor(norm, stack), noise(1500) * LEVELS + 0.3
    frames = IncrementalFrames(conv, normalize=normalize, horizon=1500)
    for part in waveform.split(size):
        frames.add(part)
        before, count = frames.extracted, frame_count(frames.num_samples, conv.stack)
        assert frames.available == count
        if count > before and (count % 3 == 0 or frames.num_samples == 1500):
            expected = at_once(conv, waveform[: frames.num_samples], normalize=normalize)[before:]
            torch.testing.assert_close(frames.extract(), expected, rtol=1e-3, atol=1e-3)
    assert frames.extracted == count


@torch.no_grad()
def test_frames_without_statistics_are_those_of_the_whole():
    conv, waveform = extractor("layer"), noise(1500) * LEVELS
    frames, found = IncrementalFrames(conv, normalize=False, horizon=100), []
    for part in waveform.split(77):
        frames.add(part)
        found.append(frames.extract())
    torch.testing.assert_close(torch.cat(found), at_once(conv, waveform, normalize=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [333, 9_000])
@torch.no_grad()
def test_log_mel_frames_are_those_of_the_audio_until_they_were_extracted(norm, normalize, size):
    config = LOG_MEL_BOTH[norm]
    conv = ConvFeatureExtractor(config.stack, norm, config.conv_bias, log_mel=True)
    randomise(conv)
    waveform = noise(9_000) * torch.linspace(0.01, 1, 9_000) + 0.3
    frames, count = IncrementalFrames(conv, normalize=normalize, horizon=9_000), 0
    for part in waveform.split(size):
        frames.add(part)
        before, count = frames.extracted, frame_count(frames.num_samples, conv.stack)
        assert frames.available == count
        if count > before:
            expected = at_once(conv, waveform[: frames.num_samples], normalize=normalize)[before:]
            torch.testing.assert_close(frames.extract(), expected, rtol=1e-3, atol=1e-3)
    assert frames.extracted == count > 0


@pytest.mark.parametrize("norm", ["group", "layer"])
@torch.no_grad()
def test_the_level_of_long_ago_is_forgotten(norm):
    conv, waveform = extractor(norm), noise(30_000)
    found = []
    for loud in (1.0, 100.0):
        frames = IncrementalFrames(conv, normalize=True, horizon=1000)
        for part in (loud * waveform[:2000], *waveform[2000:].split(100)):
            frames.add(part)
            last = frames.extract()
        found.append(last)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_stream_holds_no_more_after_an_hour_than_after_a_minute():
    frames, sizes = IncrementalFrames(extractor("group"), normalize=True, horizon=1000), set()
    for part in noise(20_000).split(200):
        frames.add(part)
        frames.extract()
        sizes.add(len(pickle.dumps(frames)))
    assert max(sizes) - min(sizes) < 500
