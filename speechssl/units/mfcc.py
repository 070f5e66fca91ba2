"""Front ends whose frames are clustered: MFCC with differences, logarithmic mel energies. A waveform at a time.

A frame looks at 25 ms, so a long waveform is computed a minute at a time: the memory beyond waveform and result does
not grow with it, and the result is that of the whole.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.extras import import_torchaudio

__all__ = [
    "FRAME_HOP",
    "FRAME_WINDOW",
    "LOG_MEL_DIM",
    "MFCC_DIM",
    "MFCC_HOP",
    "MFCC_WINDOW",
    "centred",
    "log_mel",
    "mfcc",
]

FRAME_HOP = MFCC_HOP = 160  # samples, 100 frames a second
FRAME_WINDOW = MFCC_WINDOW = 400  # samples, 25 ms
MFCC_DIM = 39
LOG_MEL_DIM = 80

_AT_ONCE = 6000  # frames, a minute


def mfcc(waveform: Tensor) -> Tensor:
    """Compute 13 MFCC with first and second differences, as HuBERT's first iteration does (section IV-B).

    Kaldi's front end at its defaults, without energy; no dither, so the result is reproducible.

    Args:
        waveform: (time,) float32 at 16 kHz, at least 400 samples.

    Returns:
        (frames, 39) float32, a frame every 10 ms.
    """
    static = _by_the_minute(_cepstra, waveform).T  # (13, frames)
    compute_deltas = import_torchaudio("functional").compute_deltas
    deltas = compute_deltas(static)
    return torch.cat([static, deltas, compute_deltas(deltas)]).T.contiguous()


def log_mel(waveform: Tensor) -> Tensor:
    """Compute (frames, 80) float32 logarithmic mel energies of a (time,) waveform, a frame every 10 ms; no dither."""
    return _by_the_minute(_mel_energies, waveform)


def centred(features: Tensor) -> Tensor:
    """Take the utterance's mean off every dimension of (frames, dim) features: cepstral mean normalisation.

    It removes what microphone and room add to every frame, so that units of many recordings are of the speech.
    """
    return features - features.mean(0)


def _cepstra(waveform: Tensor) -> Tensor:
    kaldi = import_torchaudio("compliance.kaldi")
    return kaldi.mfcc(waveform[None], sample_frequency=SAMPLE_RATE, use_energy=False)


def _mel_energies(waveform: Tensor) -> Tensor:
    kaldi = import_torchaudio("compliance.kaldi")
    return kaldi.fbank(waveform[None], num_mel_bins=LOG_MEL_DIM, sample_frequency=SAMPLE_RATE)


def _by_the_minute(front_end: Callable[[Tensor], Tensor], waveform: Tensor) -> Tensor:
    """Compute (frames, dim) from the samples of so many frames at once."""
    num_frames = (len(waveform) - FRAME_WINDOW) // FRAME_HOP + 1
    parts = []
    for start in range(0, num_frames, _AT_ONCE):
        last = min(start + _AT_ONCE, num_frames) - 1
        parts.append(front_end(waveform[start * FRAME_HOP : last * FRAME_HOP + FRAME_WINDOW]))
    return torch.cat(parts)
