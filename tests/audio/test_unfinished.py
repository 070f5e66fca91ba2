"""Headers that were never finished, and those that are honestly empty."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import AudioConfig, read_audio, read_header
from speechssl.audio.storage import Place
from speechssl.audio.unfinished import Finished, finished
from speechssl.errors import AudioError

FORMAT = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
LIST = b"LIST" + struct.pack("<I", 20) + b"INFOINAM" + struct.pack("<I", 8) + b"a title\0"
SOUND = (np.random.default_rng(0).normal(0, 0.1, 16_000) * 2**15).astype("<i2")


def wav(declared: int, behind: bytes, riff: int = 0) -> bytes:
    return b"RIFF" + struct.pack("<I", riff) + b"WAVE" + FORMAT + b"data" + struct.pack("<I", declared) + behind


def au(declared: int) -> bytes:
    return b".snd" + struct.pack(">5I", 24, declared, 3, 16_000, 1) + SOUND.byteswap().tobytes()


def caf(declared: int) -> bytes:
    about = struct.pack(">d4s5I", 16_000, b"lpcm", 2, 2, 1, 1, 16)
    head = b"caff\0\1\0\0desc" + struct.pack(">q", 32) + about
    return head + b"data" + struct.pack(">qI", declared, 0) + SOUND.tobytes()


def rf64(declared: int) -> bytes:
    sizes = b"ds64" + struct.pack("<IQQQI", 28, declared, declared, declared, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + FORMAT + b"data\xff\xff\xff\xff" + SOUND.tobytes()


UNFINISHED = {
    "wav, 0": wav(0, SOUND.tobytes()),
    "wav, 0, of 36": wav(0, SOUND.tobytes(), 36),
    "au, 0": au(0),
    "au, 2 GiB": au(2**31 - 1),
    "caf, -1": caf(-1),
    "caf, 0": caf(0),
    "rf64, 0": rf64(0),
    "rf64, all": rf64(2**64 - 1),
}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_what_was_never_finished_is_as_long_as_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.audio"
    path.write_bytes(UNFINISHED[kind])
    assert read_header(path).num_samples == len(SOUND)
    np.testing.assert_array_equal(read_audio(path, AudioConfig()), SOUND / np.float32(2**15))
    part = read_audio(path, AudioConfig(), start=9_000, num_samples=500)
    np.testing.assert_array_equal(part, SOUND[9_000:9_500] / np.float32(2**15))


def test_it_is_read_in_an_archive_as_well(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(bytes(512) + UNFINISHED["wav, 0"] + bytes(999))
    place = Place(str(tmp_path / "x.tar"), 512, len(UNFINISHED["wav, 0"]))
    assert read_header(place).num_samples == len(SOUND)
    assert len(read_audio(place, AudioConfig())) == len(SOUND)


@pytest.mark.parametrize("behind", [b"", LIST, b"TAG" + bytes(125), bytes(4_096), LIST + LIST])
def test_what_is_honestly_empty_stays_so(tmp_path: Path, behind: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(wav(0, behind, 36 + len(behind)))
    with pytest.raises(AudioError, match="holds no samples"):
        read_header(tmp_path / "a.wav")


@pytest.mark.parametrize("kind", ["AIFF", "AU", "W64", "RF64", "NIST", "VOC"])
def test_a_file_of_any_kind_that_lost_its_end_is_refused(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, SOUND, 16_000, format=kind, subtype="PCM_16")
    (tmp_path / "a.audio").write_bytes(file.getvalue())
    assert read_header(tmp_path / "a.audio").num_samples == len(SOUND)
    (tmp_path / "a.audio").write_bytes(file.getvalue()[:-2_000])
    with pytest.raises(AudioError, match=r"a\.audio: truncated: "):
        read_header(tmp_path / "a.audio")


def test_finished_bytes_are_those_of_the_file_but_for_the_length() -> None:
    source = io.BytesIO(UNFINISHED["wav, 0"])
    patches = finished(source)
    whole = Finished(source, patches).read()
    assert whole == wav(2 * len(SOUND), SOUND.tobytes(), 36 + 2 * len(SOUND))
    file = Finished(source, patches)
    for start in range(50):
        file.seek(start)
        assert file.read(3) == whole[start : start + 3]
    assert finished(io.BytesIO(whole)) == {}


@pytest.mark.parametrize("kind", ["VORBIS", "MPEG_LAYER_III"])
def test_parts_of_what_frames_share_equal_the_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.audio"
    file_format = "OGG" if kind == "VORBIS" else "MP3"
    more = {} if kind == "VORBIS" else {"bitrate_mode": "CONSTANT", "compression_level": 0.9}
    soundfile.write(str(path), np.tile(SOUND, 3), 16_000, format=file_format, subtype=kind, **more)
    whole = read_audio(path, AudioConfig()).numpy()
    for start in range(0, len(whole) - 500, 1_999):
        part = read_audio(path, AudioConfig(), start=start, num_samples=500)
        np.testing.assert_allclose(part, whole[start : start + 500], atol=1e-4)
