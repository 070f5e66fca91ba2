"""Audio that libsndfile does not read (m4a, aac, webm, wma, amr, ...) through the program ffmpeg, if it is there."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.errors import AudioError

__all__ = ["FFMPEG_SUFFIXES", "SURPLUS", "decode_by_ffmpeg", "ffmpeg_program", "ffmpeg_version", "fitted"]

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

# samples: versions of ffmpeg differ by less than a frame of AAC where they fill up the last frame of m4a, mp4 or wma or
# take that off (7 gives 40,960 samples of 2.5 s, 9 gives 40,000). Where they differ by as much or more, as in mka, the
# encoder's delay is taken off by the one and not the other, and the sound begins elsewhere (tests/field/make.py)
SURPLUS = 1024


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
    """Return `ffmpeg` and the version of the one that decodes."""
    program = ffmpeg_program()
    if program is None:
        return "ffmpeg"
    words = subprocess.run([program, "-version"], capture_output=True, text=True, errors="replace", check=False)
    return " ".join(["ffmpeg", *words.stdout.split()[2:3]])


def fitted(samples: NDArray[np.float32], num_samples: int | None) -> NDArray[np.float32]:
    """Return (time, channels) as long as another version of ffmpeg gave it, where that differs by less than `SURPLUS`.

    What the one leaves off behind the sound is filled with zeros, what it adds is taken off. Otherwise: as it is.
    """
    if num_samples is None or len(samples) == num_samples or abs(len(samples) - num_samples) >= SURPLUS:
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
