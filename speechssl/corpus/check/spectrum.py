"""Measures the spectrum of one recording, block by block: bandwidth, extent of the sound, fingerprint.

It keeps ten numbers per 16 ms and one mean spectrum, but no audio: 2.5 KiB per second. Frames overlap by half: without
overlap one in eight noisy copies of 6 to 10 s was not found, with gaps between frames most were not.
"""

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.corpus.check.sound_print import BANDS, Fingerprint, fingerprint

__all__ = ["Spectrum"]

_WINDOW_S = 0.032
_BAND_EDGES_HZ = (200.0, 3400.0)  # the telephone band, so that a narrowband copy is found
_ACTIVE_DB = -30.0  # level relative to the loudest frame; quieter ends of a recording are pauses
_SMOOTHED_HZ = 125.0  # bandwidth of the smoothed spectrum: wider than a harmonic of a voice
_LOWEST_CUT_HZ = 3000.0
_LOWEST_HZ = 100.0  # offset, rumble and hum lie below, and are left out

Floats = NDArray[np.float32]


class Spectrum:
    """Mean power spectrum and band energies of a mono signal that arrives in blocks.

    The result depends neither on the block boundaries nor on the scale of the samples.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._window, self._sums, self._lowest = _plan(sample_rate)
        self._hop = len(self._window) // 2
        self._rest = np.zeros(0, np.float32)
        self._power = np.zeros(len(self._window) // 2 + 1)
        self._energies: list[Floats] = []  # (frames, BANDS + 1): the bands, and all from _LOWEST_HZ up

    def add(self, samples: Floats) -> None:
        """Add the next samples, (time,) float32, finite."""
        signal = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        size, count = len(self._window), max(0, (len(signal) - len(self._window)) // self._hop + 1)
        if count:
            frames = np.lib.stride_tricks.as_strided(
                signal, (count, size), (signal.strides[0] * self._hop, signal.strides[0]), writeable=False
            )
            windowed = torch.from_numpy(np.multiply(frames, self._window))
            bins = torch.fft.rfft(windowed).numpy()  # three times as fast as scipy's, fifteen times numpy's
            power = np.square(bins.real)  # (count, size / 2 + 1) float32
            power += np.square(bins.imag)
            self._power += np.ones(count, np.float32) @ power
            self._energies.append(power @ self._sums)
        self._rest = signal[count * self._hop :]

    def cut_hz(self, *, step_db: float, floor_db: float) -> float | None:
        """Return the frequency where the spectrum ends abruptly below half the sample rate; None where it does not.

        The spectrum of a dark voice falls gradually; after upsampling or lossy coding it falls by `step_db` within
        375 Hz and stays there. The search starts at 3 kHz, where telephone speech ends; vowels may fall as steeply
        below.

        Args:
            step_db: least fall of everything above, relative to the last 500 Hz.
            floor_db: highest level of everything above, relative to the loudest 125 Hz; negative.
        """
        power = self._power.copy()
        power[: self._lowest] = 0.0
        band_hz = self._rate / len(self._window)
        width = max(1, round(_SMOOTHED_HZ / band_hz))
        smooth = np.add.reduceat(power, np.arange(0, len(power) - 1, width))
        loudest = smooth.max()
        if not loudest > 0:
            return None
        level = 10 * np.log10(np.maximum(smooth / loudest, 1e-12))
        band_hz *= width
        first = max(4, round(_LOWEST_CUT_HZ / band_hz))
        if len(level) < first + 4:
            return None
        fallen = np.convolve(level, np.full(4, 0.25), "valid")[first - 4 : -4] - step_db  # 4 bands below an edge
        above = np.maximum.accumulate(level[::-1])[::-1][first + 3 :]  # maximum from 3 bands above an edge to the end
        edges = np.flatnonzero(above <= np.minimum(floor_db, fallen))
        if not len(edges):
            return None
        edge = first + int(edges[0])
        return (edge + int((level[edge : edge + 4] <= fallen[edges[0]]).argmax())) * band_hz

    @property
    def active_s(self) -> float:
        """Seconds from the first sound to the last."""
        level = np.concatenate(self._energies)[:, BANDS] if self._energies else np.zeros(0)
        loud = np.flatnonzero(level > level.max(initial=0) * 10 ** (_ACTIVE_DB / 10))
        return float(loud[-1] + 1 - loud[0]) * self._hop / self._rate if len(loud) else 0.0

    def fingerprint(self) -> Fingerprint | None:
        """Return the fingerprint; None for silence and for less than 0.4 s of sound."""
        if not self._energies:
            return None
        return fingerprint(np.concatenate(self._energies)[:, :BANDS], frames_per_second=self._rate / self._hop)


@lru_cache(maxsize=8)
def _plan(sample_rate: int) -> tuple[Floats, Floats, int]:
    """Return the window, the (bins, BANDS + 1) matrix that sums bins to bands and to all, and the lowest bin used."""
    size = max(16, round(sample_rate * _WINDOW_S / 2) * 2)
    window = np.hanning(size + 1)[:-1].astype(np.float32)  # periodic: an offset stays in two bins
    lowest = round(_LOWEST_HZ * size / sample_rate)
    low, high = (2595 * math.log10(1 + edge / 700) for edge in _BAND_EDGES_HZ)  # in mel
    hz = 700 * (10 ** (np.linspace(low, high, BANDS + 1) / 2595) - 1)
    edges = np.minimum(np.round(hz * size / sample_rate).astype(int), size // 2)
    sums = np.zeros((size // 2 + 1, BANDS + 1), np.float32)
    for band, (first, last) in enumerate(pairwise(edges)):
        sums[first : max(last, first + 1), band] = 1
    sums[lowest:, BANDS] = 1
    return window, sums, lowest
