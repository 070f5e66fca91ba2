"""Log-mel energies of a padded batch, by the equations of Kaldi's filter banks at their defaults, without dither.

A frame depends on its own 25 ms of audio only, so nothing depends on the padding or on the other utterances.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["HOP", "WINDOW", "LogMel"]

HOP = 160  # samples at 16 kHz, 10 ms
WINDOW = 400  # samples, 25 ms
_FFT = 512
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 8000.0
_PRE_EMPHASIS = 0.97
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
            frames = frames - frames.mean(-1, keepdim=True)
            before = functional.pad(frames, (1, 0), mode="replicate")[..., :-1]
            frames = torch.addcmul(frames, before, self.window.new_tensor(-_PRE_EMPHASIS)) * self.window
            spectrum = torch.view_as_real(torch.fft.rfft(frames, _FFT))
            return (spectrum.square().sum(-1) @ self.filters).clamp(min=_FLOOR).log()


def _filters(bins: int) -> Tensor:
    """Return the (257, bins) float64 weights of the powers at 0, 31.25, ..., 8000 Hz in each filter."""
    frequencies = torch.arange(_FFT // 2 + 1, dtype=torch.float64) * 16_000 / _FFT
    lowest, highest = _mel(_LOWEST_HZ), _mel(_HIGHEST_HZ)
    centres = torch.linspace(lowest, highest, bins + 2, dtype=torch.float64)
    position = 1127 * (1 + frequencies / 700).log()
    rising = (position[:, None] - centres[:-2]) / (centres[1:-1] - centres[:-2])
    falling = (centres[2:] - position[:, None]) / (centres[2:] - centres[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def _mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)
