"""Audio files of every kind, sound and broken."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, AudioHeader, read_audio, read_header
from speechssl.errors import AudioError

DEFAULT = AudioConfig()


@pytest.fixture
def sound(tmp_path, write_wav):
    """Give a function that writes `name` below the temporary folder."""
    return lambda name="a.wav", *args, **kwargs: write_wav(tmp_path / name, *args, **kwargs)


def test_a_good_file_is_read_as_it_was_written(sound):
    path = sound(num_samples=1234, subtype="FLOAT")
    expected = soundfile.read(str(path), dtype="float32")[0]
    waveform = read_audio(path, DEFAULT)
    assert waveform.dtype == torch.float32
    assert torch.equal(waveform, torch.from_numpy(expected))


def test_the_header_tells_length_rate_and_channels(sound):
    header = read_header(sound(num_samples=4410, rate=44_100, channels=2))
    assert header == AudioHeader(num_samples=4410, sample_rate=44_100, channels=2)
    assert header.duration_s == pytest.approx(0.1)


def broken_missing(path: Path) -> None:
    path.unlink()


def broken_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def broken_empty(path: Path) -> None:
    path.write_bytes(b"")


def broken_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20_000])


def broken_text(path: Path) -> None:
    path.write_text("this is no sound\n" * 1000)


def broken_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(10_000))


def broken_header_only(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def broken_no_samples(path: Path) -> None:
    soundfile.write(str(path), np.zeros(0, dtype=np.float32), SAMPLE_RATE)


UNREADABLE = [
    (broken_missing, "no such file; correct the manifest"),
    (broken_folder, "is a folder, expected an audio file"),
    (broken_empty, r"the file is empty \(0 bytes\); copy it again, or remove it"),
    (
        broken_truncated,
        "truncated: its header declares 32000 bytes of samples, the file holds 199[0-9]{2}; copy the file",
    ),
    (broken_text, r"cannot be decoded as audio .*expected one of \.wav, .*; convert or remove it"),
    (broken_bytes, r"cannot be decoded as audio .*expected one of \.wav, .*; convert or remove it"),
    (broken_header_only, "; (convert or )?remove it"),
    (broken_no_samples, "holds no samples; remove it"),
]


@pytest.mark.parametrize("read", [read_header, lambda path: read_audio(path, DEFAULT)], ids=["header", "samples"])
@pytest.mark.parametrize(("spoil", "message"), UNREADABLE, ids=[spoil.__name__ for spoil, _ in UNREADABLE])
def test_an_unreadable_file_is_one_error_that_names_it_and_the_cure(sound, spoil, message, read):
    path = sound()
    spoil(path)
    with pytest.raises(AudioError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_truncated_flac_is_an_error_where_its_end_is_missing(sound):
    path = sound("a.flac", num_samples=32_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"a\.flac: .*(truncated|cannot be decoded)"):
        read_audio(path, DEFAULT)


@pytest.mark.parametrize("declared", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_stream_that_declares_no_true_size_is_read(sound, declared):
    path = sound(num_samples=1600)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", declared)
    path.write_bytes(content)
    assert len(read_audio(path, DEFAULT)) == 1600


def test_silence_is_refused(sound):
    path = sound()
    soundfile.write(str(path), np.zeros(16_000, dtype=np.float32), SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"a\.wav: silent: every sample is zero; remove it"):
        read_audio(path, DEFAULT)


def test_a_silent_part_of_a_file_that_speaks_elsewhere_is_no_error(sound):
    path = sound()
    samples = soundfile.read(str(path))[0]
    samples[:8000] = 0
    soundfile.write(str(path), samples, SAMPLE_RATE)
    assert not read_audio(path, DEFAULT, start=0, num_samples=8000).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(sound, value):
    path = sound()
    samples = soundfile.read(str(path), dtype="float32")[0]
    samples[777] = value
    soundfile.write(str(path), samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: holds NaN or infinite samples; write the file again, or remove it"):
        read_audio(path, DEFAULT)


@pytest.mark.parametrize(("rate", "expected"), [(16_000, 1), (48_000, 1)])
def test_a_file_of_one_sample_is_read(sound, rate, expected):
    assert read_audio(sound(num_samples=1, rate=rate), DEFAULT).shape == (expected,)


def ten_hours(path: Path) -> Path:
    """Write the header of ten hours and leave the samples as a hole in the file."""
    size = 36_000 * SAMPLE_RATE * 2
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", size
    )
    with path.open("wb") as file:
        file.write(header + np.full(SAMPLE_RATE, 1000, dtype="<i2").tobytes())
        os.truncate(file.fileno(), len(header) + size)
    return path


def test_ten_hours_in_one_file_are_refused_where_they_would_be_read_whole(tmp_path):
    path = ten_hours(tmp_path / "long.wav")
    with pytest.raises(AudioError, match=r"long\.wav: lasts 36000 s, expected at most 3600; cut it .* segment` does$"):
        read_audio(path, DEFAULT)


def test_a_part_of_ten_hours_is_read(tmp_path):
    waveform = read_audio(ten_hours(tmp_path / "long.wav"), DEFAULT, start=100, num_samples=500)
    assert torch.equal(waveform, torch.full((500,), 1000 / 2**15))


def test_the_longest_file_allowed_is_read(sound):
    path = sound(num_samples=32_000)
    assert len(read_audio(path, AudioConfig(max_duration_s=2.0))) == 32_000
    with pytest.raises(AudioError, match="lasts 2 s, expected at most 2"):
        read_audio(path, AudioConfig(max_duration_s=1.99))


def test_narrowband_audio_is_refused_and_the_error_says_how_to_accept_it(sound):
    with pytest.raises(AudioError, match=r"a\.wav: audio is 8000 Hz, expected at least 16000; remove it$") as caught:
        read_audio(sound(num_samples=8000, rate=8000), DEFAULT)
    again = pickle.loads(pickle.dumps(caught.value.under("dev.audio.")))  # as between a worker and the run
    assert str(again).endswith("remove it, or set dev.audio.min_sample_rate=8000 to accept narrowband speech")
    assert "or set --min-sample-rate 8000 to" in str(again.under("--"))


def test_narrowband_audio_is_resampled_when_accepted(sound):
    path = sound(num_samples=8000, rate=8000)
    waveform = read_audio(path, AudioConfig(min_sample_rate=8000))
    original = torch.from_numpy(soundfile.read(str(path), dtype="float32")[0])
    assert len(waveform) == 16_000
    assert (waveform[2000:-2000:2] - original[1000:-1000]).abs().mean() < 0.02  # the filter takes off the very top


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_other_rates_are_refused_when_resampling_is_off(sound, rate):
    with pytest.raises(AudioError, match=f"audio is {rate} Hz, expected 16000; resample it$"):
        read_audio(sound(rate=rate), AudioConfig(resample=False))


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_and_its_loudness_when_resampled(tmp_path, rate):
    soundfile.write(
        str(tmp_path / "tone.wav"), np.sin(2 * np.pi * 440 * np.arange(rate) / rate) / 2, rate, subtype="FLOAT"
    )
    waveform = read_audio(tmp_path / "tone.wav", DEFAULT)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000) / 2
    assert len(waveform) == 16_000
    assert (waveform - expected)[200:-200].abs().max() < 1e-3


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000, 11_025])
@pytest.mark.parametrize(
    ("start", "num_samples"), [(0, 4000), (320, 4000), (6400, 4001), (12_345, 777), (9_000, 7_000)]
)
def test_a_part_equals_the_same_part_of_the_whole(sound, rate, start, num_samples):
    path = sound(num_samples=rate, rate=rate)
    config = AudioConfig(min_sample_rate=8000)
    whole = read_audio(path, config)
    part = read_audio(path, config, start=start, num_samples=num_samples)
    assert len(part) == min(num_samples, len(whole) - start)
    assert torch.allclose(part, whole[start : start + num_samples], atol=1e-4)


def test_a_part_without_a_length_goes_to_the_end(sound):
    path = sound(rate=44_100, num_samples=44_100)
    assert torch.allclose(read_audio(path, DEFAULT, start=4000), read_audio(path, DEFAULT)[4000:], atol=1e-4)


def test_a_part_beyond_the_end_is_refused(sound):
    with pytest.raises(AudioError, match="no samples at the wanted position; the file is shorter than the manifest"):
        read_audio(sound(num_samples=1000), DEFAULT, start=2000, num_samples=10)


def test_stereo_is_averaged(sound):
    path = sound(channels=2)
    both = torch.from_numpy(soundfile.read(str(path), dtype="float32")[0])
    assert torch.allclose(read_audio(path, DEFAULT), both.mean(1), atol=1e-7)


def test_the_first_channel_is_taken_when_asked_for(sound):
    path = sound(channels=2)
    both = torch.from_numpy(soundfile.read(str(path), dtype="float32")[0])
    assert torch.equal(read_audio(path, AudioConfig(channels="first")), both[:, 0])


def test_stereo_is_refused_when_asked_for(sound):
    with pytest.raises(AudioError, match=r"audio has 2 channels, expected 1; name one in .*`channel`$"):
        read_audio(sound(channels=2), AudioConfig(channels="refuse"))


def test_mono_passes_where_stereo_is_refused(sound):
    assert len(read_audio(sound(), AudioConfig(channels="refuse"))) == 16_000


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("a.flac", {}, 1e-4),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}, 0.3),
        ("a.oga", {"format": "OGG", "subtype": "VORBIS"}, 0.3),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.3),
        ("a.mp3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}, 0.3),
        ("a.wav", {"subtype": "PCM_24"}, 1e-4),
        ("a.wav", {"subtype": "PCM_U8"}, 0.01),
        ("a.WAV", {"subtype": "FLOAT", "format": "WAV"}, 1e-7),
    ],
)
def test_every_format_is_read(sound, tmp_path, name, kind, error):
    original = read_audio(sound("original.wav", num_samples=32_000, subtype="FLOAT"), DEFAULT)
    path = sound(name, num_samples=32_000, **kind)
    waveform = read_audio(path, DEFAULT)
    assert read_header(path).num_samples == pytest.approx(len(waveform), abs=2)
    assert abs(len(waveform) - 32_000) < 2000  # an mp3 carries the padding of its encoder
    if error < 0.1:
        assert (waveform - original).abs().max() <= error
    else:
        assert waveform.std() == pytest.approx(float(original.std()), rel=error)


def test_an_utterance_is_normalised_to_zero_mean_and_unit_variance(sound):
    path = sound()
    soundfile.write(str(path), soundfile.read(str(path))[0] * 0.2 + 0.3, SAMPLE_RATE)
    waveform = read_audio(path, AudioConfig(normalize=True))
    assert float(waveform.mean()) == pytest.approx(0, abs=1e-5)
    assert float(waveform.std()) == pytest.approx(1, abs=0.02)


def test_a_file_that_disagrees_with_the_manifest_is_refused(sound):
    with pytest.raises(
        AudioError, match=r"a\.wav: holds 16000 samples, the manifest says 15999; .*build the manifest again"
    ):
        read_audio(sound(), DEFAULT, expected_samples=15_999)


def test_the_manifest_counts_samples_in_the_file_s_own_rate(sound):
    assert len(read_audio(sound(rate=48_000, num_samples=4800), DEFAULT, expected_samples=4800)) == 1600
