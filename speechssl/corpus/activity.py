"""Voice activity detection: a speech probability and a level for every 32 ms of a recording, block by block.

There are two methods. `silero` is the model of the package silero-vad (extra `vad`), run by onnxruntime on the ONNX
file in the package; the package is not imported, as that sets torch's number of threads. Of its other files the
TorchScript one is a program in an archive with pickles, and the safetensors one (6.2.3) holds only the weights of an
older model. `energy` compares levels with the local noise floor, in numpy; it suits quiet recordings.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.ffmpeg import FFMPEG_SUFFIXES
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ConfigError

__all__ = ["FRAME", "Activity", "Vad", "chosen_vad", "detect_activity", "waveform_blocks"]

FRAME = 512  # samples at 16 kHz, 32 ms: the frame of silero-vad

Vad = Literal["silero", "energy"]
Samples = NDArray[np.float32]

_BLOCK_FRAMES = 1250  # frames in a block, 40 s
_FETCHED_FRAMES = 30 * _BLOCK_FRAMES  # frames in a block of audio in archives and at URLs, fetched whole for each
_CONTEXT = 64  # samples of the previous frame in the input of silero-vad
_AS_IT_IS = AudioConfig(min_sample_rate=1, max_duration_s=math.inf)

_BAND_HZ = (200, 4000)  # above hum and rumble, below hiss
_SILENT_DB = -100.0
_WINDOW, _HOP = 937, 156  # frames, 30 s and 5 s: window and hop of the noise floor
_ABOVE_FLOOR = 0.15  # threshold as a share of the distance from the floor to the loud parts
_ABOVE_FLOOR_DB = (2.0, 12.0)  # least and most distance of the threshold from the floor
_BELOW_LOUD_DB = 40.0  # most distance of speech below the loud parts of the recording
_SOFTNESS_DB = 1.0  # distance above the threshold at which the probability is 0.73


@dataclass(frozen=True)
class Activity:
    """Speech probabilities and levels of a recording; an incomplete last frame is padded with zeros."""

    speech: Samples  # (frames,) probability of speech
    level_db: Samples  # (frames,) between 200 Hz and 4 kHz, relative to full scale


def chosen_vad(wanted: Literal["silero", "energy", "auto"]) -> Vad:
    """Return the method to use; `auto` is silero-vad where it is installed.

    Raises:
        ConfigError: silero-vad is requested but not installed.
    """
    missing = [name for name in ("silero_vad", "onnxruntime") if importlib.util.find_spec(name) is None]
    if wanted == "silero" and missing:
        raise ConfigError(
            f"vad: silero needs {' and '.join(missing)}: `pip install 'speechssl[vad]'`, or choose energy"
        )
    if wanted == "auto":
        return "energy" if missing else "silero"
    return wanted


def waveform_blocks(manifest: Manifest, row: Utterance) -> Iterator[Samples]:
    """Yield a recording at 16 kHz, mono, in (time,) float32 blocks of whole frames; the last may be incomplete.

    A block is 40 s, 20 minutes in an archive or at a URL, or the whole recording if ffmpeg decodes it.

    Raises:
        AudioError: the recording cannot be read, or is shorter than the manifest states.
    """
    from speechssl.data.waveform import read_utterance  # imports torch, which lists of audio do not need

    place, total = manifest.place(row), row.num_samples_16k
    size = (_BLOCK_FRAMES if place.is_plain_file else _FETCHED_FRAMES) * FRAME
    if row.decoder is not None or place.path.lower().endswith(FFMPEG_SUFFIXES):
        size = total
    for start in range(0, total, size):
        wanted = min(size, total - start)
        block = read_utterance(manifest, row, _AS_IT_IS, start=start, num_samples=wanted).numpy()
        if len(block) < wanted:
            raise AudioError(
                f"{place}: truncated: ends {(start + len(block)) / SAMPLE_RATE:.2f} s after the beginning of {row.id}, "
                f"which lasts {row.duration_s:.2f} s; copy it again"
            )
        yield block


def detect_activity(blocks: Iterable[Samples], vad: Vad) -> Activity:
    """Compute speech probabilities and levels.

    Args:
        blocks: a recording at 16 kHz, (time,) float32 each, of whole frames except the last.
        vad: the method.
    """
    listen = _silero() if vad == "silero" else None
    levels, speech = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for block in blocks:
        frames = np.zeros((-(-len(block) // FRAME), FRAME), np.float32)
        frames.reshape(-1)[: len(block)] = block
        levels.append(_level_db(frames))
        if listen is not None:
            speech.append(listen(frames))
    level_db = np.concatenate(levels)
    return Activity(speech=_above_floor(level_db) if listen is None else np.concatenate(speech), level_db=level_db)


def _silero() -> Callable[[Samples], Samples]:
    """Return a stateful function from (frames, 512) samples to (frames,) probabilities."""
    session = _session()
    hidden, cell = np.zeros((1, 1, 128), np.float32), np.zeros((1, 1, 128), np.float32)
    before = np.zeros(_CONTEXT, np.float32)

    def listen(frames: Samples) -> Samples:
        nonlocal hidden, cell, before
        contexts = np.vstack([before, frames[:-1, -_CONTEXT:]])
        inputs = {"input": np.concatenate([contexts, frames], axis=1), "h": hidden, "c": cell}
        speech, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
        before = frames[-1, -_CONTEXT:]
        return np.asarray(speech, np.float32).reshape(-1)

    return listen


@lru_cache(maxsize=1)
def _session() -> Any:
    onnxruntime = importlib.import_module("onnxruntime")  # optional: the extra `vad`
    package = importlib.util.find_spec("silero_vad")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("vad: silero needs silero_vad: `pip install 'speechssl[vad]'`, or choose energy")
    network = Path(package.submodule_search_locations[0], "data", "silero_vad_16k_sequence.onnx")
    if not network.is_file():
        raise ConfigError(f"{network}: missing; silero-vad has it from 6.2.3 on: `pip install 'speechssl[vad]'`")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # recordings are processed in parallel
    return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])


def _level_db(frames: Samples) -> Samples:
    """Return the (frames,) level of (frames, 512) samples in the speech band."""
    window = np.hanning(FRAME).astype(np.float32)
    low, high = (hz * FRAME // SAMPLE_RATE for hz in _BAND_HZ)
    spectrum = np.fft.rfft(frames * window)[:, low : high + 1]
    power = 2 * (spectrum.real**2 + spectrum.imag**2).sum(axis=1) / (FRAME * np.square(window).sum())
    return np.maximum(10 * np.log10(np.maximum(power, 1e-20)), _SILENT_DB).astype(np.float32)


def _above_floor(level_db: Samples) -> Samples:
    """Return (frames,) speech probabilities from the distance to the noise floor of the surrounding 30 s."""
    if len(level_db) == 0:
        return level_db
    centres = np.arange(0, len(level_db) + _HOP, _HOP)
    floors, louds = np.zeros(len(centres)), np.zeros(len(centres))
    for number, centre in enumerate(centres.tolist()):
        first = max(0, min(centre - _WINDOW // 2, len(level_db) - _WINDOW))
        floors[number], louds[number] = np.quantile(level_db[first : first + _WINDOW], (0.1, 0.95))
    thresholds = floors + np.clip(_ABOVE_FLOOR * (louds - floors), *_ABOVE_FLOOR_DB)
    thresholds = np.maximum(thresholds, np.quantile(level_db, 0.95) - _BELOW_LOUD_DB)
    threshold = np.interp(np.arange(len(level_db)), centres, thresholds)
    return (1 / (1 + np.exp((threshold - level_db) / _SOFTNESS_DB))).astype(np.float32)
