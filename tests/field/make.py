"""Files of every kind that sox, lame, opusenc, flac, oggenc, speexenc, wavpack, ffmpeg and libsndfile write.

All of one sound: soft noise of 2.5 s with three clicks. `python -m tests.field.make FOLDER` writes them, some MB, and
says which programs are not there; Debian's packages sox, libsox-fmt-mp3, lame, opus-tools, flac, vorbis-tools, speex
and wavpack bring them, and ffmpeg is that of imageio-ffmpeg unless SPEECHSSL_FFMPEG names one. The same versions write
the same sound; serial numbers and dates in headers differ.
"""

import io
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

__all__ = ["CLICKS_S", "PROGRAMS", "SECONDS", "Case", "cases", "click", "ffmpeg", "signal", "write"]

SECONDS = 2.5
CLICKS_S = (0.5, 1.25, 2.0)
PROGRAMS = ("sox", "lame", "opusenc", "flac", "oggenc", "speexenc", "wavpack")
RATE = 16_000
FRAMES = int(SECONDS * RATE)

Write = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file of the corpus, and what is true of it."""

    name: str  # path below the folder
    write: Write
    by: str  # program that writes it
    rate: int = RATE
    channels: int = 1
    seconds: float = SECONDS
    clicks_s: tuple[float, ...] = CLICKS_S
    slack: int | None = 0  # samples of its own rate that its length may be off; None: as its decoders have it
    late: int = 1  # samples at 16 kHz that a click may be off
    refused: str | None = None  # words of the error, where it is to be refused
    passed_over: bool = False
    is_damaged: bool = False  # the check may say so


def click(rate: int) -> NDArray[np.float64]:
    """Return a pulse around 700 Hz, of 4 ms, its middle in the middle: every codec keeps it."""
    at = np.arange(-round(0.002 * rate), round(0.002 * rate) + 1) / rate
    return np.cos(2 * np.pi * 700 * at) * np.exp(-((at / 0.0006) ** 2))


def signal(rate: int = RATE, channels: int = 1, seconds: float = SECONDS) -> NDArray[np.float32]:
    """Return (time, channels): noise 40 dB below the clicks, the same in all channels."""
    sound = np.random.default_rng(0).normal(0, 0.006, round(seconds * rate))
    pulse = click(rate)
    for second in CLICKS_S:
        start = round(second * rate) - len(pulse) // 2
        if start + len(pulse) <= len(sound):
            sound[start : start + len(pulse)] += 0.6 * pulse
    return np.repeat(sound.astype(np.float32)[:, None], channels, axis=1)


def ffmpeg() -> str:
    """Return the program that SPEECHSSL_FFMPEG names, or that of the package imageio-ffmpeg."""
    return os.environ.get("SPEECHSSL_FFMPEG") or imageio_ffmpeg.get_ffmpeg_exe()


def write(folder: Path, wanted: Iterable[Case] | None = None) -> tuple[list[Case], list[str]]:
    """Write all files that can be.

    Returns:
        Those written, and why the others are not: programs that are missing, or what they said.
    """
    wanted = [*(cases() if wanted is None else wanted)]
    missing = {case.by for case in wanted if case.by in PROGRAMS and shutil.which(case.by) is None}
    written, failed = [], [f"{name} is missing" for name in sorted(missing)]
    for case in wanted:
        if case.by in missing:
            continue
        path = folder / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            case.write(path)
        except (RuntimeError, soundfile.LibsndfileError) as error:
            path.unlink(missing_ok=True)
            failed.append(f"{case.name}: {error}")
        else:
            written.append(case)
    return written, failed


def cases() -> Iterator[Case]:
    """Yield all files: plain ones of every program, then those with something odd about them."""
    stems: set[str] = set()
    for each in _all():
        stem, _, suffix = each.name.rpartition(".")
        name = f"{stem}_{suffix}.{suffix}" if stem in stems else each.name  # ids are made of the stem
        stems.add(stem)
        yield replace(each, name=name)


def _all() -> Iterator[Case]:
    yield from _of_libsndfile()
    yield from _of_sox()
    yield from _of_ffmpeg()
    yield from _of_encoders()
    yield from _odd_wav()
    yield from _odd_flac()
    yield from _odd_others()
    yield from _odd_mpeg()
    yield from _odd_ogg()
    yield from _odd_names()
    yield from _bad()


# How files come about


def _wav(rate: int = RATE, channels: int = 1, subtype: str = "PCM_16", kind: str = "WAV", **more: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, signal(rate, channels), rate, format=kind, subtype=subtype, **more)
    return file.getvalue()


def _by_soundfile(rate: int, channels: int, kind: str, subtype: str | None) -> Write:
    return lambda path: soundfile.write(str(path), signal(rate, channels), rate, format=kind, subtype=subtype)


def _bytes(content: Callable[[], bytes]) -> Write:
    return lambda path: path.write_bytes(content()) and None  # type: ignore[func-returns-value]


def _run(command: list[str], given: bytes = b"", *, takes_output: bool = False) -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-400:]}")
    return done.stdout if takes_output else b""


def _by(command: str, *, rate: int = RATE, channels: int = 1, subtype: str = "PCM_16") -> Write:
    """Give a wav to a program whose command names {i} and {o}."""

    def made(path: Path) -> None:
        program, *rest = command.split()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source.wav")
            source.write_bytes(_wav(rate, channels, subtype))
            _run([ffmpeg() if program == "ffmpeg" else program, *(each.format(i=source, o=path) for each in rest)])

    return made


def _piped(command: str, *, rate: int = RATE, channels: int = 1) -> Callable[[], bytes]:
    """Give a wav to a program through a pipe, and take what it writes into one."""

    def made() -> bytes:
        program, *rest = command.split()
        given = _wav(rate, channels)
        return _run([ffmpeg() if program == "ffmpeg" else program, *rest], given, takes_output=True)

    return made


_FFMPEG = "ffmpeg -v error -y -bitexact -i {i} -flags +bitexact "
_FFPIPE = "ffmpeg -v error -bitexact -i - "


# Plain files


def _of_libsndfile() -> Iterator[Case]:
    suffixes = {
        "WAV": ".wav",
        "WAVEX": ".wav",
        "AIFF": ".aiff",
        "AU": ".au",
        "CAF": ".caf",
        "W64": ".w64",
        "RF64": ".rf64",
        "VOC": ".voc",
        "NIST": ".sph",
        "FLAC": ".flac",
        "OGG": ".ogg",
        "MP3": ".mp3",
    }
    padded = {  # samples of a block, which is filled up
        "GSM610": 320,
        "IMA_ADPCM": 505 * 4,
        "MS_ADPCM": 500 * 4,
        "ALAC_16": 0,
        "G721_32": 120,
        "G723_24": 120,
        "G723_40": 120,
        "NMS_ADPCM_16": 160,
        "NMS_ADPCM_24": 160,
        "NMS_ADPCM_32": 160,
        "MPEG_LAYER_III": 0,
    }
    for kind, suffix in suffixes.items():
        for subtype in soundfile.available_subtypes(kind):
            if subtype in ("MPEG_LAYER_I", "MPEG_LAYER_II"):
                continue  # libsndfile reads them alone
            if subtype == "MPEG_LAYER_III" and kind == "WAV":
                continue
            lossy = subtype in ("VORBIS", "OPUS", "MPEG_LAYER_III", *padded)
            yield Case(
                name=f"libsndfile/{kind.lower()}_{subtype.lower()}{suffix}",
                write=_by_soundfile(RATE, 1, kind, subtype),
                by="libsndfile",
                rate=16_129 if subtype == "PCM_U8" and kind == "VOC" else RATE,  # its rate is a number of microseconds
                slack=padded.get(subtype, 0) if lossy else 400 if kind == "VOC" else 0,
                late=300 if kind == "VOC" else 8 if lossy else 1,
            )
    for rate in (8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000):
        for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)):
            if (subtype == "OPUS" and rate not in (8_000, 24_000, 48_000)) or (kind == "MP3" and rate == 96_000):
                continue
            yield Case(
                name=f"libsndfile/{(subtype or kind).lower()}_{kind.lower()}_{rate}.{kind.lower()}",
                write=_by_soundfile(rate, 1, kind, subtype),
                by="libsndfile",
                rate=rate,
                late=1 if subtype == "PCM_16" else 8,
            )
    for channels in (2, 3, 6, 8):
        for kind, suffix in (("WAV", ".wav"), ("FLAC", ".flac"), ("OGG", ".ogg"), ("CAF", ".caf")):
            yield Case(
                name=f"libsndfile/{kind.lower()}_{channels}_channels{suffix}",
                write=_by_soundfile(RATE, channels, kind, None),
                by="libsndfile",
                channels=channels,
                late=8 if kind == "OGG" else 1,
            )
    for kind in ("AVR", "HTK", "SVX", "MAT4", "PAF", "PVF", "SDS", "IRCAM", "XI"):
        subtype = "DPCM_16" if kind == "XI" else "PCM_16"
        yield Case(
            name=f"libsndfile/other.{kind.lower()}",
            write=_by_soundfile(RATE, 1, kind, subtype),
            by="libsndfile",
            passed_over=True,
        )


def _of_sox() -> Iterator[Case]:
    for suffix in ("wav", "aiff", "aifc", "au", "w64", "caf", "voc", "sph", "nist", "flac", "ogg", "mp3", "snd"):
        lossy = suffix in ("ogg", "mp3")
        yield Case(name=f"sox/plain.{suffix}", write=_by("sox -R {i} {o}"), by="sox", slack=0, late=8 if lossy else 1)
    for encoding in ("a-law", "mu-law", "ms-adpcm", "ima-adpcm", "gsm-full-rate", "floating-point", "unsigned-integer"):
        bits = " -b 8" if encoding == "unsigned-integer" else ""
        slack = 2_100 if "adpcm" in encoding else 320 if "gsm" in encoding else 0
        yield Case(
            name=f"sox/{encoding}.wav",
            write=_by(f"sox -R {{i}} -e {encoding}{bits} {{o}}"),
            by="sox",
            slack=slack,
            late=8 if slack else 1,
        )
    for bits in (24, 32):
        for suffix in ("wav", "aiff", "caf"):
            yield Case(name=f"sox/{bits}.{suffix}", write=_by(f"sox -R {{i}} -b {bits} {{o}}"), by="sox")
    yield Case(name="sox/big_endian.wav", write=_by("sox -R {i} -B -t wav {o}"), by="sox")
    for suffix in ("wav", "aiff", "au", "flac", "ogg", "sph"):
        yield Case(
            name=f"sox/piped.{suffix}",
            write=_bytes(_piped(f"sox -R -t wav - -t {suffix} -")),
            by="sox",
            late=8 if suffix == "ogg" else 1,
        )


def _of_ffmpeg() -> Iterator[Case]:
    lossless = {
        "wav_s24.wav": "-c:a pcm_s24le",
        "wav_s32.wav": "-c:a pcm_s32le",
        "wav_f32.wav": "-c:a pcm_f32le",
        "wav_f64.wav": "-c:a pcm_f64le",
        "wav_u8.wav": "-c:a pcm_u8",
        "wav_alaw.wav": "-c:a pcm_alaw",
        "wav_mulaw.wav": "-c:a pcm_mulaw",
        "rf64.wav": "-rf64 always",
        "bext.wav": "-write_bext 1",
        "peak.wav": "-write_peak on",
        "flac.flac": "",
        "flac_s32.flac": "-sample_fmt s32",
        "aiff.aiff": "",
        "au.au": "",
        "caf.caf": "",
        "w64.w64": "",
        "voc.voc": "",
        "alac.m4a": "-c:a alac",
        "alac.caf": "-c:a alac",
        "flac.mka": "-c:a flac",
        "flac.mp4": "-c:a flac -strict -2",
        "flac.oga": "-c:a flac",
        "pcm.mka": "-c:a pcm_s16le",
        "pcm.mkv": "-c:a pcm_s16le",
        "wavpack.wv": "",
    }
    for name, options in lossless.items():
        yield Case(
            name=f"ffmpeg/{name}",
            write=_by(f"{_FFMPEG}{options} {{o}}"),
            by="ffmpeg",
            late=300 if name == "voc.voc" else 1,
        )
    coded = {
        "adpcm_ms.wav": "-c:a adpcm_ms",
        "adpcm_ima.wav": "-c:a adpcm_ima_wav",
        "adpcm_yamaha.wav": "-c:a adpcm_yamaha",
        "g722.wav": "-c:a g722",
        "g726.wav": "-c:a g726 -b:a 64k -ar 8000",
        "mp3.wav": "-c:a libmp3lame",
        "ac3.wav": "-c:a ac3 -ar 48000",
        "mp2.mp2": "-c:a mp2",
        "mp2.mpga": "-c:a mp2 -f mp2",
        "mp3.mp3": "-c:a libmp3lame",
        "mp3_vbr.mp3": "-c:a libmp3lame -q:a 4",
        "mp3_no_xing.mp3": "-c:a libmp3lame -write_xing 0",
        "mp3_id3v1.mp3": "-c:a libmp3lame -write_id3v1 1 -metadata title=x",
        "vorbis.ogg": "-c:a libvorbis",
        "opus.opus": "-c:a libopus",
        "opus.ogg": "-c:a libopus",
        "speex_none.oga": "-c:a libvorbis",
        "opus.caf": "-c:a libopus -ar 48000",
        "aac.aac": "-c:a aac",
        "aac.m4a": "-c:a aac",
        "aac.m4b": "-c:a aac -f mp4",
        "aac.mp4": "-c:a aac",
        "aac.3gp": "-c:a aac",
        "aac.mka": "-c:a aac",
        "aac_faststart.m4a": "-c:a aac -movflags +faststart",
        "aac_fragmented.m4a": "-c:a aac -movflags +frag_keyframe+empty_moov",
        "aac_no_edits.m4a": "-c:a aac -use_editlist 0",
        "aac_mov.mp4": "-c:a aac -f mov",
        "mp3.mp4": "-c:a libmp3lame",
        "mp3.mka": "-c:a libmp3lame",
        "opus.webm": "-c:a libopus",
        "vorbis.webm": "-c:a libvorbis",
        "opus.mka": "-c:a libopus",
        "opus.mp4": "-c:a libopus",
        "wma1.wma": "-c:a wmav1 -ar 22050",
        "wma2.wma": "-c:a wmav2",
        "amr.amr": "-c:a libopencore_amrnb -ar 8000",
        "amr.3gp": "-c:a libopencore_amrnb -ar 8000",
    }
    rates = {"g726.wav": 8_000, "ac3.wav": 48_000, "opus.caf": 48_000}
    rates |= dict.fromkeys(("opus.webm", "opus.mka", "opus.mp4"), 48_000)
    rates |= {"wma1.wma": 22_050, "amr.amr": 8_000, "amr.3gp": 8_000}
    for name, options in coded.items():
        yield Case(
            name=f"ffmpeg/{name}",
            write=_by(f"{_FFMPEG}{options} {{o}}"),
            by="ffmpeg",
            rate=rates.get(name, RATE),
            slack=None,
            late=40,
        )
    for rate, name in ((8_000, "8000.m4a"), (22_050, "22050.m4a"), (44_100, "44100.m4a"), (48_000, "48000.m4a")):
        yield Case(
            name=f"ffmpeg/aac_{name}",
            write=_by(f"{_FFMPEG}-c:a aac {{o}}", rate=rate),
            by="ffmpeg",
            rate=rate,
            slack=None,
            late=40,
        )
    for channels in (2, 6):
        for name, options in (("aac.m4a", "-c:a aac"), ("opus.webm", "-c:a libopus"), ("vorbis.ogg", "-c:a libvorbis")):
            yield Case(
                name=f"ffmpeg/{channels}_{name}",
                write=_by(f"{_FFMPEG}{options} {{o}}", channels=channels, rate=48_000),
                by="ffmpeg",
                rate=48_000,
                channels=channels,
                slack=None,
                late=40,
            )
    for name, options in (
        ("wav", "-f wav"),
        ("flac", "-f flac"),
        ("mp3", "-f mp3"),
        ("ogg", "-c:a libvorbis -f ogg"),
        ("opus", "-c:a libopus -f ogg"),
        ("au", "-f au"),
        ("aac", "-f adts"),
        ("webm", "-c:a libopus -f webm"),
        ("mka", "-c:a libvorbis -f matroska"),
        ("wma", "-c:a wmav2 -f asf"),
        ("amr", "-ar 8000 -c:a libopencore_amrnb -f amr"),
        ("w64", "-f w64"),
        ("voc", "-f voc"),
        ("m4a", "-c:a aac -movflags +frag_keyframe+empty_moov -f mp4"),
    ):
        lossless_one = name in ("wav", "flac", "au", "w64", "voc")
        yield Case(
            name=f"ffmpeg/piped.{name}",
            write=_bytes(_piped(f"{_FFPIPE}{options} -")),
            by="ffmpeg",
            rate={"webm": 48_000, "amr": 8_000}.get(name, RATE),
            slack=0 if lossless_one else None,
            late=300 if name == "voc" else 1 if lossless_one else 40,
        )


def _of_encoders() -> Iterator[Case]:
    for name, options in (
        ("cbr64", "-b 64"),
        ("cbr320", "-b 320 --resample 44.1"),
        ("vbr", "-V 4"),
        ("abr", "--abr 48"),
        ("no_tag", "-t"),
        ("vbr_no_tag", "-V 4 -t"),
        ("free_format", "--freeformat -b 100"),
        ("stereo_joint", "-m j"),
        ("id3v2", "--add-id3v2 --tt title --ta artist"),
        ("crc", "-p"),
    ):
        channels = 2 if name == "stereo_joint" else 1
        rate = 44_100 if "resample" in options else RATE
        yield Case(
            name=f"lame/{name}.mp3",
            write=_by(f"lame --quiet {options} {{i}} {{o}}", channels=channels),
            by="lame",
            rate=rate,
            channels=channels,
            slack=None if "no_tag" in name or name == "free_format" else 0,
            late=40,
        )
    for rate in (8_000, 12_000, 24_000, 32_000, 48_000):
        yield Case(
            name=f"lame/{rate}.mp3",
            write=_by("lame --quiet {i} {o}", rate=rate),
            by="lame",
            rate=rate,
            late=40,
        )
    for name, options in (
        ("plain", ""),
        ("low", "--bitrate 12"),
        ("60ms", "--framesize 60"),
        ("2ms", "--framesize 2.5"),
        ("no_padding", "--discard-comments --max-delay 100"),
    ):
        yield Case(
            name=f"opusenc/{name}.opus",
            write=_by(f"opusenc --quiet --serial 1 {options} {{i}} {{o}}"),
            by="opusenc",
            late=40,
        )
    for rate, channels in ((8_000, 1), (44_100, 2), (48_000, 6)):
        yield Case(
            name=f"opusenc/{rate}_{channels}.opus",
            write=_by("opusenc --quiet --serial 1 {i} {o}", rate=rate, channels=channels),
            by="opusenc",
            rate=8_000 if rate == 8_000 else 48_000,
            channels=channels,
            slack=2,
            late=40,
        )
    for name, options, channels, subtype in (
        ("fast", "-0", 1, "PCM_16"),
        ("best", "-8", 2, "PCM_16"),
        ("24", "-5", 1, "PCM_24"),
        ("u8", "-5", 1, "PCM_U8"),
        ("ogg", "--ogg --serial-number=1", 1, "PCM_16"),
        ("no_seektable", "--no-seektable --no-padding", 1, "PCM_16"),
        ("padding", "-P 100000", 1, "PCM_16"),
        ("small_blocks", "-b 192", 1, "PCM_16"),
        ("tagged", "--tag=TITLE=x --cuesheet=/dev/null", 1, "PCM_16"),
    ):
        if name == "tagged":
            options = "--tag=TITLE=x"
        suffix = "oga" if name == "ogg" else "flac"
        yield Case(
            name=f"flac/{name}.{suffix}",
            write=_by(f"flac -s -f {options} {{i}} -o {{o}}", channels=channels, subtype=subtype),
            by="flac",
            channels=channels,
        )
    yield Case(name="flac/piped.flac", write=_bytes(_piped("flac -s -c --ignore-chunk-sizes -")), by="flac")
    yield Case(
        name="flac/piped.oga",
        write=_bytes(_piped("flac -s -c --ogg --serial-number=1 --ignore-chunk-sizes -")),
        by="flac",
    )
    for name, options, channels in (("low", "-q -1", 1), ("high", "-q 8", 2), ("managed", "-b 48 --managed", 1)):
        yield Case(
            name=f"oggenc/{name}.ogg",
            write=_by(f"oggenc -Q -s 1 {options} {{i}} -o {{o}}", channels=channels),
            by="oggenc",
            channels=channels,
            late=8,
        )
    for name, rate, options in (("narrow", 8_000, "-n"), ("wide", 16_000, "-w"), ("vbr", 16_000, "--vbr")):
        yield Case(
            name=f"speexenc/{name}.spx",
            write=_by(f"speexenc {options} {{i}} {{o}}", rate=rate),
            by="speexenc",
            rate=rate,
            slack=None,
            late=300,
        )
    for name, options, subtype in (("plain", "", "PCM_16"), ("float", "", "FLOAT"), ("hybrid", "-b4", "PCM_16")):
        yield Case(
            name=f"wavpack/{name}.wv",
            write=_by(f"wavpack -q -y {options} {{i}} -o {{o}}", subtype=subtype),
            by="wavpack",
            late=2 if name == "hybrid" else 1,
        )


# Files with something odd about their headers


def _chunk(name: bytes, body: bytes, declared: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if declared is None else declared) + body + b"\0" * (len(body) % 2)


def _pcm(channels: int = 1, dtype: str = "<i2", frames: int | None = None) -> bytes:
    return (signal(RATE, channels)[:frames] * 32767).round().astype(dtype).tobytes()


def _riff(*chunks: bytes, declared: int | None = None, form: bytes = b"WAVE", name: bytes = b"RIFF") -> bytes:
    body = form + b"".join(chunks)
    return name + struct.pack("<I", len(body) if declared is None else declared) + body


def _fmt(channels: int = 1, kind: int = 1, bits: int = 16, more: bytes = b"") -> bytes:
    width = channels * bits // 8
    return _chunk(b"fmt ", struct.pack("<HHIIHH", kind, channels, RATE, RATE * width, width, bits) + more)


def _odd_wav() -> Iterator[Case]:
    info = _chunk(b"LIST", b"INFO" + _chunk(b"INAM", b"a title\0"))
    made: dict[str, bytes] = {
        "list_before": _riff(_fmt(), info, _chunk(b"data", _pcm())),
        "list_after": _riff(_fmt(), _chunk(b"data", _pcm()), info),
        "junk_before_format": _riff(_chunk(b"JUNK", bytes(28)), _fmt(), _chunk(b"data", _pcm())),
        "unknown_chunk": _riff(_fmt(), _chunk(b"abcd", bytes(100)), _chunk(b"data", _pcm())),
        "odd_chunk_padded": _riff(_fmt(), _chunk(b"abcd", bytes(101)), _chunk(b"data", _pcm())),
        "bext": _riff(_chunk(b"bext", bytes(602)), _fmt(), _chunk(b"data", _pcm())),
        "cue_and_labels": _riff(_fmt(), _chunk(b"cue ", struct.pack("<I", 0)), _chunk(b"data", _pcm()), info),
        "long_list": _riff(_fmt(), _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", bytes(50_000))), _chunk(b"data", _pcm())),
        "format_of_18": _riff(_fmt(more=b"\0\0"), _chunk(b"data", _pcm())),
        "fact": _riff(_fmt(), _chunk(b"fact", struct.pack("<I", 1)), _chunk(b"data", _pcm())),
        "riff_size_0": _riff(_fmt(), _chunk(b"data", _pcm()), declared=0),
        "riff_size_ffffffff": _riff(_fmt(), _chunk(b"data", _pcm()), declared=0xFFFFFFFF),
        "id3_after": _riff(_fmt(), _chunk(b"data", _pcm()), _chunk(b"id3 ", b"ID3\3\0\0\0\0\0\0")),
        "tag_after": _riff(_fmt(), _chunk(b"data", _pcm())) + b"TAG" + bytes(125),
        "zeros_after": _riff(_fmt(), _chunk(b"data", _pcm())) + bytes(4096),
        "rifx": _rifx(),
    }
    for declared in (
        *(0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x80000024, 0xFFFFF000, 0xFFFFFFDB, 0x7FFFFFDB),
        *(2_000_000_000, 1_000_000_000, 0xFFFFFFFE, 0x7FFFFFFE),
    ):
        made[f"declares_{declared:x}"] = _riff(_fmt(), _chunk(b"data", _pcm(), declared), declared=0xFFFFFFFF)
    made["declares_0"] = _riff(_fmt(), _chunk(b"data", _pcm(), 0), declared=0)
    made["declares_0_riff_36"] = _riff(_fmt(), _chunk(b"data", _pcm(), 0), declared=36)
    made["declares_0_stereo"] = _riff(_fmt(2), _chunk(b"data", _pcm(2), 0), declared=0)
    made["declares_0_with_list"] = _riff(_fmt(), info, _chunk(b"data", _pcm(), 0), declared=0)
    made["declares_ffffffff_with_list"] = _riff(_fmt(), info, _chunk(b"data", _pcm(), 0xFFFFFFFF))
    for name, content in made.items():
        channels = 2 if name.endswith("stereo") else 1
        yield Case(
            name=f"odd_wav/{name}.wav", write=_bytes(lambda content=content: content), by="bytes", channels=channels
        )  # type: ignore[misc]
    empty = {
        "empty": _riff(_fmt(), _chunk(b"data", b"")),
        "empty_with_list_after": _riff(_fmt(), _chunk(b"data", b""), info),
        "empty_with_tag_after": _riff(_fmt(), _chunk(b"data", b"")) + b"TAG" + bytes(125),
    }
    for name, content in empty.items():
        yield Case(
            name=f"bad/{name}.wav",
            write=_bytes(lambda content=content: content),  # type: ignore[misc]
            by="bytes",
            refused="holds no samples",
        )


def _rifx() -> bytes:
    fmt = b"fmt " + struct.pack(">I", 16) + struct.pack(">HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    body = _pcm(dtype=">i2")
    body = b"WAVE" + fmt + b"data" + struct.pack(">I", len(body)) + body
    return b"RIFX" + struct.pack(">I", len(body)) + body


def _flac(**more: float) -> bytearray:
    return bytearray(_wav(kind="FLAC", **more))


def _without_length() -> bytes:
    data = _flac()
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def _odd_flac() -> Iterator[Case]:
    def no_sum() -> bytes:
        data = _flac()
        data[26:42] = bytes(16)
        return bytes(data)

    def with_picture() -> bytes:
        data = bytes(_flac())
        block = (
            struct.pack(">I", 3)
            + struct.pack(">I", 9)
            + b"image/png"
            + bytes(20)
            + struct.pack(">I", 70_000)
            + bytes(70_000)
        )
        return data[:42] + bytes([6]) + len(block).to_bytes(3) + block + data[42:]

    for name, content in (
        ("without_length", _without_length),
        ("without_sum", no_sum),
        ("with_picture", with_picture),
        ("id3_before", lambda: b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + bytes(_flac())),
        ("tag_after", lambda: bytes(_flac()) + b"TAG" + bytes(125)),
    ):
        yield Case(name=f"odd_flac/{name}.flac", write=_bytes(content), by="bytes")


def _odd_others() -> Iterator[Case]:
    def au(declared: int) -> bytes:
        return b".snd" + struct.pack(">IIIII", 24, declared, 3, RATE, 1) + _pcm(dtype=">i2")

    def aiff(declared: int, frames: int, form: int) -> bytes:
        rate = struct.pack(">HQ", 16_383 + 13, RATE << (63 - 13))
        comm = b"COMM" + struct.pack(">IhIh", 18, 1, frames, 16) + rate
        return (
            b"FORM" + struct.pack(">I", form) + b"AIFF" + comm + b"SSND" + struct.pack(">III", declared, 0, 0)
        ) + _pcm(dtype=">i2")

    def caf(declared: int) -> bytes:
        desc = b"desc" + struct.pack(">q", 32) + struct.pack(">d4sIIIII", RATE, b"lpcm", 2, 2, 1, 1, 16)
        return b"caff\0\1\0\0" + desc + b"data" + struct.pack(">qI", declared, 0) + _pcm()

    def w64(declared: int, riff: int) -> bytes:
        data = bytearray(_wav(kind="W64"))
        data[16:24] = struct.pack("<Q", riff)
        at = data.index(b"data\xf3\xac\xd3\x11")
        data[at + 16 : at + 24] = struct.pack("<Q", declared)
        return bytes(data)

    def rf64(declared: int, frames: int) -> bytes:
        ds64 = _chunk(b"ds64", struct.pack("<QQQI", min(declared + 72, most), declared, frames, 0))
        return b"RF64\xff\xff\xff\xffWAVE" + ds64 + _fmt() + b"data\xff\xff\xff\xff" + _pcm()

    size = 2 * FRAMES
    most = 2**64 - 1
    made = {
        "au_ffffffff.au": lambda: au(0xFFFFFFFF),
        "au_0.au": lambda: au(0),
        "au_7fffffff.au": lambda: au(0x7FFFFFFF),
        "au_right.au": lambda: au(size),
        "aiff_right.aiff": lambda: aiff(size + 8, FRAMES, size + 46),
        "aiff_0.aiff": lambda: aiff(0, 0, 0),
        "aiff_ffffffff.aiff": lambda: aiff(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        "aiff_7f000008.aiff": lambda: aiff(0x7F000008, 0x3F800000, 0x7F00002E),
        "caf_unknown.caf": lambda: caf(-1),
        "caf_0.caf": lambda: caf(0),
        "caf_right.caf": lambda: caf(size + 4),
        "w64_0.w64": lambda: w64(0, 0),
        "w64_24.w64": lambda: w64(24, 24),
        "w64_most.w64": lambda: w64(most, most),
        "w64_7fffffffffffffff.w64": lambda: w64(2**63 - 1, 2**63 - 1),
        "rf64_right.rf64": lambda: rf64(size, FRAMES),
        "rf64_0.rf64": lambda: rf64(0, 0),
        "rf64_most.rf64": lambda: rf64(most, most),
    }
    for name, content in made.items():
        yield Case(name=f"odd_others/{name}", write=_bytes(content), by="bytes")


def _lame(options: str = "") -> bytes:
    """Encode by lame, at 64 kbit/s, as its smaller frames have no room for what it notes of delay and length."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made.mp3")
        _by(f"lame --quiet -b 64 {options} {{i}} {{o}}")(path)
        return path.read_bytes()


