"""Reads an audio file as a checked 16 kHz mono waveform; independent of manifests and batches.

soundfile decodes wav, flac, ogg, mp3 and opus; ffmpeg decodes what soundfile cannot, chosen by suffix or by content.
Resampling is torchaudio's windowed-sinc filter.
"""

import io
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.audio.ffmpeg import (
    FFMPEG_SUFFIXES,
    decode_by_ffmpeg,
    ffmpeg_program,
    ffmpeg_version,
    fitted,
    is_for_ffmpeg,
    surplus,
)
from speechssl.audio.headers import Stated, may_be_truncated, stated_at
from speechssl.audio.mpeg import read_mpeg
from speechssl.audio.ogg import is_plain, read_ogg
from speechssl.audio.storage import Place, is_url
from speechssl.audio.unfinished import STREAMED_SIZE, Finished, describe_truncation, finished, is_placeholder
from speechssl.config import configuration
from speechssl.errors import AudioError, AudioSettingError
from speechssl.extras import import_torchaudio

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AUDIO_SUFFIXES",
    "SAMPLE_RATE",
    "AudioConfig",
    "AudioHeader",
    "Forwards",
    "Look",
    "Segment",
    "bytes_of",
    "look_at",
    "normalize_waveform",
    "other_decoder",
    "prepare_samples",
    "read_audio",
    "read_header",
    "source_of",
]

SAMPLE_RATE = 16_000  # Hz, the rate of every waveform inside the package
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus"),
    *(".mp2", ".mpga", ".sph", ".nist", ".aif", ".aiff", ".aifc", ".au", ".snd", ".w64", ".rf64", ".caf", ".voc"),
)

_UNKNOWN_LENGTH = 2**63 - 1  # samples; libsndfile's length of flac that states 0
_AUDIBLE, _CANCELLED = 1e-3, 1e-2  # peak relative to full scale; peak of the mean relative to that of the channels
_BLOCK = 2**16  # samples
_NAME_CHANNEL = "name one in the manifest's column `channel`"
_PREROLL = 2**14  # samples of mp3 decoded before those wanted: the bit reservoir spans up to 23 of the smallest frames
_LAST_PAGE = 2**18  # samples at the end of Vorbis: libsndfile is off when it seeks into a last page that is not full
_SPHERE_HEADER = 1024  # bytes
_BEGINNING = 4096  # bytes that identify format and codec
_SPHERE_LENGTH = re.compile(rb"^sample_count -i (\d{1,18})\b", re.MULTILINE)
# libsndfile's log of a length that does not fit the file, in bytes: declared, found
_LENGTHS = re.compile(r"(?:\bdata|SSND|\briff|Riff size|Data Size) *: (\d+) \(should be (\d+)\)")


@configuration
class AudioConfig:
    """Policy for audio that is not 16 kHz mono.

    Speech recorded below 16 kHz lacks the upper band, and a model trained on a mixture learns the rate instead of the
    speech: such audio is refused unless `min_sample_rate` is lowered.
    """

    resample: bool = True  # False: any rate but 16 kHz is an error
    min_sample_rate: int = SAMPLE_RATE  # Hz; lower rates are an error
    channels: Literal["mean", "first", "refuse"] = "mean"  # use of several channels if the manifest names none
    normalize: bool | None = None  # zero mean, unit variance (fairseq: task.normalize); None: as the model was trained
    max_duration_s: float = 3600.0  # longer audio is an error where it would be read as a whole


@dataclass(frozen=True, kw_only=True)
class AudioHeader:
    """Length and format of a file, at its own sample rate."""

    num_samples: int
    sample_rate: int
    channels: int
    decoder: str | None = None  # `ffmpeg VERSION`, as versions differ in length and start; None: libsndfile

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True)
class Segment:
    """The part of a recording that is one utterance, in samples at its own rate, and its channel."""

    start: int
    num_samples: int
    channel: int | None = None  # channel that is used, counted from 0; None: as `AudioConfig.channels` says


@dataclass(frozen=True)
class Look:
    """The header of a file, and what else was found while reading it."""

    header: AudioHeader
    samples: NDArray[np.float32] | None = None  # (time, channels), where decoding was needed to find the length
    stated: Stated | None = None  # the header of an ordinary wav or flac, which needs no repair


