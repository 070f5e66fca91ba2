"""Ogg of several streams, without its last page, or of flac, beside the files that its sound came from."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.ogg import is_plain, read_ogg
from speechssl.audio.reading import AudioConfig, read_audio, read_header
from speechssl.audio.storage import Place
from speechssl.corpus.building import build
from speechssl.corpus.check.measure import measure
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.errors import AudioError

SOUND = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
ANY = AudioConfig(min_sample_rate=1)
KINDS = ["VORBIS", "OPUS"]


def slow_sum(page: bytes) -> int:
    """Add up a page bit by bit, as RFC 3533 says it."""
    total = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        total ^= byte << 24
        for _ in range(8):
            total = (total << 1 ^ (0x104C11DB7 if total >> 31 else 0)) & 0xFFFFFFFF
    return total


def with_sum(page: bytes) -> bytes:
    return page[:22] + struct.pack("<I", slow_sum(page)) + page[26:]


def pages(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        sizes = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(sizes) + sum(sizes)
        found.append(data[at:end])
        at = end
    return found


def encoded(kind: str, sound: np.ndarray = SOUND, rate: int = 16_000, serial: int | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="OGG", subtype=kind)
    if serial is None:
        return file.getvalue()
    return b"".join(with_sum(page[:14] + struct.pack("<I", serial) + page[18:]) for page in pages(file.getvalue()))


def unended(data: bytes) -> bytes:
    *before, last = pages(data)
    return b"".join([*before, with_sum(last[:5] + bytes([last[5] & ~4]) + last[6:])])


def flac_in_ogg(sound: np.ndarray = SOUND, serial: int = 7) -> bytes:
    """Put flac into pages of a packet each (RFC 9639, section 10.1)."""
    file = io.BytesIO()
    soundfile.write(file, sound, 16_000, format="FLAC", subtype="PCM_16")
    data, at, packets = file.getvalue(), 42, []
    packets.append(b"\x7fFLAC\1\0\0\1" + data[:42])
    while True:
        end = at + 4 + int.from_bytes(data[at + 1 : at + 4])
        packets.append(data[at:end])
        if data[at] & 128:
            break
        at = end
    rest = data[end:]
    packets += [rest[i : i + 5_000] for i in range(0, len(rest), 5_000)]  # libFLAC does not mind where packets end
    out = []
    for number, packet in enumerate(packets):
        sizes = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        flags = 2 if number == 0 else 4 if number == len(packets) - 1 else 0
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 0, serial, number, 0, len(sizes))
        out.append(with_sum(head + sizes + packet))
    return b"".join(out)


def decoded(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32")[0]


def listed_and_read(path: Path) -> np.ndarray:
    """Build, read whole, in parts, and measure: all agree."""
    row = build([str(path.parent)]).manifest.utterances[0]
    whole = read_audio(path, ANY, expected_samples=row.num_samples).numpy()
    for start, count in ((0, 100), (len(whole) // 2 + 1, 5_000), (len(whole) - 100, 100)):
        part = read_audio(path, ANY, start=start, num_samples=count, expected_samples=row.num_samples).numpy()
        np.testing.assert_array_equal(part, whole[start : start + count])
    measured = measure(path, CheckConfig())
    assert (measured.num_samples, measured.problem, measured.complaint) == (row.num_samples, None, None)
    return whole


@pytest.mark.parametrize("serials", [(1, 2), (5, 5), (3, 1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_streams_that_are_joined_are_all_heard(tmp_path: Path, kind: str, serials: tuple[int, ...]) -> None:
    parts = [encoded(kind, SOUND[: 40_000 - 7_000 * i], serial=serial) for i, serial in enumerate(serials)]
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(parts))
    expected = np.concatenate([decoded(part) for part in parts])
    np.testing.assert_array_equal(listed_and_read(path), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_never_ended_is_read_to_its_end(tmp_path: Path, kind: str) -> None:
    whole = encoded(kind, serial=1)
    path = tmp_path / "a.ogg"
    path.write_bytes(unended(whole))
    np.testing.assert_array_equal(listed_and_read(path), decoded(whole))
    path.write_bytes(unended(whole) + encoded(kind, SOUND[:9_000], serial=2))
    assert len(listed_and_read(path)) == 49_000


def test_flac_in_ogg_is_the_flac_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.oga"
    path.write_bytes(flac_in_ogg())
    np.testing.assert_allclose(listed_and_read(path), SOUND, atol=2**-15)
    path.write_bytes(flac_in_ogg() + flac_in_ogg(SOUND[:5_000], serial=8))
    np.testing.assert_allclose(listed_and_read(path), np.concatenate([SOUND, SOUND[:5_000]]), atol=2**-15)


def test_what_is_joined_is_heard_in_an_archive_as_well(tmp_path: Path) -> None:
    one, other = encoded("OPUS", serial=1), encoded("OPUS", SOUND[:5_000], serial=2)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(512) + one + other + bytes(512))
    place = Place(str(path), 512, len(one) + len(other))
    assert read_header(place).num_samples == 45_000
    assert len(read_audio(place, ANY)) == 45_000


def test_streams_of_several_rates_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    path.write_bytes(encoded("VORBIS", serial=1) + encoded("VORBIS", rate=8_000, serial=2))
    with pytest.raises(AudioError, match=r"holds 2 streams, of 16000 Hz and 1 channels, 8000 Hz and 1 channels"):
        read_header(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_file_is_plain_and_left_as_it_is(kind: str) -> None:
    data = encoded(kind, serial=4)
    for content in (data, data + b"words" * 99, data + bytes(3_000)):
        assert is_plain(io.BytesIO(content), whole=True)
        assert is_plain(io.BytesIO(content), whole=False)
    found = read_ogg(data)
    assert found is not None
    assert found.streams() == [data]


def test_the_end_alone_shows_all_but_a_stream_of_the_same_number() -> None:
    one, other = encoded("OPUS", serial=1), encoded("OPUS", serial=2)
    for content in (one + other, unended(one), flac_in_ogg()):
        assert not is_plain(io.BytesIO(content), whole=False)
    assert is_plain(io.BytesIO(one + one), whole=False)
    assert not is_plain(io.BytesIO(one + one), whole=True)


@pytest.mark.parametrize("content", [b"", b"OggS", b"OggS" + bytes(99), b"RIFF" + bytes(99)])
def test_what_is_no_ogg_is_left_to_others(content: bytes) -> None:
    assert is_plain(io.BytesIO(content), whole=True)
    assert read_ogg(content) is None
