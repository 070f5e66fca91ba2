"""Every kind of file that is listed is read: suffixes, wav without a length, and formats that cannot seek."""

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import AUDIO_SUFFIXES, AudioConfig, read_audio, read_header
from speechssl.corpus.building import build_manifest
from speechssl.corpus.check.measure import measure
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.errors import AudioError

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


def by_ffmpeg(options: str, suffix: str, folder: Path) -> bytes:
    """Encode some noise with imageio-ffmpeg's program."""
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    source, out = folder / "source.wav", folder / f"out{suffix}"
    soundfile.write(str(source), np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    subprocess.run([program, "-nostdin", "-v", "error", "-i", source, *options.split(), out], check=True)
    content = out.read_bytes()
    source.unlink()
    out.unlink()
    return content


@pytest.mark.parametrize(
    ("name", "options", "suffix"),
    [("a.wav", "-c:a g722", ".wav"), ("a.wav", "-c:a adpcm_yamaha", ".wav"), ("a.mp3", "-c:a alac", ".m4a")],
)
def test_what_libsndfile_does_not_read_is_decoded_by_ffmpeg_whatever_its_name(tmp_path, name, options, suffix):
    path = tmp_path / name
    path.write_bytes(by_ffmpeg(options, suffix, tmp_path))
    header = read_header(path)
    assert header.decoder is not None
    assert header.decoder.startswith("ffmpeg ")
    assert abs(header.num_samples - 16_000) < 1_024
    assert len(read_audio(path, AudioConfig(), expected_samples=header.num_samples)) == header.num_samples
    assert measure(path, CheckConfig()).problem is None


def test_half_of_what_ffmpeg_would_decode_is_truncated(tmp_path):
    path = tmp_path / "a.wav"
    content = by_ffmpeg("-c:a g722", ".wav", tmp_path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        AudioError, match=r"truncated: its header declares 8000 bytes of samples, the file holds 39\d\d"
    ):
        read_header(path)


def test_without_ffmpeg_its_files_say_what_would_read_them(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    path.write_bytes(by_ffmpeg("-c:a g722", ".wav", tmp_path))
    monkeypatch.setattr("speechssl.audio.reading.ffmpeg_program", lambda: None)
    with pytest.raises(AudioError, match=r"cannot be decoded .* ffmpeg may read it: install it"):
        read_header(path)


def test_alac_in_caf_as_ffmpeg_writes_it_is_read_bit_for_bit(tmp_path):
    path = tmp_path / "a.caf"
    path.write_bytes(by_ffmpeg("-c:a alac", ".caf", tmp_path))
    expected = np.round(np.random.default_rng(0).normal(0, 0.1, 16_000) * 2**15).clip(-(2**15), 2**15 - 1) / 2**15
    header = read_header(path)
    assert (header.num_samples, header.decoder) == (16_000, None)
    np.testing.assert_allclose(read_audio(path, AudioConfig()).numpy(), expected, atol=2**-15 + 1e-6)


def test_malformed_wav_is_not_heard_through_ffmpeg(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "a.wav"
    soundfile.write(str(path), np.zeros(99), 16_000)
    content = path.read_bytes()
    path.write_bytes(content[:36] + b"fmt " + content[16:36] + content[36:])
    with pytest.raises(AudioError, match="cannot be decoded as audio"):
        read_header(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("variable", [False, True])
def test_half_a_flac_is_truncated_although_its_header_is_whole(tmp_path, share, variable):
    path = tmp_path / "a.flac"
    soundfile.write(str(path), np.random.default_rng(0).normal(0, 0.1, 90_000), 16_000)
    content = path.read_bytes()
    if variable:  # a header that does not say how long its longest frame is
        content = content[:12] + bytes(6) + content[18:]
    path.write_bytes(content)
    assert read_header(path).num_samples == 90_000
    path.write_bytes(content + b"TAG" + bytes(125))
    assert read_header(path).num_samples == 90_000
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AudioError, match=r"truncated: its header declares 90000 samples"):
        read_header(path)
