"""What is measured of one file, in one pass over its samples. Judges nothing, and keeps no audio."""

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.data.audio import AudioHeader, read_header
from speechssl.doctor.fingerprint import Fingerprint
from speechssl.doctor.spectrum import Spectrum
from speechssl.doctor.thresholds import CheckConfig
from speechssl.errors import AudioError

__all__ = ["Measured", "measure"]

_BLOCK = 2**17  # samples of all channels that are decoded at once, 8 s of 16 kHz mono


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Figures of one file; those of samples are about what could be decoded. Levels are of full scale."""

    header: AudioHeader | None  # None: it cannot be opened
    problem: str | None = None  # why it cannot be opened, or where decoding ended
    complaint: str | None = None  # the first line that the decoder wrote, where it went on nevertheless
    num_samples: int = 0  # decoded, of each channel
    digest: bytes = b""  # of rate, channels and decoded samples
    peak: float = 0.0
    mean: float = 0.0  # of the channel where it is farthest from 0
    not_finite: int = 0  # samples that are NaN or infinite, counted as 0 elsewhere
    clipped: int = 0  # samples at full scale between two at full scale
    channel_difference: float = 0.0  # rms of what averaging the channels loses, over rms of all
    cut_hz: float | None = None  # where its sound ends abruptly; None where it does not
    active_s: float = 0.0  # from the first sound to the last
    fingerprint: Fingerprint | None = None

    @property
    def clipped_share(self) -> float:
        """Clipped samples over all."""
        return self.clipped / max(1, self.num_samples * (self.header.channels if self.header else 1))


def measure(path: Path, config: CheckConfig) -> Measured:
    """Decode one file, block by block, and measure it. What is wrong with the file is a figure, not an error."""
    with tempfile.TemporaryFile() as words:
        with _errors_to(words.fileno()):
            measured = _open(path, config)
        words.seek(0)
        first = words.readline(500).decode(errors="replace").strip()
    return dataclasses.replace(measured, complaint=first or None)


@contextlib.contextmanager
def _errors_to(descriptor: int) -> Iterator[None]:
    """Send the process's standard error elsewhere: decoders write there, without naming the file."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _open(path: Path, config: CheckConfig) -> Measured:
    header, problem = None, None
    try:
        header = read_header(path)
    except AudioError as error:
        problem = str(error).removeprefix(f"{path}: ")
    try:
        with soundfile.SoundFile(str(path)) as file:
            if file.frames > 0:
                header = header or AudioHeader(
                    num_samples=file.frames, sample_rate=file.samplerate, channels=file.channels
                )
            if header is None:
                return Measured(header=None, problem=problem)
            with np.errstate(over="ignore", invalid="ignore"):  # floating-point files may hold any number
                return _decode(file, header, problem, config)
    except soundfile.LibsndfileError as error:
        return Measured(header=None, problem=problem or f"cannot be opened ({error}); convert or remove it")


def _decode(file: soundfile.SoundFile, header: AudioHeader, problem: str | None, config: CheckConfig) -> Measured:
    levels = _Levels(header.channels, config.clipped_level)
    spectrum = Spectrum(header.sample_rate)
    digest = hashlib.sha256(f"{header.sample_rate} {header.channels} ".encode())  # most processors have it built in
    num_at_once = max(1, _BLOCK // header.channels)
    while True:
        try:
            block = file.read(frames=num_at_once, dtype="float32", always_2d=True)  # (time, channels)
        except soundfile.LibsndfileError as error:
            problem = (
                problem
                or f"decoding fails in the {num_at_once} samples after {levels.num_samples} ({error}); copy it again"
            )
            break
        if not len(block):
            break
        digest.update(block.tobytes())
        spectrum.add(levels.add(block))
    return Measured(
        header=header,
        problem=problem,
        num_samples=levels.num_samples,
        digest=digest.digest()[:16],
        peak=levels.peak,
        mean=levels.mean,
        not_finite=levels.not_finite,
        clipped=levels.clipped,
        channel_difference=levels.channel_difference,
        cut_hz=spectrum.cut_hz(step_db=config.bandwidth_step_db, floor_db=config.bandwidth_floor_db),
        active_s=spectrum.active_s,
        fingerprint=spectrum.fingerprint(),
    )


class _Levels:
    """Sums over the samples of a file that arrives in blocks."""

    def __init__(self, channels: int, full_scale: float) -> None:
        self.num_samples = 0
        self.peak = 0.0
        self.not_finite = 0
        self.clipped = 0
        self._full_scale = full_scale
        self._sums = np.zeros(channels)
        self._square = 0.0
        self._lost = 0.0
        self._last = np.zeros((2, channels), bool)  # whether the two samples before were at full scale

    def add(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take (time, channels) and return the mean of the channels, (time,), with 0 for what is not finite."""
        is_finite = np.isfinite(block)
        if not is_finite.all():
            self.not_finite += int((~is_finite).sum())
            block = np.where(is_finite, block, np.float32(0))
        magnitude = np.abs(block)
        at_top = np.concatenate([self._last, magnitude >= self._full_scale])
        self.clipped += int((at_top[2:] & at_top[1:-1] & at_top[:-2]).sum())
        self._last = at_top[-2:]
        self.num_samples += len(block)
        self.peak = max(self.peak, float(magnitude.max()))
        self._sums += block.sum(axis=0, dtype=np.float64)
        mono = block[:, 0]
        if block.shape[1] > 1:
            mono = block.mean(axis=1)
            self._square += float(np.square(block, dtype=np.float64).sum())
            self._lost += float(np.square(block - mono[:, None], dtype=np.float64).sum())
        return mono

    @property
    def mean(self) -> float:
        means = self._sums / max(1, self.num_samples)
        return float(means[np.abs(means).argmax()])

    @property
    def channel_difference(self) -> float:
        return float(np.sqrt(self._lost / self._square)) if self._square > 0 else 0.0