def _odd_mpeg() -> Iterator[Case]:
    tag = b"ID3\3\0\0\0\0\x07\x76" + bytes(1014)
    made: dict[str, Callable[[], bytes]] = {
        "zeros_before": lambda: bytes(1000) + _lame(),
        "id3_before": lambda: tag + _lame(),
        "two_id3_before": lambda: tag + tag + _lame(),
        "id3_then_zeros": lambda: tag + bytes(500) + _lame(),
        "junk_before": lambda: b"not a frame, but words \xff\xfb\x90 " * 9 + _lame(),
        "junk_before_untagged": lambda: b"junk\xff\xe0" * 50 + _lame("-t"),
        "half_a_frame_before": lambda: _lame("-t")[100:],
        "id3v1_after": lambda: _lame() + b"TAG" + bytes(125),
        "ape_after": lambda: _lame() + b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8),
        "lyrics_after": lambda: _lame() + b"LYRICSBEGININD0000200000LYRICS200" + b"TAG" + bytes(125),
        "zeros_after": lambda: _lame() + bytes(2000),
        "junk_after": lambda: _lame() + b"some words of a server\r\n" * 20,
        "junk_within": lambda: (lambda data: data[:4000] + b"noise" * 20 + data[4000:])(_lame("-t")),
    }
    for name, content in made.items():
        slack = None if "untagged" in name or "half" in name or "within" in name else 0
        yield Case(
            name=f"odd_mpeg/{name}.mp3",
            write=_bytes(content),
            by="lame",
            slack=slack,
            late=2_400 if "half" in name or "within" in name else 40,
            is_damaged=name.startswith("half") or name.endswith(("within", "after")),
        )
    second = tuple(at + SECONDS for at in CLICKS_S)
    yield Case(
        name="odd_mpeg/joined.mp3",
        write=_bytes(lambda: _lame() + _lame()),
        by="lame",
        seconds=2 * SECONDS,
        clicks_s=CLICKS_S + second,
        slack=None,
        late=40,
    )


