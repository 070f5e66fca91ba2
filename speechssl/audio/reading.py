"""Audio files to 16 kHz mono waveforms, checked. Knows one file at a time; nothing about manifests or batches.

Decoding is soundfile (wav, flac, ogg, mp3, opus), or ffmpeg for what that does not read, by name or by content;
resampling is torchaudio's windowed-sinc filter.
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
from speechssl.audio.headers import Stated, may_fall_short, stated_at
from speechssl.audio.mpeg import read_mpeg
from speechssl.audio.ogg import is_plain, read_ogg
from speechssl.audio.storage import Place, is_url
from speechssl.audio.unfinished import STREAMED_SIZE, Finished, falls_short, finished, is_placeholder
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

SAMPLE_RATE = 16_000  # samples a second, of every waveform inside the project
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".mp3", ".opus"),
    *(".mp2", ".mpga", ".sph", ".nist", ".aif", ".aiff", ".aifc", ".au", ".snd", ".w64", ".rf64", ".caf", ".voc"),
)

_UNKNOWN_LENGTH = 2**63 - 1  # samples; what libsndfile says where flac says 0
_AUDIBLE, _CANCELLED = 1e-3, 1e-2  # peaks: of full scale, and of the mean against that of the channels
_BLOCK = 2**16  # samples
_NAME_CHANNEL = "name one in the manifest's column `channel`"
_PREROLL = 2**14  # samples of mp3 before those wanted: its frames lend each other bits, over 23 of the smallest
_LAST_PAGE = 2**18  # samples at the end of Vorbis: seeking into its last page, libsndfile is off by what that lacks
_SPHERE_HEADER = 1024  # bytes
_BEGINNING = 4096  # bytes that tell format and coding
_SPHERE_LENGTH = re.compile(rb"^sample_count -i (\d{1,18})\b", re.MULTILINE)
# what libsndfile's log says of lengths that do not fit the file, in bytes: declared, held
_LENGTHS = re.compile(r"(?:\bdata|SSND|\briff|Riff size|Data Size) *: (\d+) \(should be (\d+)\)")


@configuration
class AudioConfig:
    """What to do with audio that is not 16 kHz mono.

    Speech recorded below 16 kHz has nothing in its upper band, and a model trained on a mixture learns the rate
    instead of the speech: it is refused unless `min_sample_rate` is lowered on purpose.
    """

    resample: bool = True  # False: any rate but 16 kHz is an error
    min_sample_rate: int = SAMPLE_RATE  # Hz; lower rates are an error
    channels: Literal["mean", "first", "refuse"] = "mean"  # where the manifest names none for an utterance
    normalize: bool | None = None  # zero mean, unit variance (fairseq: task.normalize); None: as the model was trained
    max_duration_s: float = 3600.0  # a longer file is an error where it would have to be read whole


@dataclass(frozen=True, kw_only=True)
class AudioHeader:
    """What a file says of itself, in its own sample rate."""

    num_samples: int
    sample_rate: int
    channels: int
    decoder: str | None = None  # `ffmpeg VERSION`, whose versions differ in length and beginning; None: libsndfile

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True)
class Segment:
    """What of a recording is one utterance: a part of its time, in samples of its own rate, and of its channels."""

    start: int
    num_samples: int
    channel: int | None = None  # the one that is heard, counted from 0; None: what `AudioConfig.channels` makes of all


@dataclass(frozen=True)
class Look:
    """What there is to know of a file before its samples are asked for."""

    header: AudioHeader
    samples: NDArray[np.float32] | None = None  # (time, channels), where they had to be decoded to know it
    stated: Stated | None = None  # by an ordinary header, about which nothing has to be mended


def read_header(where: Path | Place, file: BinaryIO | None = None) -> AudioHeader:
    """Read the header of one file, without its samples, unless they have to be decoded to know it.

    Of flac the end is looked at as well, as half a file has a whole header.

    Args:
        where: audio of one of `AUDIO_SUFFIXES` or `FFMPEG_SUFFIXES`.
        file: its bytes, of `Place.opened`, where it is read further, so that it is fetched once.

    Raises:
        AudioError: the file is missing, empty, not audio, or shorter than its header says.
    """
    place = where if isinstance(where, Place) else Place(str(where))
    look = look_at(place, file)
    if look.stated is not None and may_fall_short(place.path, look.stated, place.offset, place.size):
        _check_end(place, look.header)
    return look.header


def _check_end(place: Place, header: AudioHeader) -> None:
    """Decode flac whose last frame is not where it should be."""
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
    """Do what `read_header` does, without a look at the end, and keep what was decoded on the way.

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
        segment: the part of the file that is the utterance, read as if it were a file of its own; None for all of it.
        start: first sample wanted of the utterance, counted at 16 kHz.
        num_samples: number of samples wanted, at 16 kHz; None for all from `start` on.
        expected_samples: what the manifest says of the whole file, in the file's own rate.
        decoder: that this holds for, as `AudioHeader` has it; None: not known.

    Returns:
        (time,) float32.

    Raises:
        AudioError: the file cannot be decoded, disagrees with `expected_samples`, ends before the segment, is refused
            by `config`, or its samples are silent or not finite.
    """
    import torch  # which takes more than a second, and headers do without

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
        margin = 0 if rate == SAMPLE_RATE else rate // 50  # context, so that a part equals the same part of the whole
        period = rate // math.gcd(rate, SAMPLE_RATE)  # a cut at a multiple of it falls on a whole sample at both rates
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
    """Make of samples in memory what `read_audio` makes of a whole file that holds them.

    Args:
        samples: (time, channels), of full scale 1.
        rate: in Hz.
        config: what to do with other rates and channel counts.
        where: the samples come from, for errors.
        channel: the one that is heard; None for what `config` makes of all.

    Returns:
        (time,) float32 at 16 kHz, which shares no memory with `samples`.

    Raises:
        AudioError: they are refused by `config`, silent or not finite.
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
    """Bring a (time,) float32 waveform in place to zero mean and unit variance.

    By numpy, which adds up in one order: torch's sums depend on the number of threads, and loaders differ in it.
    """
    samples = waveform.numpy()
    samples -= samples.mean()
    samples /= np.sqrt(samples.var() + np.float32(1e-5))


