"""Distortions of waveforms at a given level: noise, rooms, narrow band, clipping, speed. Functions, without any draw.

Augmentation of training (`data.augment`) and tests under shifted conditions (`data.shifted`) share them.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.extras import import_torchaudio

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "at_speed",
    "band_limited",
    "clipped",
    "decay_samples",
    "decaying_room",
    "exact_ratio",
    "in_room",
    "noise_scale",
    "power",
]

Samples = NDArray[np.float32]

_NO_POWER = np.float32(1e-20)
_STOPBAND_DB = 80.0
_DECAYED_DB = 80.0  # end of a synthetic room's response: measurements of the decay use at most 35 dB of it


def power(samples: Samples) -> np.float32:
    """Return the mean square of (time,) samples."""
    return np.float32(np.dot(samples, samples) / len(samples))


def noise_scale(samples: Samples, noise: Samples, snr_db: float) -> np.float32:
    """Return the factor of the noise that gives a signal-to-noise ratio, both powers averaged over all samples."""
    return np.float32(np.sqrt(power(samples) / max(power(noise), _NO_POWER) / 10 ** (snr_db / 10)))


def in_room(samples: Samples, response: Samples) -> Samples:
    """Convolve with an impulse response; keep the length, the position of the direct sound, and the power.

    Args:
        samples: (time,) float32.
        response: (any,) float32, whose largest sample is the direct sound.
    """
    direct = int(np.abs(response).argmax())
    size = _fast_size(len(samples) + len(response) - 1)
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)  # torch's depends on the number of threads
    reverberant = np.fft.irfft(spectrum, size)[direct : direct + len(samples)].astype(np.float32)
    return reverberant * np.sqrt(power(samples) / max(power(reverberant), _NO_POWER))


def decaying_room(rt60_s: float, signs: NDArray[np.int64]) -> Samples:
    """Make the impulse response of a room whose energy decays exponentially (Polack 1988), with reverberation time.

    The tail is white: the direct sound is followed by samples of random sign under an exponential envelope, so that the
    decay is exact and not merely on average. Direct sound and tail have equal energy, as at the critical distance.

    Args:
        rt60_s: seconds in which the energy decays by 60 dB.
        signs: (tail,) of -1 and 1, `decay_samples` of them.
    """
    times_s = np.arange(1, len(signs) + 1) / SAMPLE_RATE
    tail = signs * 10 ** (-3 * times_s / rt60_s)
    return np.concatenate([[1.0], tail / np.sqrt(np.sum(tail**2))]).astype(np.float32)


def decay_samples(rt60_s: float) -> int:
    """Return how many samples the tail of a synthetic room has: until it has decayed by 80 dB."""
    return round(rt60_s * SAMPLE_RATE * _DECAYED_DB / 60)


def band_limited(samples: Samples, cut_hz: float) -> Samples:
    """Remove everything from `cut_hz` on, as resampling to twice that rate and back does; length and phase are kept.

    A windowed sinc (Kaiser) with 80 dB of attenuation, whose transition ends at the cut.
    """
    width_hz = max(50.0, cut_hz / 20)
    half = int(np.ceil((_STOPBAND_DB - 8) / (2.285 * 2 * np.pi * width_hz / SAMPLE_RATE) / 2))
    middle = 2 * (cut_hz - width_hz / 2) / SAMPLE_RATE
    window = np.kaiser(2 * half + 1, 0.1102 * (_STOPBAND_DB - 8.7))
    taps = middle * np.sinc(middle * np.arange(-half, half + 1)) * window
    size = _fast_size(len(samples) + 2 * half)
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(taps, size)
    return np.fft.irfft(spectrum, size)[half : half + len(samples)].astype(np.float32)


def clipped(samples: Samples, percent: float) -> Samples:
    """Clip the loudest `percent` of the samples to the amplitude of the next one."""
    count = round(len(samples) * percent / 100)
    amplitudes = np.abs(samples)
    limit = np.partition(amplitudes, len(samples) - count - 1)[len(samples) - count - 1]
    return np.clip(samples, -limit, limit)


def at_speed(waveform: "Tensor", speed: Fraction) -> "Tensor":
    """Resample (time,) float32 so that it plays `speed` times as fast, and higher."""
    return _resampler(speed.numerator, speed.denominator)(waveform)


def exact_ratio(speed: float) -> Fraction:
    """Return a speed as a fraction of small numbers; speeds are hundredths."""
    return Fraction(speed).limit_denominator(100)


@lru_cache(maxsize=16)
def _resampler(down: int, up: int) -> "Callable[[Tensor], Tensor]":
    return import_torchaudio("transforms").Resample(down, up, lowpass_filter_width=64, rolloff=0.95)


def _fast_size(at_least: int) -> int:
    """Return a length with small factors, for which a Fourier transform is fast."""
    return min(odd << max(0, -(-at_least // odd) - 1).bit_length() for odd in (1, 3, 5, 9, 15))
