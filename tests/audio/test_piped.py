"""Standard input: samples, wav, and other files by their beginnings: speechssl.audio.piped."""

import io
import struct

import numpy as np
import pytest
import soundfile

from speechssl.audio.piped import samples_of
from speechssl.errors import AudioError
from tests.audio.mpeg import coded, without_tag

SAMPLES = (np.random.default_rng(0).normal(0, 3000, 16_000)).astype("<i2")


def wav(declared: int | None = None, *, before: bytes = b"", extensible: bool = False) -> bytes:
    size = 2 * len(SAMPLES) if declared is None else declared
    body = struct.pack("<HHIIHH", 0xFFFE if extensible else 1, 1, 16_000, 32_000, 2, 16)
    if extensible:
        body += struct.pack("<HHIH", 22, 16, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
    riff = struct.pack("<4sI4s", b"RIFF", min(size + 36, 0xFFFFFFFF), b"WAVE")
    return riff + struct.pack("<4sI", b"fmt ", len(body)) + body + before + struct.pack("<4sI", b"data", size)


def heard(content: bytes) -> bytes:
    samples, found = samples_of(io.BytesIO(content)), b""
    while part := samples.read(1000):
        found += part
    return found


@pytest.mark.parametrize("declared", [None, 0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2_000_000_000])
@pytest.mark.parametrize("extensible", [False, True])
def test_the_header_of_wav_is_not_heard(declared: int | None, extensible: bool) -> None:
    assert heard(wav(declared, extensible=extensible) + SAMPLES.tobytes()) == SAMPLES.tobytes()


def test_other_chunks_of_wav_are_not_heard_either() -> None:
    chunk = struct.pack("<4sI", b"LIST", 5) + b"INFO\0" + b"\0"
    assert heard(wav(before=chunk) + SAMPLES.tobytes() + chunk) == SAMPLES.tobytes()


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 4096, 20_001])
def test_samples_are_heard_as_they_are(length: int) -> None:
    content = SAMPLES.tobytes()[:length]
    assert heard(content) == content


def test_samples_that_begin_like_mp3_are_samples() -> None:
    content = b"\xff\xfb\x90\x00" + SAMPLES.tobytes()
    assert heard(content) == content


def written(kind: str, subtype: str, rate: int = 16_000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((1600, channels), np.float32), rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (written("WAV", "PCM_16", 44_100, 2), "wav of 44100 Hz, 2 channels and 16 bits"),
        (written("WAV", "PCM_24"), "wav of 16000 Hz, 1 channels and 24 bits"),
        (written("WAV", "FLOAT"), r"wav of 16000 Hz, 1 channels and 32 bits \(format 3\)"),
        (written("FLAC", "PCM_16"), "a file of flac"),
        (written("OGG", "VORBIS"), "a file of ogg"),
        (written("AIFF", "PCM_16"), "a file of aiff"),
        (written("AU", "PCM_16"), "a file of au"),
        (written("CAF", "PCM_16"), "a file of caf"),
        (written("RF64", "PCM_16"), "a file of wav"),
        (coded(), "a file of mp3"),
        (without_tag(coded()), "a file of mp3"),
        (b"ID3\4" + bytes(100), "a file of mp3"),
        (b"RIFF", "wav without a header"),
    ],
)
def test_other_files_are_refused_with_the_cure(content: bytes, said: str) -> None:
    with pytest.raises(
        AudioError, match=rf"standard input is {said}.*, expected 16-bit mono at 16000 Hz: name the file"
    ):
        samples_of(io.BytesIO(content))
