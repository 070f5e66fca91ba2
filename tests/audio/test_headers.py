"""Headers that we read ourselves say what libsndfile says of the same file, or nothing."""

import contextlib
import io
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speechssl.audio import headers
from speechssl.audio.headers import Stated
from speechssl.audio.reading import read_header
from speechssl.errors import AudioError

SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, (501, 2))


def stated_at(path, offset=0, size=None):
    """Return what libsndfile says as well."""
    found = headers.stated_at(path, offset, size)
    return None if found is None else found._replace(longest_frame=None)


def said_by_libsndfile(path: Path) -> Stated | None:
    """Ask libsndfile; None where the file is refused or cut short."""
    try:
        info = soundfile.info(str(path), verbose=True)
    except soundfile.LibsndfileError:
        return None
    is_cut = "(should be" in next((line for line in info.extra_info.splitlines() if line.startswith("data")), "")
    return None if is_cut or not 0 < info.frames < 2**63 - 1 else Stated(info.frames, info.samplerate, info.channels)


def written(name: str = "WAV", subtype: str | None = None, *, channels: int = 1, count: int = 501) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SAMPLES[:count, :channels], 16_000, format=name, subtype=subtype)
    return file.getvalue()


def every_format() -> Iterator[tuple[str, bytes]]:
    """Yield every format and a file of each of its subtypes that libsndfile writes."""
    for name in set(soundfile.available_formats()) - {"RAW", "SD2"}:  # SD2 leaves a file `._` behind
        for subtype in soundfile.available_subtypes(name):
            with contextlib.suppress(soundfile.LibsndfileError):  # some that it lists it does not write
                yield name, written(name, subtype)


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body


def wav(*chunks: bytes) -> bytes:
    content = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


FORMAT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16))
DATA = chunk(b"data", bytes(range(200)))
INFO = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"Lavf58.76.1\0") + chunk(b"INAM", b"name"))


def block(kind: int, body: bytes, *, is_last: bool = False) -> bytes:
    return bytes([kind | 128 * is_last]) + len(body).to_bytes(3) + body


def flac(*blocks: bytes) -> bytes:
    """Put blocks of flac in place of those that libsndfile writes after the first."""
    content = written("FLAC")
    frames = content[content.index(b"\xff\xf8", 42) :]
    return content[:4] + b"\0" + content[5:42] + b"".join(blocks) + frames


