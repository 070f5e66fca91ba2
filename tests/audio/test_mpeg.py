"""MPEG audio: frames counted, and files that libsndfile's estimate would cut off: speechssl.audio.mpeg."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.ffmpeg import decode_by_ffmpeg, ffmpeg_program
from speechssl.audio.mpeg import read_mpeg
from speechssl.audio.reading import AudioConfig, read_audio, read_header
from speechssl.audio.storage import Place
from speechssl.errors import AudioError
from tests.audio.mpeg import RATE, coded, decoded, loud_first, without_tag

CONFIG = AudioConfig(min_sample_rate=8000)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_as_many_samples_are_counted_as_are_decoded(rate: int, mode: str, channels: int) -> None:
    data = coded(rate=rate, mode=mode, channels=channels)
    found = read_mpeg(data)
    assert found.num_samples == len(decoded(data))
    assert found.missing == 0
    if b"Xing" not in data[:60] and b"Info" not in data[:60]:
        return
    bare = without_tag(data)
    assert read_mpeg(bare).num_samples == len(decoded(bare))


@pytest.mark.parametrize(
    "changed",
    [
        lambda data: b"ID3\4\0\0" + bytes([0, 0, 1, 5]) + bytes(133) + data,
        lambda data: data + b"TAG" + bytes(125),
        lambda data: data + bytes(3000),
        lambda data: bytes(700) + data,
        lambda data: data[:-37],  # within the last frame
    ],
    ids=["id3v2", "id3v1", "zeros after", "zeros before", "cut off"],
)
@pytest.mark.parametrize("is_bare", [False, True])
def test_what_lies_around_the_frames_counts_for_nothing(changed, is_bare: bool) -> None:
    data = changed(without_tag(coded()) if is_bare else coded())
    found = read_mpeg(data)
    assert found.num_samples == sum(len(decoded(stream)) for stream in found.streams())
    assert abs(found.num_samples - 3 * RATE) < 3 * 1152


def test_a_file_without_a_stated_length_is_listed_and_read_as_long_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(without_tag(coded()))
    whole = decoded(path.read_bytes())
    assert soundfile.info(path).frames > 2 * len(whole)  # the estimate
    header = read_header(path)
    assert (header.num_samples, header.sample_rate, header.channels) == (len(whole), RATE, 1)
    read = read_audio(path, CONFIG, expected_samples=header.num_samples)
    assert len(read) == -(-len(whole) * 16_000 // RATE)
    part = read_audio(path, CONFIG, start=20_000, num_samples=8000, expected_samples=header.num_samples)
    np.testing.assert_allclose(part, read[20_000:28_000], atol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_what_libsndfile_would_cut_off_is_read_to_its_end(tmp_path: Path, count: int) -> None:
    data = loud_first() * count
    path = tmp_path / "a.mp3"
    path.write_bytes(data)
    header = read_header(path)
    assert soundfile.info(path).frames < 0.8 * header.num_samples
    assert header.num_samples == pytest.approx(5 * RATE * count, abs=4 * 1152 * count)
    read = read_audio(path, CONFIG)
    last = read[-16_000 // 2 :]
    assert len(read) == -(-header.num_samples * 16_000 // RATE)
    assert float(last.std()) > 0.02  # speech up to the end
    part = read_audio(path, CONFIG, start=len(read) - 9000, num_samples=8000)
    np.testing.assert_allclose(part[100:], read[-8900:-1000], atol=1e-4)  # the first depend on frames before them


@pytest.mark.skipif(ffmpeg_program() is None, reason="needs ffmpeg")
def test_samples_lie_where_ffmpeg_puts_them(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(loud_first())
    found = read_mpeg(path.read_bytes())
    (stream,) = found.streams()
    other = decode_by_ffmpeg(path)[0][:, 0]
    ours = decoded(stream)[:, 0]
    assert len(ours) == len(other) == found.num_samples
    np.testing.assert_allclose(ours, other, atol=2e-3)


def test_files_joined_are_read_one_after_the_other(tmp_path: Path) -> None:
    one, other = coded(2.0), coded(1.0, level=0.9)
    path = tmp_path / "joined.mp3"
    path.write_bytes(one + other)
    header = read_header(path)
    expected = np.concatenate([decoded(one), decoded(other)])[:, 0]
    assert header.num_samples == len(expected)
    place = Place(str(path))
    assert read_header(place).num_samples == len(expected)
    read = read_audio(path, AudioConfig(min_sample_rate=RATE))
    assert len(read) == -(-len(expected) * 16_000 // RATE)


def test_a_file_that_lost_its_end_says_how_much(tmp_path: Path) -> None:
    data = coded()
    path = tmp_path / "half.mp3"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"half\.mp3: truncated: it states \d+ more frames than the file holds"):
        read_header(path)


@pytest.mark.parametrize("data", [b"", b"RIFF" + bytes(60), bytes(500), b"\xff\xfb\x90\x00", b"ID3"], ids=str)
def test_other_bytes_are_not_counted(data: bytes) -> None:
    found = read_mpeg(data)
    assert found is None or found.num_samples == 0
