"""Data augmentation of waveforms: speed perturbation, reverberation, noise and gain. Off by default.

The augmentation of an utterance depends only on (seed, epoch, index in the manifest), not on workers or resuming.
Speeds are drawn when batches are planned, as they change lengths (Ko et al. 2015, "Audio augmentation for speech
recognition"); the rest is applied when audio is read (Ko et al. 2017, "A study on data augmentation of reverberant
speech"). Impulse responses, measured or simulated, and noise come from manifests; none are simulated here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.audio.distortion import at_speed, exact_ratio, in_room, noise_scale, power
from speechssl.audio.reading import AudioConfig
from speechssl.config import configuration
from speechssl.data.batching import PlannedSpeeds, seeded_generator
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.data.waveform import read_utterance
from speechssl.errors import ConfigError

__all__ = [
    "Augment",
    "AugmentConfig",
    "Augmenter",
    "AugmenterOfTwo",
    "Speeds",
    "SpeedsOfTwo",
    "UtteranceSpeeds",
    "change_speed",
]

_CONTEXT = 160  # samples of context on either side, more than the resampling filter needs


@configuration
class AugmentConfig:
    """Augmentation of the training audio."""

    speeds: tuple[float, ...] = ()  # one is drawn for each utterance and epoch, e.g. 0.9, 1.0, 1.1
    rooms: tuple[Path, ...] = ()  # manifests of room impulse responses
    room_prob: float = 0.5  # probability of reverberation, where there are rooms
    noise: tuple[Path, ...] = ()  # manifests of noise
    noise_prob: float = 0.5  # probability of noise, where there is any
    snr_db: tuple[float, float] = (5.0, 20.0)  # signal-to-noise ratio, lowest and highest
    gain_db: tuple[float, float] = (0.0, 0.0)  # gain, lowest and highest

    def __post_init__(self) -> None:
        if not all(0.5 <= speed <= 2 and abs(exact_ratio(speed) - speed) < 1e-9 for speed in self.speeds):
            raise ConfigError(f"augment.speeds must be hundredths from 0.5 to 2, found {self.speeds}")
        if not (0 <= self.room_prob <= 1 and 0 <= self.noise_prob <= 1):
            raise ConfigError(
                f"augment.room_prob and noise_prob must lie between 0 and 1, found {self.room_prob}, {self.noise_prob}"
            )
        for name, (low, high) in {"snr_db": self.snr_db, "gain_db": self.gain_db}.items():
            if low > high:
                raise ConfigError(f"augment.{name} must be a lower and a higher number, found {low}, {high}")

    @property
    def changes_speed(self) -> bool:
        """Whether speed perturbation changes the lengths of utterances."""
        return any(speed != 1 for speed in self.speeds)

    def speeds_of(self, num_utterances: int, *, seed: int) -> "Speeds | None":
        """Return the speeds of `num_utterances`, None if speed does not change."""
        return Speeds(self.speeds, num_utterances, seed=seed) if self.changes_speed else None

    def augmenter(
        self, audio: AudioConfig, *, seed: int, read: Callable[[Path], Manifest] = read_manifest
    ) -> "Augmenter | None":
        """Return the augmentation other than speed, None if there is none.

        Args:
            audio: how audio is read.
            seed: seed of the draws.
            read: reads the manifests in `rooms` and `noise`.

        Raises:
            ManifestError: a manifest of rooms or noise cannot be read.
        """
        is_on = bool(self.rooms or self.noise) or self.gain_db != (0.0, 0.0)
        return Augmenter(self, audio, seed=seed, read=read) if is_on else None


class UtteranceSpeeds(PlannedSpeeds, Protocol):
    """The speed of each utterance in each epoch, and the lengths that batches are planned with."""

    def of(self, epoch: int, index: int) -> Fraction:
        """Return the speed of one utterance."""


class Augment(Protocol):
    """Augmentation of waveforms other than speed."""

    def __call__(self, waveform: Tensor, *, epoch: int, index: int) -> Tensor:
        """Return the augmented waveform, (time,) float32, of the utterance with this index in the manifest."""


class Speeds:
    """The speed of each utterance in each epoch."""

    def __init__(self, speeds: Sequence[float], num_utterances: int, *, seed: int) -> None:
        """Prepare to draw from `speeds` uniformly, for each of the manifest's utterances."""
        self.ratios = tuple(exact_ratio(speed) for speed in speeds)
        self.num_utterances, self.seed = num_utterances, seed
        self._drawn: tuple[int, NDArray[np.uint8]] | None = None  # epoch, and its draws

    def of(self, epoch: int, index: int) -> Fraction:
        """Return the speed of one utterance."""
        return self.ratios[self._draw(epoch)[index]]

    def lengths(self, epoch: int, indices: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many samples the utterances `indices`, of `lengths` at speed 1, have in an epoch."""
        drawn = self._draw(epoch)[indices]
        up = np.array([ratio.denominator for ratio in self.ratios])[drawn]
        down = np.array([ratio.numerator for ratio in self.ratios])[drawn]
        return -(-lengths * up // down)

    def longest(self, length: int) -> int:
        """Return how many samples an utterance has at the lowest speed."""
        slowest = min(self.ratios)
        return -(-length * slowest.denominator // slowest.numerator)

    def _draw(self, epoch: int) -> NDArray[np.uint8]:
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:
            generator = seeded_generator(self.seed, "speed", epoch)
            drawn = (epoch, torch.randint(len(self.ratios), (self.num_utterances,), generator=generator).byte().numpy())
            self._drawn = drawn
        return drawn[1]


class SpeedsOfTwo:
    """Speeds of utterances of two kinds, each with speeds of its own."""

    def __init__(self, speeds: tuple[Speeds, Speeds], is_second: NDArray[np.bool_]) -> None:
        """Give the utterances that `is_second`, (utterances,), marks the second of `speeds`."""
        self._speeds, self._is_second = speeds, is_second

    def of(self, epoch: int, index: int) -> Fraction:
        """Return the speed of one utterance."""
        return self._speeds[int(self._is_second[index])].of(epoch, index)

    def lengths(self, epoch: int, indices: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many samples the utterances `indices`, of `lengths` at speed 1, have in an epoch."""
        first, second = (each.lengths(epoch, indices, lengths) for each in self._speeds)
        return np.where(self._is_second[indices], second, first)

    def longest(self, length: int) -> int:
        """Return how many samples an utterance of either kind has at the lowest speed."""
        return max(each.longest(length) for each in self._speeds)


class AugmenterOfTwo:
    """Augmentation of utterances of two kinds; None leaves those of a kind as they are."""

    def __init__(self, augmenters: tuple[Augment | None, Augment | None], is_second: NDArray[np.bool_]) -> None:
        """Augment the utterances that `is_second`, (utterances,), marks by the second of `augmenters`."""
        self._augmenters, self._is_second = augmenters, is_second

    def __call__(self, waveform: Tensor, *, epoch: int, index: int) -> Tensor:
        """Return the augmented waveform, (time,) float32, as `Augmenter` does."""
        augment = self._augmenters[int(self._is_second[index])]
        return waveform if augment is None else augment(waveform, epoch=epoch, index=index)


class Augmenter:
    """Applies reverberation, noise and gain."""

    def __init__(
        self, config: AugmentConfig, audio: AudioConfig, *, seed: int, read: Callable[[Path], Manifest] = read_manifest
    ) -> None:
        """Read the manifests in `config` with `read`; their audio is read later, as `audio` says.

        Raises:
            ManifestError: a manifest cannot be read.
        """
        self.config, self.audio, self.seed = config, replace(audio, normalize=False), seed
        self.rooms, self.noise = _rows(config.rooms, read), _rows(config.noise, read)

    def __call__(self, waveform: Tensor, *, epoch: int, index: int) -> Tensor:
        """Return the augmented waveform, (time,) float32.

        Args:
            waveform: (time,) float32, 16 kHz; may be written to.
            epoch: the epoch.
            index: index of the utterance in the manifest.

        Raises:
            AudioError: an impulse response or noise cannot be read.
        """
        generator = seeded_generator(self.seed, "augment", epoch, index)
        is_in_room, is_noisy, which, where, level, gain = torch.rand(6, generator=generator).tolist()
        samples = waveform.numpy()
        if self.rooms and is_in_room < self.config.room_prob:
            samples = self._in_room(samples, which)
        if self.noise and is_noisy < self.config.noise_prob:
            pick = float(torch.rand((), generator=generator))
            self._add_noise(samples, pick, where, _between(self.config.snr_db, level))
        if self.config.gain_db != (0.0, 0.0):
            samples *= np.float32(10 ** (_between(self.config.gain_db, gain) / 20))
        return torch.from_numpy(samples)

    def _in_room(self, samples: NDArray[np.float32], draw: float) -> NDArray[np.float32]:
        manifest, row = self.rooms[int(draw * len(self.rooms))]
        return in_room(samples, read_utterance(manifest, row, self.audio).numpy())

    def _add_noise(self, samples: NDArray[np.float32], draw: float, where: float, snr_db: float) -> None:
        manifest, row = self.noise[int(draw * len(self.noise))]
        room = row.num_samples_16k - len(samples)
        start = int(where * (room + 1)) if room > 0 else 0
        count = len(samples) if room > 0 else None
        noise = read_utterance(manifest, row, self.audio, start=start, num_samples=count).numpy()
        noise = np.resize(noise, len(samples))  # repeats noise that is too short
        if power(noise) > 0:
            samples += noise * noise_scale(samples, noise, snr_db)


def change_speed(
    manifest: Manifest, row: Utterance, audio: AudioConfig, speed: Fraction, *, start: int, num_samples: int
) -> Tensor:
    """Read a part of an utterance at another speed.

    Args:
        manifest: the manifest that lists the utterance.
        row: the utterance.
        audio: how audio is read.
        speed: factor; above 1 is faster and higher.
        start: first sample wanted, counted at the new speed.
        num_samples: number of samples wanted, at the new speed.

    Returns:
        (time,) float32, identical to that part of the whole utterance at the new speed.
    """
    down, up = speed.numerator, speed.denominator
    first = max(0, (start * down // up - _CONTEXT) // down * down)  # falls on a whole sample at both speeds
    last = min(row.num_samples_16k, -(-(start + num_samples) * down // up) + _CONTEXT)
    is_whole = first == 0 and last == row.num_samples_16k
    waveform = read_utterance(manifest, row, audio, start=first, num_samples=None if is_whole else last - first)
    resampled = at_speed(waveform, speed)[start - first * up // down :]
    return resampled[:num_samples].contiguous()


def _rows(paths: Sequence[Path], read: Callable[[Path], Manifest]) -> list[tuple[Manifest, Utterance]]:
    return [(manifest, row) for manifest in map(read, paths) for row in manifest.utterances]


def _between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] + draw * (bounds[1] - bounds[0])
