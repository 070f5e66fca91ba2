"""Every kind of file that is listed is read: suffixes, wav without a length, and formats that cannot seek."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.data.audio import AUDIO_SUFFIXES, AudioConfig, read_audio, read_header
from speechssl.errors import AudioError
from speechssl.manifests.build import build_manifest

KINDS = {  # what libsndfile is told to write for a suffix; the bytes decide how it is read, not the name
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".mp3": ("MP3", None),
    ".opus": ("OGG", "OPUS"),
    ".mp2": ("MP3", None),
    ".mpga": ("MP3", None),
    ".sph": ("NIST", "PCM_16"),
    ".nist": ("NIST", "ULAW"),
    ".aif": ("AIFF", "PCM_16"),
    ".aiff": ("AIFF", "PCM_24"),
    ".aifc": ("AIFF", "ALAW"),
    ".au": ("AU", "PCM_16"),
    ".snd": ("AU", "ULAW"),
    ".w64": ("W64", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".voc": ("VOC", "PCM_16"),
}


def speech(seconds: float, rate: int = 16_000) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(0, 0.1, int(seconds * rate)).astype(np.float32)


def test_every_suffix_is_tried_here() -> None:
    assert {*KINDS} == {*AUDIO_SUFFIXES}


@pytest.mark.parametrize("suffix", KINDS)
def test_a_folder_of_any_kind_is_listed_and_read(tmp_path: Path, suffix: str) -> None:
    kind, subtype = KINDS[suffix]
    soundfile.write(str(tmp_path / f"a{suffix}"), speech(1.0), 16_000, format=kind, subtype=subtype)
    manifest, skipped = build_manifest(tmp_path)
    (row,) = manifest.utterances
    assert not skipped
    assert (row.path, row.sample_rate, row.channels) == (f"a{suffix}", 16_000, 1)
    read = read_audio(tmp_path / row.path, AudioConfig(), expected_samples=row.num_samples)
    assert len(read) == row.num_samples
    assert 0.05 < float(read.std()) < 0.2


def streamed(declared: int, samples: np.ndarray, channels: int = 1, width: int = 2) -> bytes:
    frame = channels * width
    riff = min(declared + 36, 0xFFFFFFFF)
    head = struct.pack("<4sI4s4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16)
    head += struct.pack("<HHIIHH", 1, channels, 16_000, 16_000 * frame, frame, 8 * width)
    return head + struct.pack("<4sI", b"data", declared) + samples.tobytes()


@pytest.mark.parametrize(
    "declared",
    [0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x80000024, 0xFFFFF000, 0x7FFFF000 // 6 * 6, 2_000_000_000],
    ids=hex,
)
def test_wav_from_a_pipe_is_as_long_as_the_file(tmp_path: Path, declared: int) -> None:
    samples = (speech(1.0) * 2**15).astype("<i2")
    (tmp_path / "a.wav").write_bytes(streamed(declared, samples))
    assert read_header(tmp_path / "a.wav").num_samples == len(samples)
    read = read_audio(tmp_path / "a.wav", AudioConfig())
    np.testing.assert_array_equal(read, samples / np.float32(2**15))


@pytest.mark.parametrize("declared", [32_002, 64_000, 999_999_998])
def test_wav_that_lost_its_end_is_refused(tmp_path: Path, declared: int) -> None:
    (tmp_path / "a.wav").write_bytes(streamed(declared, (speech(1.0) * 2**15).astype("<i2")))
    with pytest.raises(AudioError, match=f"truncated: its header declares {declared} bytes of samples"):
        read_header(tmp_path / "a.wav")


def test_what_cannot_be_sought_is_decoded_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "voicemail.wav"
    soundfile.write(str(path), speech(3.0, 8000), 8000, format="WAV", subtype="GSM610")
    config = AudioConfig(min_sample_rate=8000)
    whole = read_audio(path, config)
    part = read_audio(path, config, start=16_000, num_samples=8000)
    np.testing.assert_allclose(part, whole[16_000:24_000], atol=1e-5)
    with pytest.raises(AudioError, match="no samples at the wanted position"):
        read_audio(path, config, start=60_000, num_samples=8000)