COMMENT = struct.pack("<I4sI", 4, b"made", 1) + struct.pack("<I", 9) + b"title=one"
ORDINARY = {
    **{f"wav {kind}": written("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")},
    **{f"wav {kind}": written("WAV", kind, channels=2) for kind in ("ALAW", "ULAW")},
    **{f"wavex {kind}": written("WAVEX", kind, channels=2) for kind in ("PCM_16", "PCM_24", "FLOAT", "ULAW")},
    **{f"flac {kind}": written("FLAC", kind, channels=2) for kind in ("PCM_S8", "PCM_16", "PCM_24")},
    "odd bytes": written("WAV", "PCM_U8", count=333),
    "two samples": written("WAV", count=2),
    "list first": wav(FORMAT, INFO, DATA),
    "list before the format": wav(INFO, FORMAT, DATA),
    "room": wav(chunk(b"JUNK", bytes(28)), FORMAT, chunk(b"FLLR", bytes(3_900)), DATA),
    "a rest of a frame": wav(FORMAT, chunk(b"data", bytes(range(201)))),
    "a rest of a frame, padded": wav(FORMAT, chunk(b"data", bytes(range(201))) + b"\0"),
    "flac padding": flac(block(1, bytes(8_192)), block(1, bytes(10), is_last=True)),
    "flac comment": flac(block(4, COMMENT), block(3, bytes(36)), block(1, bytes(10), is_last=True)),
}
UNUSUAL = {
    "big-endian": b"RIFX" + written()[4:],
    "list last": wav(FORMAT, DATA, INFO),
    "two formats": wav(FORMAT, FORMAT, DATA),
    "two data": wav(FORMAT, DATA, DATA),
    "data first": wav(DATA, FORMAT),
    "no data": wav(FORMAT),
    "no samples": wav(FORMAT, chunk(b"data", b"")),
    "cut short": wav(FORMAT, DATA)[:-30],
    "much behind": wav(FORMAT, DATA) + bytes(50),
    "wavpack inside": wav(FORMAT, chunk(b"data", b"wvpk" + bytes(60))),
    "a strange list": wav(FORMAT, chunk(b"LIST", b"adtl" + chunk(b"labl", bytes(8))), DATA),
    "a list that is too long": wav(FORMAT, chunk(b"LIST", b"INFO" + struct.pack("<4sI", b"ISFT", 900)), DATA),
    "a short peak": wav(FORMAT, chunk(b"PEAK", bytes(12)), DATA),
    "a long fact": wav(FORMAT, chunk(b"fact", bytes(12)), DATA),
    "an odd chunk": wav(FORMAT, chunk(b"JUNK", bytes(3)), DATA),
    "an unknown chunk": wav(FORMAT, chunk(b"what", bytes(4)), DATA),
    "far away": wav(FORMAT, chunk(b"JUNK", bytes(9_000)), DATA),
    "a width that is not that of the bits": wav(FORMAT.replace(b"\2\0\x10\0", b"\4\0\x10\0"), DATA),
    "12 bits": wav(FORMAT.replace(b"\2\0\x10\0", b"\2\0\x0c\0"), DATA),
    "no channels": wav(FORMAT.replace(b"\1\0\1\0", b"\1\0\0\0"), DATA),
    "written by a pipe": wav(FORMAT, DATA).replace(b"data\xc8\0\0\0", b"data\xff\xff\xff\xff"),
    "written by a pipe, 2 GiB": wav(FORMAT, DATA).replace(b"data\xc8\0\0\0", b"data\xff\xff\xff\x7f"),
    "ID3 before flac": b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + written("FLAC"),
    "flac of 20 bits": written("FLAC")[:20] + b"\x01" + written("FLAC")[21:],
    "flac without a length": written("FLAC")[:22] + bytes(4) + written("FLAC")[26:],
    "flac, rate 0": written("FLAC")[:18] + b"\0\0\0" + written("FLAC")[21:],
    "flac, a wrong comment": flac(block(4, COMMENT[:-2]), block(1, bytes(10), is_last=True)),
    "flac, a comment without end": flac(block(4, struct.pack("<I4sI", 4, b"made", 2**31)), block(1, b"", is_last=True)),
    "flac, odd seek points": flac(block(3, bytes(35)), block(1, bytes(10), is_last=True)),
    "flac with a picture": flac(block(6, bytes(32)), block(1, bytes(10), is_last=True)),
    "flac that ends in its header": written("FLAC")[:60],
    "flac that ends in its padding": flac(block(1, bytes(8_192)))[:5_000],
    "nothing": b"",
    "text": b"RIFF and other words about audio, long enough to be read as one of its headers",
}


def test_formats_of_every_kind_are_read_as_libsndfile_does_or_not_at_all(tmp_path):
    path = tmp_path / "a.audio"
    ours = set()
    count = 0
    for name, content in every_format():
        path.write_bytes(content)
        found = stated_at(str(path))
        assert found in (None, said_by_libsndfile(path)), name
        count += 1
        if found is not None:
            ours.add(name)
    assert ours == {"WAV", "WAVEX", "FLAC"}
    assert count > 60


@pytest.mark.parametrize("kind", [*ORDINARY, *UNUSUAL])
def test_what_is_said_is_what_libsndfile_says(tmp_path, kind):
    path = tmp_path / "a.audio"
    path.write_bytes((ORDINARY | UNUSUAL)[kind])
    found = stated_at(str(path))
    assert found == (said_by_libsndfile(path) if kind in ORDINARY else None)
    assert found is not None or kind in UNUSUAL