def read_header(where: Path | Place, file: BinaryIO | None = None) -> AudioHeader:
    """Read the header of one file; decode samples only if the length is not stated.

    The end of flac is checked as well, as a truncated file has a complete header.

    Args:
        where: audio of one of `AUDIO_SUFFIXES` or `FFMPEG_SUFFIXES`.
        file: its bytes, from `Place.opened`, if they are already open, so that they are fetched once.

    Raises:
        AudioError: the file is missing, empty, not audio, or shorter than its header says.
    """
    place = where if isinstance(where, Place) else Place(str(where))
    look = look_at(place, file)
    if look.stated is not None and may_be_truncated(place.path, look.stated, place.offset, place.size):
        _check_end(place, look.header)
    return look.header


def _check_end(place: Place, header: AudioHeader) -> None:
    """Decode flac whose last frame is not where it should be, and raise if samples are missing."""
    problem: AudioError | None = None
    try:
        with place.opened() as opened:
            found = len(_decode(place, opened, 0, header.num_samples))
    except AudioError as error:
        found, problem = 0, error
    if found < header.num_samples:
        raise AudioError(
            f"{place}: truncated: its header declares {header.num_samples} samples, which cannot be decoded to the "
            "end; copy the file again, or remove it"
        ) from problem


def look_at(place: Place, file: BinaryIO | None = None) -> Look:
    """Read a header as `read_header` does, without checking the end of flac, and keep samples that were decoded.

    Raises:
        AudioError: as `read_header`.
    """
    if _needs_ffmpeg(place):
        return _by_ffmpeg(place)
    stated = None if is_url(place.path) else stated_at(place.path, place.offset, place.size)
    if stated is not None:
        header = AudioHeader(num_samples=stated[0], sample_rate=stated[1], channels=stated[2])
        return Look(header, stated=stated)
    try:
        with place.opened() if file is None else nullcontext(file) as opened, source_of(place, opened) as source:
            info = soundfile.info(source, verbose=True)
    except soundfile.LibsndfileError as error:
        with place.opened() if file is None else nullcontext(file) as opened:
            found = _not_by_libsndfile(place, opened)
        if found is None:
            raise AudioError(f"{place}: {_why_unreadable(place, error)}") from error
        return found
    declared = _LENGTHS.search(info.extra_info)
    if declared and int(declared[2]) < int(declared[1]) and not is_placeholder(int(declared[1]), int(declared[2])):
        raise AudioError(
            f"{place}: truncated: its header declares {declared[1]} bytes of samples, the file holds {declared[2]}; "
            "copy the file again, or remove it"
        )
    lost = _lost(place, file, info)
    if lost is not None:
        raise AudioError(f"{place}: truncated: {lost}; copy the file again, or remove it")
    num_samples = info.frames
    with place.opened() if file is None else nullcontext(file) as opened:
        if info.subtype.startswith("MPEG"):
            num_samples = _mpeg_length(place, opened)
        elif info.format == "OGG" and (found := _from_ogg(place, opened)) is not None:
            return found
        elif num_samples <= 0:
            raise AudioError(f"{place}: holds no samples; remove it")
        elif num_samples == _UNKNOWN_LENGTH:
            return _decoded(place, _decode(place, opened, 0, -1), info.samplerate)
    return Look(AudioHeader(num_samples=num_samples, sample_rate=info.samplerate, channels=info.channels))


