"""The spectrum of one recording, gathered block by block: how far it reaches, where there is sound, what it looks like.

Holds nine band energies for each 16 ms and one mean spectrum, never the audio: 2 KiB for a second.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft  # type: ignore[import-untyped]

from speechssl.doctor.fingerprint import BANDS, Fingerprint, fingerprint

__all__ = ["Spectrum"]

_WINDOW_S = 0.032
_BAND_EDGES_HZ = (200.0, 3400.0)  # what telephone audio has as well, so that a narrowband copy is still a copy
_ACTIVE_DB = -30.0  # of the loudest frame; below it the ends of a recording are pauses
_SMOOTHED_HZ = 125.0  # a band of the mean spectrum: wider than a partial of a voice
_LOWEST_CUT_HZ = 3000.0
_LOWEST_HZ = 100.0  # below are offset, rumble and hum, which say nothing of the recording's reach or pauses

Floats = NDArray[np.float32]


class Spectrum:
    """Mean power spectrum and band energies of a mono signal that arrives in pieces.

    The result does not depend on where the pieces are cut.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._size = max(16, round(sample_rate * _WINDOW_S / 2) * 2)
        self._hop = self._size // 2
        self._window = np.hanning(self._size + 1)[:-1].astype(np.float32)  # periodic: an offset stays in two bins
        self._lowest = round(_LOWEST_HZ * self._size / sample_rate)
        self._rest = np.zeros(0, np.float32)
        self._power = np.zeros(self._size // 2 + 1)
        self._levels: list[Floats] = []
        self._bands: list[Floats] = []
        low, high = (2595 * math.log10(1 + edge / 700) for edge in _BAND_EDGES_HZ)  # in mel
        edges = 700 * (10 ** (np.linspace(low, high, BANDS + 1) / 2595) - 1) * self._size / sample_rate
        self._edges = np.minimum(np.round(edges).astype(int), self._size // 2)

    def add(self, samples: Floats) -> None:
        """Take the next samples, (time,) float32, finite."""
        signal = np.concatenate([self._rest, samples])
        count = max(0, (len(signal) - self._size) // self._hop + 1)
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(signal, self._size)[:: self._hop][:count]
            bins = fft.rfft(frames * self._window)  # numpy's is ten times slower on float32; torch's starts threads
            power = np.square(bins.real) + np.square(bins.imag)  # (count, size / 2 + 1) float32
            self._power += power.sum(axis=0)
            self._levels.append(power[:, self._lowest :].sum(axis=1))
            self._bands.append(np.add.reduceat(power, self._edges, axis=1)[:, :BANDS])
        self._rest = signal[count * self._hop :]

    def cut_hz(self, *, step_db: float, floor_db: float) -> float | None:
        """Return where the sound ends abruptly below half the sample rate; None where it does not.

        A dark voice falls off by and by, what was upsampled or coded away falls by `step_db` within 375 Hz and stays
        below. Looked for from 3 kHz up, where telephone speech ends; vowels may fall as steeply below it.

        Args:
            step_db: how far everything above lies below the last 500 Hz, at least.
            floor_db: how far everything above lies below the loudest 125 Hz, at least; negative.
        """
        power = np.where(np.arange(len(self._power)) < self._lowest, 0.0, self._power)
        width = max(1, round(_SMOOTHED_HZ * self._size / self._rate))
        smooth = np.add.reduceat(power, np.arange(0, len(power) - 1, width))
        if not smooth.max() > 0:
            return None
        level = 10 * np.log10(np.maximum(smooth / smooth.max(), 1e-12))
        band_hz = width * self._rate / self._size
        first = max(4, round(_LOWEST_CUT_HZ / band_hz))
        if len(level) < first + 4:
            return None
        fallen = np.convolve(level, np.full(4, 0.25), "valid")[first - 4 : -4] - step_db  # of the 4 bands below an edge
        above = np.maximum.accumulate(level[::-1])[::-1][first + 3 :]  # from 3 bands above an edge to the end
        edges = np.flatnonzero(above <= np.minimum(floor_db, fallen))
        if not len(edges):
            return None
        edge = first + int(edges[0])
        return (edge + int((level[edge : edge + 4] <= fallen[edges[0]]).argmax())) * band_hz

    @property
    def active_s(self) -> float:
        """Seconds from the first sound to the last."""
        level = np.concatenate(self._levels) if self._levels else np.zeros(0)
        loud = np.flatnonzero(level > level.max(initial=0) * 10 ** (_ACTIVE_DB / 10))
        return float(loud[-1] + 1 - loud[0]) * self._hop / self._rate if len(loud) else 0.0

    def fingerprint(self) -> Fingerprint | None:
        """Return the fingerprint; None for silence and for less than 0.4 s of sound."""
        if not self._bands:
            return None
        return fingerprint(np.concatenate(self._bands), frames_per_second=self._rate / self._hop)
