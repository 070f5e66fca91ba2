"""Log-mel energies of a padded batch, by the equations of Kaldi's filter banks at their defaults, without dither.

A frame depends on its own 25 ms of audio only, so nothing depends on the padding or on the other utterances.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.errors import ConfigError
from speechssl.model.frames import frame_count, within

__all__ = ["FREQUENCIES", "HOP", "WINDOW", "LogMel", "check_bins", "stacked", "stacked_log_mel", "without_mean"]

HOP = 160  # samples at 16 kHz, 10 ms
WINDOW = 400  # samples, 25 ms
_MOST_BINS = 100  # with more, filters lie between two frequencies of the spectrum and are empty
_FFT = 512
FREQUENCIES = _FFT // 2 + 1  # of the spectrum
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 8000.0
_PRE_EMPHASIS = 0.97
_AT_ONCE = 1024  # frames that a CPU computes together, so that they stay in the cache
_FLOOR = torch.finfo(torch.float32).eps  # of an energy, for silence


class LogMel(nn.Module):
    """Log-mel energies of waveforms; it has no weights and saves nothing."""

    window: Tensor
    filters: Tensor

    def __init__(self, bins: int = 80) -> None:
        """Prepare the window and the triangular filters.

        Args:
            bins: number of filters, equally wide in mel from 20 Hz to 8 kHz.
        """
        super().__init__()
        self.bins = bins
        window = torch.hann_window(WINDOW, periodic=False, dtype=torch.float64).pow(0.85)  # Kaldi's "povey"
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", _filters(bins).float(), persistent=False)  # (257, bins)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map (batch, time) waveforms at 16 kHz to (batch, (time - 400) // 160 + 1, bins) float32."""
        if waveforms.shape[1] < WINDOW:
            return waveforms.new_zeros(len(waveforms), 0, self.bins, dtype=torch.float32)
        with torch.autocast(waveforms.device.type, enabled=False):
            frames = waveforms.float().unfold(1, WINDOW, HOP)  # (batch, frames, 400)
            if frames.device.type != "cpu":
                return self._energies(frames)
            parts = frames.split(max(1, _AT_ONCE // len(frames)), 1)
            return torch.cat([self._energies(part) for part in parts], 1)

    def _energies(self, frames: Tensor) -> Tensor:
        """Map (batch, frames, 400) windows of samples to (batch, frames, bins)."""
        frames = frames - frames.mean(-1, keepdim=True)
        before = functional.pad(frames, (1, 0), mode="replicate")[..., :-1]
        frames = frames.sub(before, alpha=_PRE_EMPHASIS) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames, _FFT))
        return (spectrum.square().sum(-1) @ self.filters).clamp(min=_FLOOR).log()


def check_bins(key: str, bins: int) -> None:
    """Check the number of filters that a key of a recipe asks for.

    Raises:
        ConfigError: there are none, or some would be empty.
    """
    if not 1 <= bins <= _MOST_BINS:
        raise ConfigError(f"{key} must lie between 1 and {_MOST_BINS}, found {bins}")


def without_mean(energies: Tensor, num_samples: Tensor) -> Tensor:
    """Subtract each utterance's mean over its own frames from every bin, which takes off loudness and channel.

    Args:
        energies: (batch, frames, bins) output of `LogMel`.
        num_samples: (batch,) int64, real samples of each row, on the device of the energies.

    Returns:
        (batch, frames, bins); the frames in the padding are zero.
    """
    counts = _count(num_samples)
    is_padding = ~within(counts, energies.shape[1])[..., None]  # which may hold NaN
    mean = energies.masked_fill(is_padding, 0).sum(1, keepdim=True) / counts.clamp(min=1)[:, None, None]
    return (energies - mean).masked_fill(is_padding, 0)


def stacked(hop: int) -> int:
    """Return how many log-mel frames are stacked for a frame of an encoder: as many as fit into its hop, at least one.

    Examples:
        >>> stacked(640), stacked(320), stacked(80)
        (4, 2, 1)
    """
    return max(1, round(hop / HOP))


def stacked_log_mel(energies: Tensor, num_samples: Tensor, *, hop: int, window: int, frames: int) -> Tensor:
    """Concatenate the log-mel frames around each frame of an encoder.

    They are centred in its receptive field as well as a grid of 10 ms allows. At the ends of an utterance its own first
    or last log-mel frame stands for what would lie outside.

    Args:
        energies: (batch, log-mel frames, bins) output of `LogMel`.
        num_samples: (batch,) int64, real samples of each row, on the device of the energies.
        hop: samples from one frame of the encoder to the next.
        window: receptive field of a frame of the encoder, in samples.
        frames: number of frames of the encoder in the padded batch.

    Returns:
        (batch, frames, bins * stacked(hop)).
    """
    number, device = stacked(hop), energies.device
    around = HOP * (2 * torch.arange(number, device=device) - number + 1)
    # twice the distance, in samples, from the centre of the first log-mel frame to that of each one stacked
    doubled = 2 * hop * torch.arange(frames, device=device)[:, None] + around + window - WINDOW  # (frames, number)
    nearest = ((doubled + HOP) // (2 * HOP)).clamp(min=0).flatten()  # the later one of two that are as near
    last = (_count(num_samples) - 1).clamp(min=0)
    places = nearest.minimum(last[:, None])  # (batch, frames * number)
    taken = energies.gather(1, places[..., None].expand(-1, -1, energies.shape[2]))
    return taken.reshape(len(energies), frames, -1)


def _count(num_samples: Tensor) -> Tensor:
    return frame_count(num_samples, ((1, WINDOW, HOP),))


def _filters(bins: int) -> Tensor:
    """Return the (257, bins) float64 weights of the powers at 0, 31.25, ..., 8000 Hz in each filter."""
    frequencies = torch.arange(FREQUENCIES, dtype=torch.float64) * 16_000 / _FFT
    lowest, highest = _mel(_LOWEST_HZ), _mel(_HIGHEST_HZ)
    centres = torch.linspace(lowest, highest, bins + 2, dtype=torch.float64)
    position = 1127 * (1 + frequencies / 700).log()
    rising = (position[:, None] - centres[:-2]) / (centres[1:-1] - centres[:-2])
    falling = (centres[2:] - position[:, None]) / (centres[2:] - centres[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def _mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)