def read_audio(
    where: Path | Place,
    config: AudioConfig,
    *,
    segment: Segment | None = None,
    start: int = 0,
    num_samples: int | None = None,
    expected_samples: int | None = None,
    decoder: str | None = None,
) -> "Tensor":
    """Read one utterance, or a part of it, as a checked 16 kHz mono waveform.

    Args:
        where: audio of one of `AUDIO_SUFFIXES` or `FFMPEG_SUFFIXES`.
        config: what to do with other rates and channel counts.
        segment: the part of the file that is the utterance; None for the whole file.
        start: first sample wanted of the utterance, counted at 16 kHz.
        num_samples: number of samples wanted, at 16 kHz; None for all from `start` on.
        expected_samples: length of the whole file according to the manifest, at the file's own rate.
        decoder: decoder that gave this length, as in `AudioHeader`; None: not known.

    Returns:
        (time,) float32.

    Raises:
        AudioError: the file cannot be decoded, disagrees with `expected_samples`, ends before the segment, is refused
            by `config`, or its samples are silent or not finite.
    """
    import torch  # takes more than a second, and headers do not need it

    place = where if isinstance(where, Place) else Place(str(where))
    with place.opened() as file:
        look = look_at(place, file)
        header, decoded = look.header, look.samples
        if decoded is not None and header.decoder is not None:
            decoded = fitted(decoded, expected_samples, surplus(place.path, decoder))
            header = replace(header, num_samples=len(decoded))
        _check_length(place, header, segment, expected_samples, decoder)
        channel = None if segment is None else segment.channel
        if segment is not None:
            header = replace(header, num_samples=segment.num_samples)
        _check_header(place, header, config, channel=channel, whole=num_samples is None)
        rate = header.sample_rate
        margin = 0 if rate == SAMPLE_RATE else rate // 50  # context, so that a part equals that part of the whole
        period = rate // math.gcd(rate, SAMPLE_RATE)  # its multiples are whole samples at both rates
        first = max(0, (start * rate // SAMPLE_RATE - margin) // period * period)
        count = header.num_samples - first
        if num_samples is not None:
            count = min(count, -(-(start + num_samples) * rate // SAMPLE_RATE) + margin - first)
        count = max(0, count)
        offset = first + (segment.start if segment else 0)
        if decoded is None:
            samples = _decode(place, file, offset, count, is_ordinary=look.stated is not None)
        else:
            samples = decoded[offset : offset + count]
    mono = _one_channel(place, samples, config, channel)
    _check_samples(place, mono, header, whole=num_samples is None and start == 0)
    waveform = torch.from_numpy(np.ascontiguousarray(mono))
    if rate != SAMPLE_RATE:
        waveform = _resampler(rate)(waveform)[start - first * SAMPLE_RATE // rate :]
    if num_samples is not None:
        waveform = waveform[:num_samples]
    if config.normalize:
        normalize_waveform(waveform)
    return waveform


def prepare_samples(
    samples: NDArray[np.float32], rate: int, config: AudioConfig, *, where: str, channel: int | None = None
) -> "Tensor":
    """Convert samples in memory as `read_audio` converts a whole file.

    Args:
        samples: (time, channels), of full scale 1.
        rate: sample rate in Hz.
        config: what to do with other rates and channel counts.
        where: origin of the samples, for error messages.
        channel: channel that is used; None: as `config` says.

    Returns:
        (time,) float32 at 16 kHz, which shares no memory with `samples`.

    Raises:
        AudioError: the samples are refused by `config`, silent or not finite.
    """
    import torch

    header = AudioHeader(num_samples=len(samples), sample_rate=rate, channels=samples.shape[1])
    _check_header(where, header, config, channel=channel, whole=True)
    mono = _one_channel(where, samples, config, channel)
    _check_samples(where, mono, header, whole=True)
    waveform = torch.from_numpy(np.array(mono))
    if rate != SAMPLE_RATE:
        waveform = _resampler(rate)(waveform)
    if config.normalize:
        normalize_waveform(waveform)
    return waveform


def normalize_waveform(waveform: "Tensor") -> None:
    """Normalise a (time,) float32 waveform in place to zero mean and unit variance.

    numpy sums in a fixed order; torch's sums depend on the number of threads, which differs between loaders.
    """
    samples = waveform.numpy()
    samples -= samples.mean()
    samples /= np.sqrt(samples.var() + np.float32(1e-5))


def _lost(place: Place, file: BinaryIO | None, info: Any) -> str | None:
    """Return what is missing from a VOC or NIST file, which libsndfile does not report; None if nothing is."""
    if info.format == "VOC" and "Seems to be a truncated file" in info.extra_info:
        return "its last block declares more bytes than the file holds"
    if info.format == "NIST":
        with place.opened() if file is None else nullcontext(file) as source:
            stated = _SPHERE_LENGTH.search(bytes_of(place, source, _SPHERE_HEADER))
        if stated and info.frames < int(stated[1]) < STREAMED_SIZE:
            return f"its header declares {int(stated[1])} samples, the file holds {info.frames}"
    return None


def _mpeg_length(place: Place, file: BinaryIO | None) -> int:
    """Count the samples of MPEG audio from its frames, or by decoding, as the length in libsndfile is an estimate.

    Raises:
        AudioError: the file states more frames than it holds.
    """
    with place.opened() if file is None else nullcontext(file) as source:
        found = read_mpeg(bytes_of(place, source))
        if found is None:
            return len(_decode(place, source, 0, -1))
    if found.missing > 1:  # some encoders count the frame that states the number
        raise AudioError(
            f"{place}: truncated: it states {found.missing} more frames than the file holds; copy the file again, "
            "or remove it"
        )
    return found.num_samples


def bytes_of(place: Place, file: BinaryIO | None, size: int = -1) -> bytes:
    """Return the first `size` bytes of audio, all for -1; `file` is the result of `Place.opened`."""
    with Path(place.path).open("rb") if file is None else nullcontext(file) as opened:
        opened.seek(0)
        return opened.read(size)


def _needs_ffmpeg(place: Place) -> bool:
    return place.is_plain_file and place.path.lower().endswith(FFMPEG_SUFFIXES)


def _decoded(place: Place, samples: NDArray[np.float32], rate: int, decoder: str | None = None) -> Look:
    if len(samples) == 0:
        raise AudioError(f"{place}: holds no samples; remove it")
    header = AudioHeader(num_samples=len(samples), sample_rate=rate, channels=samples.shape[1], decoder=decoder)
    return Look(header, samples)


def _by_ffmpeg(place: Place) -> Look:
    samples, rate = decode_by_ffmpeg(Path(place.path))
    return _decoded(place, samples, rate, ffmpeg_version())


def _not_by_libsndfile(place: Place, file: BinaryIO | None) -> Look | None:
    """Decode what libsndfile cannot open: flac in Ogg, and formats of ffmpeg; None for others.

    Raises:
        AudioError: the file is shorter than its header states, or ffmpeg cannot decode it.
    """
    if file is None and not os.path.isfile(place.path):  # noqa: PTH113
        return None
    found = _from_ogg(place, file)
    if found is not None:
        return found
    with open(place.path, "rb") if file is None else nullcontext(file) as opened:  # noqa: PTH123
        lost = describe_truncation(opened)
    if lost is not None:
        raise AudioError(f"{place}: truncated: {lost}; copy the file again, or remove it")
    is_read = place.is_plain_file and ffmpeg_program() and is_for_ffmpeg(bytes_of(place, file, _BEGINNING))
    return _by_ffmpeg(place) if is_read else None


def _from_ogg(place: Place, file: BinaryIO | None) -> Look | None:
    """Decode Ogg that libsndfile does not read to its end; None for other files and codecs.

    Raises:
        AudioError: the file cannot be decoded, or has several streams of different rates or channel counts.
    """
    with open(place.path, "rb") if file is None else nullcontext(file) as opened:  # noqa: PTH123
        if is_plain(opened, whole=not is_url(place.path)):
            return None
    found = read_ogg(bytes_of(place, file))
    if found is None:
        return None
    blocks, kinds = [], dict[tuple[int, int], None]()
    try:
        for stream in found.streams():
            with soundfile.SoundFile(io.BytesIO(stream)) as sound:
                kinds[sound.samplerate, sound.channels] = None
            blocks.append(_read(io.BytesIO(stream), 0, -1)[0])
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{place}: {_why_unreadable(place, error)}") from error
    if len(kinds) > 1:
        said = ", ".join(f"{rate} Hz and {channels} channels" for rate, channels in kinds)
        raise AudioError(
            f"{place}: holds {len(blocks)} streams, of {said}; expected one rate and number of channels: "
            "write each to a file of its own"
        )
    return _decoded(place, np.concatenate(blocks), next(iter(kinds))[0])


@contextmanager
def source_of(place: Place, file: BinaryIO | None) -> Iterator[str | BinaryIO]:
    """Yield what soundfile reads: a file name, or an open file if it is not local or its header is repaired.

    Args:
        place: the audio.
        file: the result of `Place.opened`.
    """
    is_here = file is None and os.path.isfile(place.path)  # noqa: PTH113 - called for every file
    with open(place.path, "rb", buffering=0) if is_here else nullcontext(file) as opened:  # noqa: PTH123
        patches = {} if opened is None else finished(opened)
        if opened is not None and patches:
            yield cast(BinaryIO, Finished(opened, patches))
        else:
            yield place.path if file is None else file


def _decode(
    place: Place, file: BinaryIO | None, first: int, count: int, *, is_ordinary: bool = False
) -> NDArray[np.float32]:
    """Decode `count` samples from `first` on, as (time, channels); -1 for all that follow."""
    plain = nullcontext[str | BinaryIO](place.path if file is None else file)
    try:
        with plain if is_ordinary else source_of(place, file) as source:
            samples, is_mpeg = _read(source, first, count)
        if is_mpeg and len(samples) < count and (found := read_mpeg(bytes_of(place, file))) is not None:
            # libsndfile reads no further than its estimate, nor into a second file joined to the first
            streams = found.streams()
            if len(streams) == 1:
                return _read(io.BytesIO(streams[0]), first, count)[0]
            whole = np.concatenate([_read(io.BytesIO(stream), 0, -1)[0] for stream in streams])
            return whole[first : first + count]
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{place}: {_why_unreadable(place, error)}") from error
    return samples


def _read(source: str | BinaryIO, first: int, count: int) -> tuple[NDArray[np.float32], bool]:
    """Read with libsndfile; return (time, channels) and whether it is MPEG audio."""
    with Forwards(source) as sound:
        before = min(sound.before(first), sound.frames)
        if before:
            sound.seek(before)
        left = sound.frames - before
        wanted = left if count < 0 else min(left, first - before + count)
        if sound.frames == _UNKNOWN_LENGTH:
            return _read_on(sound, wanted)[first - before :], False
        samples = sound.read(wanted, dtype="float32", always_2d=True)
        return samples[first - before :], sound.format == "MP3"


class Forwards(soundfile.SoundFile):
    """A file that is only read forwards: soundfile seeks after each read, which is slow or fails."""

    def seekable(self) -> bool:
        """Return False."""
        return False

    def before(self, first: int) -> int:
        """Return the sample to seek to, so that decoding from there gives the same samples from `first` on."""
        is_of_blocks = (
            self.subtype.startswith("DWVW") or self.frames == _UNKNOWN_LENGTH
        )  # libsndfile calls these seekable
        if is_of_blocks or not super().seekable():
            return 0  # GSM 6.10 and others are decoded from the beginning
        if self.subtype.startswith("MPEG"):
            return max(0, first - _PREROLL)
        if self.subtype == "VORBIS":
            return max(0, min(first, self.frames - _LAST_PAGE))
        return first


def _read_on(sound: soundfile.SoundFile, count: int) -> NDArray[np.float32]:
    """Read flac of unknown length, as (time, channels)."""
    blocks = [np.zeros((0, sound.channels), np.float32)]
    while count > 0 and len(block := sound.read(min(count, _BLOCK), dtype="float32", always_2d=True)):
        blocks.append(block)
        count -= len(block)
    return np.concatenate(blocks)


def _why_unreadable(place: Place, error: soundfile.LibsndfileError) -> str:
    if place.is_plain_file:
        path = Path(place.path)
        if not path.exists():
            return "no such file; correct the manifest or its root"
        if path.is_dir():
            return "is a folder, expected an audio file"
        if path.stat().st_size == 0:
            return "the file is empty (0 bytes); copy it again, or remove it"
    said = error.error_string.strip().rstrip(".")
    by_ffmpeg = ""
    if place.is_plain_file and ffmpeg_program() is None and is_for_ffmpeg(bytes_of(place, None, _BEGINNING)):
        by_ffmpeg = "; ffmpeg may read it: install it, or `pip install imageio-ffmpeg`"
    suffixes = ", ".join(AUDIO_SUFFIXES)
    return f"cannot be decoded as audio ({said}); expected one of {suffixes}{by_ffmpeg}; convert or remove it"


def other_decoder(expected_samples: int, decoder: str | None, found: AudioHeader) -> str:
    """Return the error text for a length from ffmpeg that differs from the manifest's.

    Args:
        expected_samples: length of the file according to the manifest.
        decoder: decoder that gave this length; None: not known.
        found: header of the file as ffmpeg decodes it now.
    """
    said = f"holds {found.num_samples} samples as {found.decoder} decodes it, the manifest says {expected_samples}"
    if decoder == found.decoder:
        return f"{said} by the same version; the file was changed or truncated: build the manifest again"
    if decoder is None:
        return (
            f"{said}; another version, which starts the sound elsewhere, may have made it, or the file was changed or "
            "truncated: build the manifest and labels of frames again, or use that version"
        )
    return (
        f"{said} as {decoder} decoded it; versions start the sound elsewhere, or the file was changed or truncated: "
        f"build the manifest and labels of frames again, or use {decoder}"
    )


def _check_length(
    place: Place, header: AudioHeader, segment: Segment | None, expected_samples: int | None, decoder: str | None
) -> None:
    if expected_samples is not None and header.num_samples != expected_samples:
        if header.decoder is not None:
            raise AudioError(f"{place}: {other_decoder(expected_samples, decoder, header)}")
        raise AudioError(
            f"{place}: holds {header.num_samples} samples, the manifest says {expected_samples}; "
            "the file was changed or truncated: build the manifest again"
        )
    if segment is not None and segment.start + segment.num_samples > header.num_samples:
        end = segment.start + segment.num_samples
        raise AudioError(
            f"{place}: holds {header.num_samples} samples, the utterance ends at {end}; correct the manifest"
        )


def _one_channel(
    place: Place | str, samples: NDArray[np.float32], config: AudioConfig, channel: int | None
) -> NDArray[np.float32]:
    """Reduce (time, channels) to (time,): the channel named, or as `config` says."""
    if channel is not None:
        return samples[:, channel]
    if config.channels == "first" or samples.shape[1] == 1:
        return samples[:, 0]
    mono: NDArray[np.float32] = samples.mean(axis=1)
    peak = np.abs(samples).max(initial=0.0)
    if peak > _AUDIBLE and np.abs(mono).max() < _CANCELLED * peak:
        raise AudioSettingError(
            f"{place}: its channels cancel, as if one were inverted: their mean is silent",
            _NAME_CHANNEL,
            "channels",
            "first",
        )
    return mono


def _check_header(
    place: Place | str, header: AudioHeader, config: AudioConfig, *, channel: int | None, whole: bool
) -> None:
    if header.sample_rate < config.min_sample_rate:
        raise AudioSettingError(
            f"{place}: audio is {header.sample_rate} Hz, expected at least {config.min_sample_rate}",
            "remove it",
            "min_sample_rate",
            str(header.sample_rate),
            " to accept narrowband speech",
        )
    if header.sample_rate != SAMPLE_RATE and not config.resample:
        found = f"{place}: audio is {header.sample_rate} Hz, expected {SAMPLE_RATE}"
        raise AudioSettingError(found, "resample it", "resample", "true")
    if channel is not None and channel >= header.channels:
        raise AudioError(
            f"{place}: has {header.channels} channels, the manifest names {channel}, counted from 0; correct it"
        )
    if header.channels > 1 and channel is None and config.channels == "refuse":
        found = f"{place}: audio has {header.channels} channels, expected 1"
        raise AudioSettingError(found, _NAME_CHANNEL, "channels", "mean", " or first")
    if whole and header.duration_s > config.max_duration_s:
        found = f"{place}: lasts {header.duration_s:.0f} s, expected at most {config.max_duration_s:.0f}"
        cure = "cut it into utterances, as `speechssl manifest segment` does"
        raise AudioSettingError(found, cure, "max_duration_s", f"{math.ceil(header.duration_s)}")


def _check_samples(place: Place | str, samples: NDArray[np.float32], header: AudioHeader, *, whole: bool) -> None:
    if whole and len(samples) < header.num_samples:
        raise AudioError(
            f"{place}: truncated: {len(samples)} of {header.num_samples} samples could be decoded; copy it again"
        )
    if len(samples) == 0:
        raise AudioError(f"{place}: no samples at the wanted position; the file is shorter than the manifest says")
    if not np.isfinite(samples).all():
        raise AudioError(f"{place}: holds NaN or infinite samples; write the file again, or remove it")
    if whole and not samples.any():
        raise AudioError(f"{place}: silent: every sample is zero; remove it")


@lru_cache(maxsize=8)
def _resampler(rate: int) -> Callable[["Tensor"], "Tensor"]:
    resample = import_torchaudio("transforms").Resample
    return resample(rate, SAMPLE_RATE, lowpass_filter_width=64, rolloff=0.95)
