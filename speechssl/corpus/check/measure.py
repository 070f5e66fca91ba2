"""Measures one file and its parts in one pass over the samples; keeps no audio and judges nothing."""

import contextlib
import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.audio.mpeg import read_mpeg
from speechssl.audio.reading import AudioHeader, Forwards, Segment, bytes_of, look_at, source_of
from speechssl.audio.storage import Place
from speechssl.corpus.check.levels import Block, Digest, Levels
from speechssl.corpus.check.sound_print import Fingerprint
from speechssl.corpus.check.spectrum import Spectrum
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.errors import AudioError

__all__ = ["Measured", "Recording", "measure", "measure_recording"]

_BLOCK = 2**17  # samples over all channels decoded at once, 8 s of 16 kHz mono
_LONGEST = 2**48  # samples; libsndfile returns more where the length is unknown
_IN_16_BITS = ("PCM_16", "PCM_S8", "PCM_U8", "ALAW", "ULAW")  # subtypes that fit in int16 without loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Measurements of a file or a part of it, over the samples that were decoded; levels relative to full scale."""

    header: AudioHeader | None  # header of the whole file; None: it cannot be opened
    problem: str | None = None  # why it cannot be opened, or where decoding ended
    complaint: str | None = None  # first line of the decoder's messages, if decoding went on
    num_samples: int = 0  # decoded samples per channel
    digest: bytes = b""  # hash of rate, channels and decoded samples
    peak: float = 0.0
    mean: float = 0.0  # mean of the channel where it is farthest from 0
    not_finite: int = 0  # samples that are NaN or infinite, counted as 0 elsewhere
    clipped: int = 0  # samples at full scale between two at full scale
    channels: int = 1  # channels measured: 1 where the utterance names one
    channel_difference: float = 0.0  # RMS of what averaging the channels loses, relative to the total RMS
    cut_hz: float | None = None  # frequency where the spectrum ends abruptly; None where it does not
    active_s: float = 0.0  # seconds from the first sound to the last
    fingerprint: Fingerprint | None = None

    @property
    def clipped_share(self) -> float:
        """Share of samples that are clipped."""
        return self.clipped / max(1, self.num_samples * self.channels)


@dataclass(frozen=True)
class Recording:
    """One file, and the parts of it that are utterances."""

    place: Place
    parts: tuple[Segment | None, ...] = (None,)  # ordered by start; None for the whole file


def measure(where: Path | Place, config: CheckConfig, segment: Segment | None = None) -> Measured:
    """Decode one file, or a part of it, block by block, and measure it."""
    place = where if isinstance(where, Place) else Place(str(where))
    return measure_recording(Recording(place, (segment,)), config)[0]


def measure_recording(recording: Recording, config: CheckConfig) -> list[Measured]:
    """Decode one file once, block by block, and measure its parts.

    Returns:
        Measurements of each part, in order; a fault of the file is reported in them, not raised.
    """
    with _standard_error() as said, np.errstate(over="ignore", invalid="ignore"):  # float files may hold any number
        return _open(recording, config, said)


class _Said:
    """The messages of decoders on standard error, which do not name the file; up to the size of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def first_line(self) -> str | None:
        """Return the first line written since the last call."""
        try:
            words = os.read(self._descriptor, 2**16)
        except BlockingIOError:
            return None
        return words[:500].decode(errors="replace").strip().partition("\n")[0] or None


@contextlib.contextmanager
def _standard_error() -> Iterator[_Said]:
    """Redirect the standard error of the process into a pipe."""
    reader, writer = os.pipe()
    kept = os.dup(2)
    try:
        for end in (reader, writer):
            os.set_blocking(end, False)  # otherwise a full pipe would block the decoder
        os.dup2(writer, 2)
        yield _Said(reader)
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, reader, writer):
            os.close(descriptor)


class _Source(Protocol):
    """The part of soundfile's interface that is used here."""

    frames: int
    samplerate: int
    channels: int
    subtype: str

    def read(self, frames: int, dtype: str, always_2d: bool) -> Block: ...

    def seek(self, frames: int) -> int: ...

    def before(self, first: int) -> int: ...


class _Array:
    """Decoded samples with the interface of a file."""

    subtype = "FLOAT"

    def __init__(self, samples: NDArray[np.float32], sample_rate: int) -> None:
        self.frames, self.channels = samples.shape
        self.samplerate = sample_rate
        self._samples, self._position = samples, 0

    def read(self, frames: int, dtype: str, always_2d: bool) -> Block:
        return self._samples[self._position : self.seek(self._position + frames)]

    def seek(self, frames: int) -> int:
        self._position = frames
        return frames

    def before(self, first: int) -> int:
        return first


