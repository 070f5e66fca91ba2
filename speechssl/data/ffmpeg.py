"""Audio that libsndfile does not read (m4a, aac, webm, wma, amr, ...) through the program ffmpeg, if it is there."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.errors import AudioError

__all__ = ["FFMPEG_SUFFIXES", "decode_by_ffmpeg", "ffmpeg_program"]

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
