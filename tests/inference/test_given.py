"""Audio in memory becomes the samples that the same audio has in a file, or is refused for a reason."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.given import list_given
from speechssl.data.waveform import read_utterance
from speechssl.errors import AudioError, ConfigError
from tests.conftest import voice


def heard(audio, sample_rate=None, channels=None, **config) -> torch.Tensor:
    """Read the one utterance that is given."""
    given = list_given(audio, sample_rate=sample_rate, channels=channels)
    config |= {"channels": channels} if isinstance(channels, str) else {}
    return read_utterance(given, given.utterances[0], AudioConfig(**config))


@pytest.mark.parametrize(
    ("subtype", "dtype"),
    [("PCM_16", "int16"), ("PCM_32", "int32"), ("FLOAT", "float32"), ("DOUBLE", "float64"), ("PCM_16", "float32")],
)
@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
@pytest.mark.parametrize("normalize", [False, True])
def test_an_array_is_heard_as_the_file_that_holds_it(tmp_path, subtype, dtype, rate, normalize):
    path = tmp_path / "x.wav"
    soundfile.write(path, voice(20_000, rate=rate), rate, subtype=subtype)
    samples, _ = soundfile.read(path, dtype=dtype)
    expected = read_audio(path, AudioConfig(normalize=normalize))
    assert torch.equal(heard(path, normalize=normalize), expected)
    assert torch.equal(heard(samples, rate, normalize=normalize), expected)
    assert torch.equal(heard(torch.from_numpy(samples), rate, normalize=normalize), expected)


def test_bytes_of_8_bits_are_centred(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, voice(4_000), 16_000, subtype="PCM_U8")
    stored = np.frombuffer(path.read_bytes()[-4_000:], np.uint8)
    assert torch.equal(heard(stored, 16_000), read_audio(path, AudioConfig()))


@pytest.mark.parametrize("channels", ["mean", "first", 1])
def test_channels_are_chosen_whatever_the_layout(tmp_path, channels):
    path = tmp_path / "x.wav"
    both = np.stack([voice(6_000, seed=1), voice(6_000, seed=2)], axis=1)
    soundfile.write(path, both, 16_000, subtype="FLOAT")
    expected = {"mean": both.mean(1), "first": both[:, 0], 1: both[:, 1]}[channels]
    for audio, rate in ((path, None), (both, 16_000), (both.T, 16_000), (torch.from_numpy(both.T), 16_000)):
        assert torch.equal(heard(audio, rate, channels), torch.from_numpy(expected))


def test_the_samples_that_are_given_stay_as_they_are():
    samples = voice(4_000)
    kept = samples.copy()
    heard(samples, 16_000, normalize=True)
    assert np.array_equal(samples, kept)


def test_gradients_and_half_precision_are_left_behind():
    samples = torch.from_numpy(voice(4_000)).bfloat16().requires_grad_()
    assert torch.equal(heard(samples, 16_000), samples.detach().float())


@pytest.mark.parametrize(
    ("audio", "rate", "error", "message"),
    [
        (voice(800), None, ConfigError, "array 0: say its sample_rate, in Hz"),
        (voice(800), 0, ConfigError, "sample_rate=0: expected a whole number above 0"),
        (voice(800), 44_100.5, ConfigError, "sample_rate=44100.5: expected a whole number"),
        (voice(800), float("nan"), ConfigError, "sample_rate=nan: expected a whole number"),
        ({"array": voice(800)}, None, ConfigError, "array 0: say its sample_rate"),
        (["a.wav"], 16_000, ConfigError, "sample_rate=16000 is for arrays and tensors; files say theirs"),
        (None, None, AudioError, "found NoneType; give a file's name"),
        (b"RIFF", None, AudioError, "found bytes; give a file's name"),
        (np.zeros(0, np.float32), 16_000, AudioError, "array 0: holds no samples"),
        (np.zeros(800), 16_000, AudioError, "array 0: silent"),
        (np.full(800, np.nan), 16_000, AudioError, "array 0: holds NaN"),
        (np.arange(800), 16_000, AudioError, "holds int64, whose full scale is not known"),
        (np.zeros(800, bool), 16_000, AudioError, "holds bool, whose full scale"),
        (np.zeros((2, 800)), 16_000, AudioError, "has 2 channels; say channels='mean'"),
        (np.zeros((2, 3, 800)), 16_000, AudioError, r"has the shape \(2, 3, 800\), expected"),
        (np.zeros((30, 800)), 16_000, AudioError, "give several utterances as a list"),
        ([[0.1, 0.2]], 16_000, AudioError, "array 0: expected the name of a file, an array or a tensor, found list"),
        (Path("no/such.wav"), None, AudioError, "no/such.wav: no such file"),
    ],
)
def test_what_cannot_be_heard_says_why(audio, rate, error, message):
    with pytest.raises(error, match=message):
        heard(audio, rate)


@pytest.mark.parametrize("channels", ["x", 1.5, -1, True, 2])
def test_channels_that_are_not_there_are_refused(channels):
    with pytest.raises(ConfigError, match=r"channels"):
        heard(np.stack([voice(800), voice(800, seed=1)]), 16_000, channels)


def test_the_third_of_several_is_named():
    with pytest.raises(AudioError, match="array 2: silent"):
        given = list_given([voice(800), voice(900), np.zeros(700)], sample_rate=16_000)
        [read_utterance(given, row, AudioConfig()) for row in given.utterances]