def _lost(place: Place, file: BinaryIO | None, info: Any) -> str | None:
    """Say what is missing of a format whose lengths libsndfile does not put into words; None if nothing is."""
    if info.format == "VOC" and "Seems to be a truncated file" in info.extra_info:
        return "its last block declares more bytes than the file holds"
    if info.format == "NIST":
        with place.opened() if file is None else nullcontext(file) as source:
            stated = _SPHERE_LENGTH.search(bytes_of(place, source, _SPHERE_HEADER))
        if stated and info.frames < int(stated[1]) < STREAMED_SIZE:
            return f"its header declares {int(stated[1])} samples, the file holds {info.frames}"
    return None


def _mpeg_length(place: Place, file: BinaryIO | None) -> int:
    """Count the samples of MPEG audio, whose header is an estimate: its frames, or what can be decoded of them.

    Raises:
        AudioError: frames that it states are not there.
    """
    with place.opened() if file is None else nullcontext(file) as source:
        found = read_mpeg(bytes_of(place, source))
        if found is None:
            return len(_decode(place, source, 0, -1))
    if found.missing > 1:  # some count the one that states them
        raise AudioError(
            f"{place}: truncated: it states {found.missing} more frames than the file holds; copy the file again, "
            "or remove it"
        )
    return found.num_samples