def _pages(data: bytes) -> list[bytes]:
    """Part an Ogg stream into its pages."""
    pages, position = [], 0
    while position < len(data):
        count = data[position + 26]
        size = 27 + count + sum(data[position + 27 : position + 27 + count])
        pages.append(data[position : position + size])
        position += size
    return pages


def _with_sum(page: bytes) -> bytes:
    """Give a page its checksum anew."""
    cleared = page[:22] + bytes(4) + page[26:]
    value = 0
    for byte in cleared:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", value) + page[26:]


def _odd_ogg() -> Iterator[Case]:
    def no_end(kind: str) -> bytes:
        pages = _pages(_wav(kind="OGG", subtype=kind))
        last = bytearray(pages[-1])
        last[5] &= ~4
        return b"".join(pages[:-1]) + _with_sum(bytes(last))

    def renumbered(data: bytes, serial: int) -> bytes:
        return b"".join(_with_sum(page[:14] + struct.pack("<I", serial) + page[18:]) for page in _pages(data))

    def chained(kind: str) -> bytes:
        return renumbered(_wav(kind="OGG", subtype=kind), 1) + renumbered(_wav(kind="OGG", subtype=kind), 2)

    for kind in ("VORBIS", "OPUS"):
        name = kind.lower()
        yield Case(
            name=f"odd_ogg/{name}_without_end.ogg",
            write=_bytes(lambda kind=kind: no_end(kind)),  # type: ignore[misc]
            by="bytes",
            late=8,
        )
        yield Case(
            name=f"odd_ogg/{name}_junk_after.ogg",
            write=_bytes(lambda kind=kind: _wav(kind="OGG", subtype=kind) + b"words " * 90),  # type: ignore[misc]
            by="bytes",
            late=8,
        )
        yield Case(
            name=f"odd_ogg/{name}_chained.ogg",
            write=_bytes(lambda kind=kind: chained(kind)),  # type: ignore[misc]
            by="bytes",
            seconds=2 * SECONDS,
            clicks_s=CLICKS_S + tuple(at + SECONDS for at in CLICKS_S),
            late=8,
        )


