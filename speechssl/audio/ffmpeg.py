"""Decodes audio that libsndfile does not read (m4a, aac, webm, wma, amr, ...) with ffmpeg, if it is installed."""

import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.errors import AudioError

__all__ = [
    "FFMPEG_SUFFIXES",
    "SURPLUS",
    "decode_by_ffmpeg",
    "ffmpeg_program",
    "ffmpeg_version",
    "fitted",
    "is_for_ffmpeg",
    "surplus",
]

FFMPEG_SUFFIXES = (
    ".m4a",
    ".m4b",
    ".mp4",
    ".aac",
    ".webm",
    ".mka",
    ".mkv",
    ".wma",
    ".amr",
    ".3gp",
    ".spx",
    ".wv",
    ".ape",
)

# samples: versions of ffmpeg differ by less than a frame of AAC, as some pad the last frame of m4a and mp4 (4 and
# 7 give 40,960 samples for 2.5 s, 9 gives 40,000). In other formats they differ in whether they remove the encoder
# delay, so that the sound starts elsewhere: in wma the length differs by half a frame and the start by a whole one, in
# mka both by the delay (tests/field/make.py)
SURPLUS = 1024
_FILLED_UP = (".m4a", ".m4b", ".mp4", ".3gp")

# magic numbers of files that ffmpeg reads; without this test it takes noise for mp3
_BEGINNINGS = (
    *(b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"#!AMR", b"wvpk", b"MAC ", b"TTA1", b"MPCK", b"MP+", b"FLV\1"),
    *(b"OggS", b".ra\xfd", b".RMF", b"tBaK"),
)
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide")  # first atoms of mp4, after four bytes of length
# codecs of wav, aiff and caf that libsndfile reads: if it refuses such a file, something else is wrong
_OF_WAV, _EXTENSIBLE = (1, 3, 6, 7), 0xFFFE
_OF_OTHERS: tuple[bytes, ...] = (
    *(b"", b"NONE", b"sowt", b"twos", b"lpcm", b"raw ", b"in24", b"in32"),
    *(b"ulaw", b"alaw", b"ALAW", b"ULAW"),
)
_OF_OTHERS += (b"fl32", b"FL32", b"fl64", b"FL64")


def ffmpeg_program() -> str | None:
    """Return the path of ffmpeg, or of the binary of the package imageio-ffmpeg; None without either."""
    program = shutil.which("ffmpeg")
    if program is not None:
        return program
    try:
        import imageio_ffmpeg  # optional

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def ffmpeg_version() -> str:
    """Return `ffmpeg VERSION` of the program in use; `ffmpeg` if there is none."""
    program = ffmpeg_program()
    return "ffmpeg" if program is None else _version(program, os.stat(program).st_mtime_ns)  # noqa: PTH116


@lru_cache(maxsize=8)
def _version(program: str, changed_ns: int) -> str:
    """Ask a program for its version; the cache is renewed when the program changes."""
    words = subprocess.run([program, "-version"], capture_output=True, text=True, errors="replace", check=False)
    return " ".join(["ffmpeg", *words.stdout.split()[2:3]])


def is_for_ffmpeg(start: bytes) -> bool:
    """Return whether ffmpeg may read a file that libsndfile refuses, from its first bytes."""
    match start[:4]:
        case b"RIFF" | b"RF64":
            at = start.find(b"fmt ", 12) + 8
            coding = int.from_bytes(start[at : at + 2], "little")
            coding = int.from_bytes(start[at + 24 : at + 26], "little") if coding == _EXTENSIBLE else coding
            return at > 8 and coding not in _OF_WAV
        case b"FORM":
            at = start.find(b"COMM", 12) + 26
            return start[8:12] == b"AIFC" and at > 26 and start[at : at + 4] not in _OF_OTHERS
        case b"caff":
            return start[28:32] not in _OF_OTHERS
    is_adts = len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0  # AAC: layer 0, which mp3 does not have
    return start.startswith(_BEGINNINGS) or start[4:8] in _ATOMS or is_adts


def surplus(path: str, then: str | None) -> int:
    """Return by how many samples the length may differ between versions of ffmpeg, at the end of a file.

    Args:
        path: path of the file.
        then: version that gave the expected length; None: not known.
    """
    is_other = then is None or then != ffmpeg_version()
    return SURPLUS - 1 if is_other and path.lower().endswith(_FILLED_UP) else 0


def fitted(samples: NDArray[np.float32], num_samples: int | None, most: int) -> NDArray[np.float32]:
    """Pad (time, channels) with zeros, or cut it, to `num_samples`, if they differ by at most `most` samples."""
    if num_samples is None or len(samples) == num_samples or abs(len(samples) - num_samples) > most:
        return samples
    lacking = max(0, num_samples - len(samples))
    return np.pad(samples[:num_samples], ((0, lacking), (0, 0)))


def decode_by_ffmpeg(path: Path) -> tuple[NDArray[np.float32], int]:
    """Decode the first audio stream of a file.

    Returns:
        (time, channels) float32, and its sample rate.

    Raises:
        AudioError: ffmpeg is missing, or cannot decode the file.
    """
    program = ffmpeg_program()
    if program is None:
        raise AudioError(f"{path}: needs ffmpeg to be decoded; install it, or `pip install imageio-ffmpeg`")
    if not path.is_file():
        raise AudioError(f"{path}: no such file; correct the manifest or its root")
    with tempfile.TemporaryDirectory() as folder:
        decoded = Path(folder, "decoded.wav")
        command = [program, "-nostdin", "-v", "error", "-xerror", "-i", f"file:{path}", "-map", "0:a:0", "-vn"]
        command += ["-c:a", "pcm_f32le", "-rf64", "auto", "-f", "wav", str(decoded)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise AudioError(f"{path}: ffmpeg cannot decode it ({said[-1]}); convert or remove it")
        samples, rate = soundfile.read(str(decoded), dtype="float32", always_2d=True)
    return samples, rate