def _open(recording: Recording, config: CheckConfig, said: _Said) -> list[Measured]:
    place, problem = recording.place, None
    header: AudioHeader | None = None
    try:
        with contextlib.ExitStack() as stack:
            file: _Source
            opened = stack.enter_context(place.opened())
            decoded = None
            try:
                look = look_at(place, opened)
                header, decoded = look.header, look.samples
            except AudioError as error:
                problem = str(error).removeprefix(f"{place}: ")
            if opened is not None:
                opened.seek(0)
            if header is not None and decoded is not None:
                file = _Array(decoded, header.sample_rate)
                said.first_line()  # discards the messages of libsndfile, which was tried first
            else:
                file = stack.enter_context(Forwards(stack.enter_context(source_of(place, opened))))
            if isinstance(file, Forwards) and file.format == "MP3" and header and header.num_samples > file.frames:
                said.first_line()  # discards a message about the stated length, which is corrected here
                file = _whole_mpeg(bytes_of(place, opened), stack)
            if header is None and 0 < file.frames < _LONGEST:
                header = AudioHeader(num_samples=file.frames, sample_rate=file.samplerate, channels=file.channels)
            if header is not None:
                parts = [_Part(header, problem, segment, config) for segment in recording.parts]
                _decode(file, parts, said)
                return [part.measured() for part in parts]
    except AudioError as error:
        problem = problem or str(error).removeprefix(f"{place}: ")
    except soundfile.LibsndfileError as error:
        problem = problem or f"cannot be opened ({error}); convert or remove it"
    return [Measured(header=None, problem=problem, complaint=said.first_line()) for _ in recording.parts]


def _whole_mpeg(data: bytes, stack: contextlib.ExitStack) -> _Source:
    """Open MPEG audio that libsndfile would read in part: its estimate is too short, or files are concatenated."""
    found = read_mpeg(data)
    assert found is not None  # the header's length is longer than libsndfile's, so `read_mpeg` gave it
    files = [stack.enter_context(Forwards(io.BytesIO(stream))) for stream in found.streams()]
    if len(files) == 1:
        return files[0]
    return _Array(
        np.concatenate([each.read(each.frames, dtype="float32", always_2d=True) for each in files]), files[0].samplerate
    )


def _decode(file: _Source, parts: Sequence["_Part"], said: _Said) -> None:
    """Decode the file once, and pass each block to the parts that it overlaps."""
    num_at_once = max(1, _BLOCK // file.channels)
    dtype = "int16" if file.subtype in _IN_16_BITS else "float32"
    waiting, active, position = deque(parts), list[_Part](), 0
    try:
        while waiting or active:
            if not active and waiting[0].start > position + num_at_once:
                position = file.seek(max(position, file.before(waiting[0].start)))
            num_wanted = min(num_at_once, file.frames - position)
            if num_wanted <= 0:
                break
            block = file.read(num_wanted, dtype=dtype, always_2d=True)
            while waiting and waiting[0].start < position + len(block):
                active.append(waiting.popleft())
            words = said.first_line()
            for part in active:
                part.add(block, position, words)
            position += len(block)
            active = [part for part in active if not part.ends_by(position)]
            if len(block) == 0:
                break
    except soundfile.LibsndfileError as error:
        words = said.first_line()
        reason = f"decoding fails in the {num_at_once} samples after {position} ({error}); copy it again"
        for part in (*active, *waiting):
            part.fail(reason, words)


class _Part:
    """Measures one part of a file block by block; after its end only the results are kept."""

    def __init__(self, header: AudioHeader, problem: str | None, segment: Segment | None, config: CheckConfig) -> None:
        self.start = segment.start if segment else 0
        self._end = segment.start + segment.num_samples if segment else 2**63
        self._channel = segment.channel if segment else None
        if self._channel is not None and self._channel >= header.channels:  # the manifest does not fit the file
            self._channel = None
        self._header, self._config = header, config
        self._problem = problem
        self._complaint: str | None = None
        self._sums: _Sums | None = None
        self._measured: Measured | None = None

    def add(self, block: Block, position: int, words: str | None) -> None:
        """Add the samples of this part from a block at `position`, and the decoder's message."""
        self._complaint = self._complaint or words
        own = block[max(0, self.start - position) : self._end - position]
        if self._channel is not None:
            own = own[:, self._channel, None].copy()  # contiguous, for the digest
        if len(own):
            if self._sums is None:
                self._sums = _Sums(self._header.sample_rate, own.shape[1], self._config)
            self._sums.add(own)

    def ends_by(self, position: int) -> bool:
        """Return whether the part ends before `position`; if so, keep only the results."""
        if self._end <= position:
            self._measured, self._sums = self.measured(), None
        return self._end <= position

    def fail(self, reason: str, words: str | None) -> None:
        """Record why decoding stopped, and the decoder's message."""
        self._problem, self._complaint = self._problem or reason, self._complaint or words

    def measured(self) -> Measured:
        """Return the measurements."""
        if self._measured is not None:
            return self._measured
        figures: dict[str, Any] = {} if self._sums is None else self._sums.figures(self._config)
        return Measured(header=self._header, problem=self._problem, complaint=self._complaint, **figures)


class _Sums:
    """Running measurements over samples."""

    def __init__(self, sample_rate: int, channels: int, config: CheckConfig) -> None:
        self._channels = channels
        self._levels = Levels(channels, config.clipped_level)
        self._digest = Digest(sample_rate, channels)
        self._spectrum = Spectrum(sample_rate)

    def add(self, block: Block) -> None:
        self._digest.add(block)
        self._spectrum.add(self._levels.add(block))

    def figures(self, config: CheckConfig) -> dict[str, Any]:
        levels, spectrum = self._levels, self._spectrum
        return {
            "num_samples": levels.num_samples,
            "digest": self._digest.digest(),
            "peak": levels.peak,
            "mean": levels.mean,
            "not_finite": levels.not_finite,
            "clipped": levels.clipped,
            "channels": self._channels,
            "channel_difference": levels.channel_difference,
            "cut_hz": spectrum.cut_hz(step_db=config.bandwidth_step_db, floor_db=config.bandwidth_floor_db),
            "active_s": spectrum.active_s,
            "fingerprint": spectrum.fingerprint(),
        }