def _odd_names() -> Iterator[Case]:
    def of(kind: str) -> Callable[[], bytes]:
        return lambda: _wav(kind=kind, subtype=None if kind == "MP3" else "VORBIS" if kind == "OGG" else "PCM_16")  # type: ignore[arg-type]

    for name, kind in (
        ("is_mp3.wav", "MP3"),
        ("is_flac.wav", "FLAC"),
        ("is_wav.mp3", "WAV"),
        ("is_ogg.mp3", "OGG"),
        ("is_wav.flac", "WAV"),
        ("is_wav.sph", "WAV"),
        ("is_flac.ogg", "FLAC"),
        ("UPPER.WAV", "WAV"),
        ("two.dots.wav", "WAV"),
        ("ein Name für alle.wav", "WAV"),
        ("имя.flac", "FLAC"),
        ("colon:1:2.wav", "WAV"),
    ):
        yield Case(name=f"names/{name}", write=_bytes(of(kind)), by="bytes", late=8 if kind in ("MP3", "OGG") else 1)
    for name, kind in (("is_wav.m4a", "WAV"), ("is_flac.aac", "FLAC")):
        yield Case(name=f"names/{name}", write=_bytes(of(kind)), by="bytes")
    yield Case(
        name="names/is_m4a.mp3",
        write=_by(f"{_FFMPEG}-c:a aac -f mp4 {{o}}"),
        by="ffmpeg",
        slack=None,
        late=40,
    )
    apple_double = b"\0\5\x16\7\0\2\0\0" + bytes(4088)
    for name, content in (
        ("names/._two.wav", apple_double),
        ("names/__MACOSX/a.wav", apple_double),
        ("names/__MACOSX/names/._a.flac", apple_double),
        ("names/.hidden/a.wav", apple_double),
        ("names/Thumbs.db", bytes(99)),
        ("names/.DS_Store", bytes(99)),
        ("names/desktop.ini", b"[x]"),
        ("names/cover.jpg", bytes(99)),
        ("names/notes.pdf", bytes(99)),
    ):
        yield Case(name=name, write=_bytes(lambda content=content: content), by="bytes", passed_over=True)  # type: ignore[misc]


