"""Frame features to cluster: MFCC with deltas, or a layer of a checkpoint. One utterance at a time, nothing on disk."""

import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from speechssl.data.audio import SAMPLE_RATE

__all__ = ["MFCC_DIM", "MFCC_HOP", "MFCC_WINDOW", "centred", "mfcc"]

MFCC_HOP = 160  # samples, 100 frames a second
MFCC_WINDOW = 400  # samples, 25 ms
MFCC_DIM = 39


def mfcc(waveform: Tensor) -> Tensor:
    """Compute 13 MFCC with first and second differences, as HuBERT's first iteration does (section IV-B).

    Kaldi's front end at its defaults, without energy; no dither, so the result is reproducible.

    Args:
        waveform: (time,) float32 at 16 kHz, at least 400 samples.

    Returns:
        (frames, 39) float32, a frame every 10 ms.
    """
    cepstra = kaldi.mfcc(waveform[None], sample_frequency=SAMPLE_RATE, use_energy=False)  # (frames, 13)
    static = cepstra.T  # (13, frames)
    deltas = compute_deltas(static)
    return torch.cat([static, deltas, compute_deltas(deltas)]).T.contiguous()


def centred(features: Tensor) -> Tensor:
    """Take the utterance's mean off every dimension of (frames, dim) features: cepstral mean normalisation.

    It removes what microphone and room add to every frame, so that units of many recordings are of the speech.
    """
    return features - features.mean(0)