def bytes_of(place: Place, file: BinaryIO | None, size: int = -1) -> bytes:
    """Return the first `size` bytes of audio, all for -1; `file` is what `Place.opened` gave."""
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
    """Decode what libsndfile cannot open: flac in Ogg, and whatever ffmpeg reads; None where nothing does.

    Raises:
        AudioError: its header promises more than there is, or ffmpeg cannot decode it.
    """
    if file is None and not os.path.isfile(place.path):  # noqa: PTH113
        return None
    found = _from_ogg(place, file)
    if found is not None:
        return found
    with open(place.path, "rb") if file is None else nullcontext(file) as opened:  # noqa: PTH123
        lost = falls_short(opened)
    if lost is not None:
        raise AudioError(f"{place}: truncated: {lost}; copy the file again, or remove it")
    is_read = place.is_plain_file and ffmpeg_program() and is_for_ffmpeg(bytes_of(place, file, _BEGINNING))
    return _by_ffmpeg(place) if is_read else None


def _from_ogg(place: Place, file: BinaryIO | None) -> Look | None:
    """Decode Ogg that libsndfile does not read to its end; None for any other file, and for Ogg of other codecs.

    Raises:
        AudioError: it cannot be decoded, or is several streams that do not go together.
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
            f"{place}: is {len(blocks)} streams joined, of {said}; expected one rate and number of channels: "
            "write each to a file of its own"
        )
    return _decoded(place, np.concatenate(blocks), next(iter(kinds))[0])


@contextmanager
def source_of(place: Place, file: BinaryIO | None) -> Iterator[str | BinaryIO]:
    """Give what soundfile reads: the file's name; its bytes where they are opened, or where its header is mended.

    Args:
        place: of the audio.
        file: what `Place.opened` gave.
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
    """Return (time, channels) from the file's sample `first` on; all that follow if `count` is -1."""
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
    """Return (time, channels) of what libsndfile reads, and whether it is MPEG audio."""
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
    """A file that is read forwards: soundfile seeks after each read where it can, which costs time, or fails."""

    def seekable(self) -> bool:
        """Return False."""
        return False

    def before(self, first: int) -> int:
        """Return the sample to seek to, so that what is decoded from there on equals the whole from `first` on."""
        is_of_blocks = self.subtype.startswith("DWVW") or self.frames == _UNKNOWN_LENGTH  # or so libsndfile says
        if is_of_blocks or not super().seekable():
            return 0  # GSM 6.10 and others are decoded from the beginning
        if self.subtype.startswith("MPEG"):
            return max(0, first - _PREROLL)
        if self.subtype == "VORBIS":
            return max(0, min(first, self.frames - _LAST_PAGE))
        return first


def _read_on(sound: soundfile.SoundFile, count: int) -> NDArray[np.float32]:
    """Return (time, channels) of flac that does not say how long it is."""
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
    """Say that ffmpeg gives a length other than the manifest's, and what that means for labels.

    Args:
        expected_samples: what the manifest says of the file.
        decoder: that this holds for; None: not known.
        found: what the file holds as ffmpeg decodes it now.
    """
    said = f"holds {found.num_samples} samples as {found.decoder} decodes it, the manifest says {expected_samples}"
    if decoder == found.decoder:
        return f"{said} by the same version; the file was changed or truncated: build the manifest again"
    if decoder is None:
        return (
            f"{said}; another version may have made it, which begins the sound elsewhere, or the file was changed or "
            "truncated: build the manifest and labels of frames again, or use that version"
        )
    return (
        f"{said} as {decoder} decoded it; versions begin the sound elsewhere, or the file was changed or truncated: "
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
    """Return (time,) of (time, channels): the one that is named, or what `config` makes of all."""
    if channel is not None:
        return samples[:, channel]
    if config.channels == "first" or samples.shape[1] == 1:
        return samples[:, 0]
    mono: NDArray[np.float32] = samples.mean(axis=1)
    peak = np.abs(samples).max(initial=0.0)
    if peak > _AUDIBLE and np.abs(mono).max() < _CANCELLED * peak:
        raise AudioSettingError(
            f"{place}: its channels cancel, as where one is the other upside down: their mean is silent",
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
            f"{place}: has {header.channels} channels, the manifest wants number {channel}, counted from 0; correct it"
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
