"""What wav2vec 2.0's quantizer sees: the extractor's output or log-mel frames, of the batch or of a changed copy of it.

Extensions of wav2vec 2.0, all off by default. Targets of a copy with another gain and channel are the cheap half of
ccc-wav2vec 2.0 (arXiv:2210.02592): the copy passes through the extractor only, and the Transformer's output of the
batch itself is compared with it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.model.frames import frame_count, within
from speechssl.model.log_mel import HOP, WINDOW, LogMel, check_bins, stacked_log_mel, without_mean

__all__ = ["CopyConfig", "LogMelTargetConfig", "changed_copy", "frame_loudness", "log_mel_targets"]

_LEAST_POWER = 1e-6  # mean square of log-mel energies minus their mean, in nats squared; digital silence has 0


@configuration
class LogMelTargetConfig:
    """Log-mel frames as targets: the mean of the utterance is subtracted from each bin."""

    bins: int = 40
    level: bool = True  # keep the mean over the bins of each frame, its loudness; False: it is subtracted, too

    def __post_init__(self) -> None:
        check_bins("objective.log_mel.bins", self.bins)


@configuration
class CopyConfig:
    """Random gain and channel of the copy whose frames are the targets in training; all zero: no copy is made."""

    gain_db: float = 0.0  # gains are drawn between minus and plus this, in dB
    gain_every_s: float = 0.5  # seconds between gains, linear in dB in between; a constant one is lost in group norms
    tilt: float = 0.0  # the filter y[t] = x[t] + a x[t - 1], a of each utterance between minus and plus this

    def __post_init__(self) -> None:
        if self.gain_db < 0 or self.gain_every_s <= 0 or not 0 <= self.tilt < 1:
            raise ConfigError(
                "objective.copy: expected gain_db of 0 or more, gain_every_s above 0 and tilt from 0 to below 1, found "
                f"{self.gain_db}, {self.gain_every_s} and {self.tilt}"
            )

    @property
    def is_on(self) -> bool:
        """Whether a copy differs from the batch."""
        return self.gain_db > 0 or self.tilt > 0


def changed_copy(waveforms: Tensor, config: CopyConfig, generator: torch.Generator) -> Tensor:
    """Return (batch, time) waveforms with random gain and channel.

    Args:
        waveforms: (batch, time) float.
        config: strength of the changes.
        generator: random generator on the device of `waveforms`.
    """
    batch, time = waveforms.shape
    between = config.gain_every_s * 16_000  # samples from one gain to the next
    knots = int(time / between) + 2
    draws = torch.rand((batch, knots + 1), device=waveforms.device, generator=generator) * 2 - 1
    before = functional.pad(waveforms, (1, 0))[:, :-1]
    tilted = waveforms + config.tilt * draws[:, :1] * before
    position = torch.arange(time, device=waveforms.device) / between
    left = position.long()  # (time,), the knot before each sample
    gains = config.gain_db * draws[:, 1:]  # (batch, knots)
    gain_db = torch.lerp(gains.index_select(1, left), gains.index_select(1, left + 1), (position - left)[None])
    return tilted * 10 ** (gain_db / 20)


def log_mel_targets(
    waveforms: Tensor,
    num_samples: Tensor,
    log_mel: LogMel,
    config: LogMelTargetConfig,
    *,
    hop: int,
    window: int,
    frames: int,
) -> Tensor:
    """Return the log-mel frames around each frame of the encoder, (batch, frames, bins * stacked) float32.

    Their mean square over the frames of an utterance is one: one number scales all bins, since a scale of each would
    raise those that a recording does not fill.

    Args:
        waveforms: (batch, time) float; padding may hold anything.
        num_samples: (batch,) int64, real samples of each row, on the device of `waveforms`.
        log_mel: computes the energies.
        config: what is subtracted.
        hop: samples from one frame of the encoder to the next.
        window: receptive field of a frame of the encoder, in samples.
        frames: number of frames of the encoder in the padded batch.
    """
    waveforms = waveforms.masked_fill(~within(num_samples, waveforms.shape[1]), 0)  # 0 * NaN is NaN
    energies = without_mean(log_mel(waveforms), num_samples)  # zero in the padding
    if not config.level:
        energies = energies - energies.mean(-1, keepdim=True)
    counts = frame_count(num_samples, ((1, WINDOW, HOP),)).clamp(min=1) * log_mel.bins
    scale = (energies.square().sum((1, 2)) / counts).clamp(min=_LEAST_POWER).sqrt()  # (batch,)
    return stacked_log_mel(energies / scale[:, None, None], num_samples, hop=hop, window=window, frames=frames)


def frame_loudness(waveforms: Tensor, *, hop: int, window: int) -> Tensor:
    """Return the mean square of each frame's receptive field, (batch, frames) float32; undefined in the padding."""
    with torch.autocast(waveforms.device.type, enabled=False):
        power = waveforms.float().square()[:, None]
        return functional.avg_pool1d(power, window, hop)[:, 0]
