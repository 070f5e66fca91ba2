"""Blind estimate of the signal-to-noise ratio of a recording: its quietest frames are taken as noise."""

import numpy as np
import torch
from torch import Tensor

from speechssl.audio.reading import SAMPLE_RATE

__all__ = ["estimate_snr_db"]

_FRAME = SAMPLE_RATE // 50  # 20 ms
_QUIET, _LOUD = 0.1, 0.5  # shares of the frames taken for noise, and for speech with noise
_LIMITS_DB = (-10.0, 60.0)


def estimate_snr_db(waveform: Tensor) -> float:
    """Return (power of the louder half of the frames - noise) / noise in dB; noise is the quietest tenth of the frames.

    Recordings without pauses look noisier than they are, gated ones cleaner; accurate enough for bands of 10 dB.

    Args:
        waveform: (time,), 16 kHz.

    Returns:
        Between -10 and 60 dB.
    """
    frames = waveform[: len(waveform) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if len(frames) == 0:
        return _LIMITS_DB[0]
    power = torch.sort(frames.double().square().mean(1)).values
    noise = power[: max(1, round(_QUIET * len(power)))].mean()
    loud = power[-max(1, round(_LOUD * len(power))) :].mean()
    ratio = ((loud - noise) / noise.clamp(min=1e-20)).clamp(min=1e-3)
    return float(np.clip(10 * torch.log10(ratio).item(), *_LIMITS_DB))
