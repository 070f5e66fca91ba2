"""Extraction of the frames of a stream: each is extracted once, when its last sample has arrived.

The convolutions are local. What is not local, the statistics of the group norm and of the normalisation of the
waveform, is taken over the audio so far: with equal weights for the first `horizon` samples, then with weights that
fall exponentially, with the same time constant. An extracted frame does not change when the statistics do.
"""

import torch
from torch import Tensor

from speechssl.model.conv import ConvFeatureExtractor
from speechssl.model.frames import frame_count, hop_size, receptive_field
from speechssl.model.local_frames import extract_part
from speechssl.model.log_mel import LogMel
from speechssl.model.norm import TimeNorm

__all__ = ["IncrementalFrames"]

_NORMALIZE_EPS = 1e-5  # added to the variance of a waveform, as in `normalize_waveform`


class IncrementalFrames:
    """Samples that arrive in parts, and the frames that can be extracted from them."""

    def __init__(self, conv: ConvFeatureExtractor, *, normalize: bool, horizon: int) -> None:
        """Begin a stream.

        Args:
            conv: the extractor, in evaluation mode.
            normalize: bring the waveform to zero mean and unit variance.
            horizon: number of samples of which the statistics are taken.
        """
        self.conv, self.normalize = conv, normalize
        self.num_samples = 0  # of the stream so far
        self.extracted = 0  # frames
        self._audio = torch.zeros(0)  # from the first sample that a later frame or step depends on
        self._steps = 0  # steps of the first convolution that are in the statistics
        channels, kernel, stride = conv.stack[0]
        # moments of what the first layer's output is linear in: the windows of samples, or the log-mel energies
        dim = channels if isinstance(conv.convs[0], LogMel) else kernel
        self._of_samples, self._of_steps = _Moments(1, horizon), _Moments(dim, horizon / stride)

    @property
    def available(self) -> int:
        """Number of frames that the samples so far have."""
        return frame_count(self.num_samples, self.conv.stack)

    def add(self, samples: Tensor) -> None:
        """Add (time,) float32 samples, on the CPU."""
        self._audio = torch.cat([self._audio, samples])
        self.num_samples += len(samples)
        self._of_samples.add(samples[:, None])
        _, kernel, stride = self.conv.stack[0]
        steps = frame_count(self.num_samples, self.conv.stack[:1])
        if steps > self._steps:
            new, first = self._from(self._steps * stride), self.conv.convs[0]
            if isinstance(first, LogMel):
                self._of_steps.add(first(new[None].to(first.window.device))[0].cpu())
            else:
                self._of_steps.add(new.unfold(0, kernel, stride))
            self._steps = steps

    def extract(self) -> Tensor:
        """Extract the frames that are available and were not extracted before: (frames, channels), at least one."""
        hop, (_, _, stride), frames = hop_size(self.conv.stack), self.conv.stack[0], self.available
        device = next(self.conv.parameters()).device
        waveform = self._from(self.extracted * hop)[
            : (frames - self.extracted - 1) * hop + receptive_field(self.conv.stack)
        ]
        if self.normalize and self.conv.norm == "layer":
            waveform = (waveform - self._of_samples.mean.float()) * self._loudness().rsqrt().float()
        found = extract_part(self.conv, waveform.to(device), self._norm(device))
        self.extracted = frames
        self._audio = self._from(min(frames * hop, self._steps * stride))
        return found

    def _from(self, sample: int) -> Tensor:
        """Return the samples from one of the stream on, which may be the next one to come."""
        return self._audio[sample - (self.num_samples - len(self._audio)) :]

    def _loudness(self) -> Tensor:
        """Return the variance by which the waveform is divided, float64."""
        return self._of_samples.covariance[0, 0] + _NORMALIZE_EPS

    def _norm(self, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Return shift and scale, (channels,) each, that the group norm amounts to; None with layer norm.

        The group norm of a normalised waveform is that of the waveform itself, but for its epsilon. That of log-mel
        energies is the same, but for the energy that stands for digital silence.
        """
        norm, conv = self.conv.norms[0], self.conv.convs[0]
        if not isinstance(norm, TimeNorm):
            return None
        if isinstance(conv, LogMel):
            variance = self._of_steps.covariance.diagonal().clamp(min=0)
            scale = (variance + norm.eps).rsqrt() * norm.weight.double().cpu()
            shift = norm.bias.double().cpu() - self._of_steps.mean * scale
            return shift.float().to(device), scale.float().to(device)
        assert isinstance(conv, torch.nn.Conv1d)
        kernel = conv.weight[:, 0].double().cpu()  # (channels, taps)
        variance = ((kernel @ self._of_steps.covariance) * kernel).sum(1)
        eps = norm.eps * (self._loudness() if self.normalize else 1)
        scale = (variance.clamp(min=0) + eps).rsqrt() * norm.weight.double().cpu()
        mean = kernel @ self._of_steps.mean
        if conv.bias is not None:
            mean = mean + conv.bias.double().cpu()
        shift = norm.bias.double().cpu() - mean * scale
        return shift.float().to(device), scale.float().to(device)


class _Moments:
    """Mean and covariance of vectors that arrive in parts, in float64."""

    def __init__(self, dim: int, horizon: float) -> None:
        """Begin with none; from `horizon` vectors on, older ones count for less."""
        self.horizon = horizon
        self._sums = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)  # of products, the last row and column of a 1

    def add(self, vectors: Tensor) -> None:
        """Add (number, dim)."""
        vectors = torch.nn.functional.pad(vectors.double(), (0, 1), value=1.0)
        self._sums += vectors.T @ vectors
        self._sums *= min(1.0, self.horizon / max(1.0, float(self._sums[-1, -1])))

    @property
    def mean(self) -> Tensor:
        """(dim,) mean."""
        return self._sums[-1, :-1] / self._sums[-1, -1]

    @property
    def covariance(self) -> Tensor:
        """(dim, dim) covariance."""
        return self._sums[:-1, :-1] / self._sums[-1, -1] - self.mean[:, None] * self.mean
