"""Measures levels and a digest of one recording, block by block: peak, mean, clipping, difference of channels.

Blocks are (time, channels), int16 where the file's own samples fit in it and float32 elsewhere; the results are the
same for both, relative to full scale.
"""

from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

__all__ = ["Digest", "Levels"]

_UNIT = 32_768  # int16 samples at full scale

Floats = NDArray[np.float32]
Block = NDArray[np.float32] | NDArray[np.int16]


class Levels:
    """Sums over the samples; samples that are not finite are counted, and taken as 0 elsewhere."""

    def __init__(self, channels: int, full_scale: float) -> None:
        """Start from zero; samples of at least `full_scale` count as at full scale."""
        self.num_samples = 0
        self.not_finite = 0
        self.clipped = 0
        self._full_scale = full_scale
        self._peak = 0.0
        self._sums = np.zeros(channels)
        self._square = 0.0
        self._lost = 0.0
        self._last = np.zeros((2, channels), bool)  # whether the two previous samples were at full scale
        self._unit = 1.0

    def add(self, block: Block) -> Floats:
        """Add the next samples; return the mean of the channels, (time,) float32, on the scale of the block."""
        self.num_samples += len(block)
        if block.dtype == np.int16:
            self._unit = _UNIT
            peak: float = max(int(block.max()), -int(block.min()))
            samples = block.astype(np.float32)
            sums = _ones(len(samples)) @ samples  # exact enough: short sums of integers
        else:
            samples = self._finite(block)
            peak = float(np.abs(samples).max())
            sums = samples.sum(axis=0, dtype=np.float64)
        self._peak = max(self._peak, peak)
        self._sums += sums
        self._count_clipped(samples, peak)
        if samples.shape[1] == 1:
            return samples[:, 0]
        mono = samples.mean(axis=1)
        self._square += float(np.square(samples, dtype=np.float64).sum())
        self._lost += float(np.square(samples - mono[:, None], dtype=np.float64).sum())
        return mono

    @property
    def peak(self) -> float:
        """Peak over all channels."""
        return self._peak / self._unit

    @property
    def mean(self) -> float:
        """Mean of the channel where it is farthest from 0."""
        means = self._sums / (max(1, self.num_samples) * self._unit)
        return float(means[np.abs(means).argmax()])

    @property
    def channel_difference(self) -> float:
        """RMS of what averaging the channels loses, relative to the total RMS."""
        return float(np.sqrt(self._lost / self._square)) if self._square > 0 else 0.0

    def _finite(self, block: Block) -> Floats:
        is_finite = np.isfinite(block)
        if is_finite.all():
            return block.astype(np.float32, copy=False)
        self.not_finite += int((~is_finite).sum())
        return np.where(is_finite, block, 0).astype(np.float32)

    def _count_clipped(self, samples: Floats, peak: float) -> None:
        """Count samples at full scale between two at full scale."""
        full_scale = np.float32(self._full_scale) * np.float32(self._unit)
        if peak < full_scale:  # nearly always
            is_at_top = np.zeros((min(2, len(samples)), samples.shape[1]), bool)
        else:
            is_at_top = np.abs(samples) >= full_scale
        at_top = np.concatenate([self._last, is_at_top])
        self.clipped += int((at_top[2:] & at_top[1:-1] & at_top[:-2]).sum())
        self._last = at_top[-2:]


class Digest:
    """128-bit xxhash of the samples, independent of the file format, and as fast as decoding."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        """Start with sample rate and channels."""
        start = f"{sample_rate} {channels} ".encode()
        self._of_16_bits, self._of_floats = xxhash.xxh3_128(start), xxhash.xxh3_128(start)
        self._fits = True  # whether all samples so far fit in 16 bits

    def add(self, block: Block) -> None:
        """Add the next samples."""
        if block.dtype == np.int16:
            self._of_16_bits.update(block.data)
            return
        self._of_floats.update(block.data)
        if self._fits:
            scaled = block * np.float32(_UNIT)
            self._fits = bool(((scaled >= -_UNIT) & (scaled < _UNIT) & (scaled == np.rint(scaled))).all())
            if self._fits:
                self._of_16_bits.update(scaled.astype(np.int16).data)

    def digest(self) -> bytes:
        """Return 16 bytes."""
        return self._of_16_bits.digest() if self._fits else self._of_floats.digest()


@lru_cache(maxsize=1)
def _row_of_ones(length: int) -> Floats:
    return np.ones(length, np.float32)


def _ones(length: int) -> Floats:
    """Return (length,) ones, as a view of a cached array."""
    return _row_of_ones(1 << max(17, (length - 1).bit_length()))[:length]
