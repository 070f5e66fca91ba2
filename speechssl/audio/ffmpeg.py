"""Audio that libsndfile does not read (m4a, aac, webm, wma, amr, ...) through the program ffmpeg, if it is there."""

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

# samples: versions of ffmpeg differ by less than a frame of AAC where they fill up the last frame of m4a or mp4 or take
# that off (4 and 7 give 40,960 samples of 2.5 s, 9 gives 40,000). Where they differ in others, the encoder's delay is
# taken off by the one and not the other, and the sound begins elsewhere: in wma the length differs by half a frame, the
# beginning by a whole one, in mka both by the delay (tests/field/make.py)
SURPLUS = 1024
_FILLED_UP = (".m4a", ".m4b", ".mp4", ".3gp")

# how files begin that ffmpeg reads, whatever their names: by mere trial it hears noise as mp3
_BEGINNINGS = (
    *(b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"#!AMR", b"wvpk", b"MAC ", b"TTA1", b"MPCK", b"MP+", b"FLV\1"),
    *(b"OggS", b".ra\xfd", b".RMF", b"tBaK"),
)
_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide")  # of mp4, after four bytes of length
# what libsndfile knows of the codings of wav, aiff and caf: where it refuses these, something else is wrong
_OF_WAV, _EXTENSIBLE = (1, 3, 6, 7), 0xFFFE
_OF_OTHERS: tuple[bytes, ...] = (
    *(b"", b"NONE", b"sowt", b"twos", b"lpcm", b"raw ", b"in24", b"in32"),
    *(b"ulaw", b"alaw", b"ALAW", b"ULAW"),
)
_OF_OTHERS += (b"fl32", b"FL32", b"fl64", b"FL64")


def ffmpeg_program() -> str | None:
    """Find ffmpeg: the one on the path, or the binary of the package imageio-ffmpeg; None without either."""
    program = shutil.which("ffmpeg")
    if program is not None:
        return program
    try:
        import imageio_ffmpeg  # optional

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


def ffmpeg_version() -> str:
    """Return `ffmpeg` and the version of the one that decodes, without blanks; `ffmpeg` alone where there is none."""
    program = ffmpeg_program()
    return "ffmpeg" if program is None else _version(program, os.stat(program).st_mtime_ns)  # noqa: PTH116


@lru_cache(maxsize=8)
def _version(program: str, changed_ns: int) -> str:
    """Ask a program; again when it has changed."""
    words = subprocess.run([program, "-version"], capture_output=True, text=True, errors="replace", check=False)
    return " ".join(["ffmpeg", *words.stdout.split()[2:3]])


def is_for_ffmpeg(start: bytes) -> bool:
    """Say whether a file that libsndfile refuses, and that begins so, is of a kind that ffmpeg may read."""
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
    is_adts = len(start) > 1 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0  # AAC: layer 0, which is no layer of mp3
    return start.startswith(_BEGINNINGS) or start[4:8] in _ATOMS or is_adts


def surplus(path: str, then: str | None) -> int:
    """Return how many samples other versions of ffmpeg may add or leave off behind the sound of a file, and less one.

    Args:
        path: of the file.
        then: the version that gave the length it is compared with; None: not known.
    """
    is_other = then is None or then != ffmpeg_version()
    return SURPLUS - 1 if is_other and path.lower().endswith(_FILLED_UP) else 0


def fitted(samples: NDArray[np.float32], num_samples: int | None, most: int) -> NDArray[np.float32]:
    """Return (time, channels) as long as another version of ffmpeg gave it, where that differs by no more than `most`.

    What the one leaves off behind the sound is filled with zeros, what it adds is taken off. Otherwise: as it is.
    """
    if num_samples is None or len(samples) == num_samples or abs(len(samples) - num_samples) > most:
        return samples
    lacking = max(0, num_samples - len(samples))
    return np.pad(samples[:num_samples], ((0, lacking), (0, 0)))


def decode_by_ffmpeg(path: Path) -> tuple[NDArray[np.float32], int]:
    """Decode the first audio stream of a file.

    Returns:
        (time, channels) float32, and its sample rate.

    Raises:
        AudioError: there is no ffmpeg, or it cannot decode the file.
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