@pytest.mark.parametrize("kind", [*ORDINARY, *UNUSUAL])
def test_the_header_of_every_kind_is_that_of_libsndfile_or_an_error(tmp_path, kind):
    path = tmp_path / "a.audio"
    path.write_bytes((ORDINARY | UNUSUAL)[kind])
    expected = said_by_libsndfile(path)
    if kind.startswith("written by a pipe"):  # cut short for libsndfile, which reads what there is
        expected = Stated(100, 16_000, 1)
    if kind == "flac without a length":  # counted
        expected = Stated(len(soundfile.read(io.BytesIO(written("FLAC")))[0]), 16_000, 1)
    if expected is None:
        with pytest.raises(AudioError, match=r"a\.audio: "):
            read_header(path)
    else:
        header = read_header(path)
        assert (header.num_samples, header.sample_rate, header.channels) == expected[:3]


def test_a_file_cut_short_is_an_error_that_says_how_much_is_missing(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(FORMAT, DATA)[:-30])
    with pytest.raises(AudioError, match=r"truncated: its header declares 200 bytes of samples, the file holds 170"):
        read_header(path)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path), lambda path: path.symlink_to("nothing")])
def test_what_is_not_a_file_is_not_read(tmp_path, make: Callable[[Path], object]):
    path = tmp_path / "a.wav"
    make(path)
    assert stated_at(str(path)) is None


def test_a_path_that_no_file_can_have_is_not_read():
    assert stated_at("a\0.wav") is None


def test_bytes_of_an_archive_are_read_as_a_file_is(tmp_path):
    path = tmp_path / "a.tar"
    one, other = written("FLAC"), written("WAV", count=77)
    path.write_bytes(bytes(512) + one + other)
    assert stated_at(str(path), 512, len(one)) == Stated(501, 16_000, 1)
    assert stated_at(str(path), 512 + len(one), len(other)) == Stated(77, 16_000, 1)
    assert stated_at(str(path), 512 + len(one), len(other) + 1) is None  # beyond the end of the archive
    assert stated_at(str(path), 512 + len(one), len(other) - 2) is None  # less than the header says


def agrees(path: Path, content: bytes) -> bool:
    """Say whether we say nothing of `content`, or what libsndfile says."""
    path.write_bytes(content)
    found = stated_at(str(path))
    return found is None or found == said_by_libsndfile(path)


@given(
    kind=st.sampled_from(sorted(ORDINARY)),
    changes=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 4_000) | st.none(),
)
@settings(max_examples=100, deadline=None)
@example(kind="flac comment", changes=[(46, 255)], cut=None)
def test_changed_bytes_are_never_read_otherwise_than_by_libsndfile(tmp_path_factory, kind, changes, cut):
    content = bytearray(ORDINARY[kind])
    for place, value in changes:
        content[place % len(content)] = value
    assert agrees(tmp_path_factory.getbasetemp() / "changed", bytes(content[:cut]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(ORDINARY))
def test_no_change_of_a_byte_in_the_header_is_read_otherwise_than_by_libsndfile(tmp_path, kind):
    content, random = ORDINARY[kind], np.random.default_rng(0)
    for place in range(min(120, len(content))):
        for value in {*random.integers(0, 256, 5).tolist(), 0, 1, 128, 255, content[place] ^ 1, content[place] ^ 128}:
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            assert agrees(tmp_path / "a", changed), (place, value)


@pytest.mark.parametrize("rate", [16_000, 7_000, 12_345, 123_450])  # by a code, in kHz, in Hz, in tens of Hz
def test_flac_of_any_rate_that_is_whole_does_not_seem_to_fall_short(tmp_path, rate):
    path = tmp_path / "a.flac"
    soundfile.write(str(path), np.random.default_rng(0).normal(0, 0.1, 20_000), rate)
    stated = headers.stated_at(str(path))
    assert not headers.may_be_truncated(str(path), stated)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert headers.may_be_truncated(str(path), stated)


def test_a_wav_never_seems_to_fall_short(tmp_path):
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(100), 16_000)
    assert not headers.may_be_truncated(str(tmp_path / "a.wav"), headers.stated_at(str(tmp_path / "a.wav")))
