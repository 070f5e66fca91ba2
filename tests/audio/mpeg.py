"""MPEG audio made up for tests: with and without the frame that states its length."""

import io

import numpy as np
import soundfile

__all__ = ["RATE", "coded", "decoded", "loud_first", "without_tag"]

RATE = 24_000


def coded(
    seconds: float = 3.0, *, rate: int = RATE, mode: str = "VARIABLE", level: float = 0.3, channels: int = 1
) -> bytes:
    """Encode silence, then noise: the first frames are small, so that an estimate from them is far too long."""
    random = np.random.default_rng(0)
    sound = random.normal(0, 0.1, (int(rate * seconds), channels)).astype(np.float32)
    sound[: len(sound) // 3] = 0
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return file.getvalue()


def without_tag(data: bytes) -> bytes:
    """Take away the first frame, which states the length: it ends where a header like its own comes again."""
    assert b"Xing" in data[:60] or b"Info" in data[:60]
    position = 4
    while data[position : position + 2] != data[:2]:
        position += 1
    return data[position:]


def decoded(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]


def loud_first() -> bytes:
    """Put a second of loud sound first: its large frames make libsndfile's estimate too short."""
    return without_tag(coded(1.0, level=0.0, mode="CONSTANT")) + without_tag(coded(4.0, level=0.9))
