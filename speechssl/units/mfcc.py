"""Signal-processing front ends for clustering: MFCC with deltas, and log-mel energies, one waveform at a time.

A frame depends on 25 ms of audio, so a long waveform is computed a minute at a time: extra memory does not grow with
its length, and the result is the same.
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
    """Compute 13 MFCC with first and second deltas, as in HuBERT's first iteration (section IV-B).

    This is Kaldi's front end at its defaults, without energy, and without dither, so that it is reproducible.

    Args:
        waveform: (time,) float32 at 16 kHz, at least 400 samples.

    Returns:
        (frames, 39) float32, one frame every 10 ms.
    """
    static = _by_the_minute(_cepstra, waveform).T  # (13, frames)
    compute_deltas = import_torchaudio("functional").compute_deltas
    deltas = compute_deltas(static)
    return torch.cat([static, deltas, compute_deltas(deltas)]).T.contiguous()


def log_mel(waveform: Tensor) -> Tensor:
    """Compute (frames, 80) float32 log-mel energies of a (time,) waveform, one frame every 10 ms, without dither."""
    return _by_the_minute(_mel_energies, waveform)


def centred(features: Tensor) -> Tensor:
    """Subtract the utterance's mean from every dimension of (frames, dim) features: cepstral mean normalisation.

    It removes the constant effect of microphone and room, so that units of many recordings reflect the speech.
    """
    return features - features.mean(0)


def _cepstra(waveform: Tensor) -> Tensor:
    kaldi = import_torchaudio("compliance.kaldi")
    return kaldi.mfcc(waveform[None], sample_frequency=SAMPLE_RATE, use_energy=False)


def _mel_energies(waveform: Tensor) -> Tensor:
    kaldi = import_torchaudio("compliance.kaldi")
    return kaldi.fbank(waveform[None], num_mel_bins=LOG_MEL_DIM, sample_frequency=SAMPLE_RATE)


def _by_the_minute(front_end: Callable[[Tensor], Tensor], waveform: Tensor) -> Tensor:
    """Compute (frames, dim) features, a minute of audio at a time."""
    num_frames = (len(waveform) - FRAME_WINDOW) // FRAME_HOP + 1
    parts = []
    for start in range(0, num_frames, _AT_ONCE):
        last = min(start + _AT_ONCE, num_frames) - 1
        parts.append(front_end(waveform[start * FRAME_HOP : last * FRAME_HOP + FRAME_WINDOW]))
    return torch.cat(parts)