def _bad() -> Iterator[Case]:
    def cut(data: Callable[[], bytes], share: float) -> Callable[[], bytes]:
        return lambda: (lambda whole: whole[: math.floor(len(whole) * share)])(data())

    def of(kind: str, subtype: str | None) -> Callable[[], bytes]:
        return lambda: _wav(kind=kind, subtype=subtype)  # type: ignore[arg-type]

    def noise() -> bytes:
        return np.random.default_rng(1).bytes(20_000)

    for name, content, words in (
        ("half.wav", cut(_wav, 0.5), "truncated"),
        ("last_bytes_lost.wav", cut(_wav, 0.999), "truncated"),
        ("half.flac", cut(of("FLAC", "PCM_16"), 0.5), "truncated"),
        ("half.aiff", cut(of("AIFF", "PCM_16"), 0.5), "truncated"),
        ("half.au", cut(of("AU", "PCM_16"), 0.5), "truncated"),
        ("half.caf", cut(of("CAF", "PCM_16"), 0.5), "truncated"),
        ("half.w64", cut(of("W64", "PCM_16"), 0.5), "truncated"),
        ("half.rf64", cut(of("RF64", "PCM_16"), 0.5), "truncated"),
        ("half.sph", cut(of("NIST", "PCM_16"), 0.5), "truncated"),
        ("half.voc", cut(of("VOC", "PCM_16"), 0.5), "truncated"),
        ("half.mp3", cut(of("MP3", None), 0.5), "truncated"),
        ("head_alone.wav", lambda: _wav()[:44], "truncated"),
        ("half_a_head.wav", lambda: _wav()[:30], "cannot be decoded|truncated|no samples"),
        ("noise.wav", noise, "cannot be decoded"),
        ("noise.flac", noise, "cannot be decoded"),
        ("noise.mp3", noise, "cannot be decoded"),
        ("noise.m4a", noise, "cannot"),
        ("nothing.wav", lambda: b"", "empty"),
        ("nothing.mp3", lambda: b"", "empty"),
        ("nothing.m4a", lambda: b"", "empty|cannot"),
        ("page.mp3", lambda: b"<html><head><title>404</title></head></html>" * 30, "cannot be decoded"),
    ):
        yield Case(name=f"bad/{name}", write=_bytes(content), by="bytes", refused=words)
    yield Case(
        name="bad/half.m4a",
        write=_bytes(cut(_whole_m4a, 0.5)),
        by="ffmpeg",
        refused="cannot",
    )


def _whole_m4a() -> bytes:
    return _piped(f"{_FFPIPE}-c:a aac -movflags +frag_keyframe+empty_moov+default_base_moof -f mp4 -")()


if __name__ == "__main__":
    done, failed = write(Path(sys.argv[1]))
    print(f"{len(done)} files", *failed, sep="\n")
