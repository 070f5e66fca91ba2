"""Random-projection quantizer: maps log-mel frames to codes without learning them from the loss.

Section 3.1 of BEST-RQ (arXiv:2202.01855): a frozen random matrix projects a stack of log-mel frames, whose code is the
nearest entry of a frozen random codebook, both scaled to length one. Xu et al. (arXiv:2606.30671) replace the random
matrix by principal components and update the codebook; here, the components are whitened, and the entries follow moving
averages of their frames. Both are estimated from the training batches and are equal on all ranks.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count, within
from speechssl.model.host import send
from speechssl.model.log_mel import HOP, WINDOW, LogMel, check_bins, stacked, stacked_log_mel, without_mean
from speechssl.tasks.update_sums import UpdateSums

__all__ = ["CodebookConfig", "RandomQuantizer"]

_LEAST_VARIANCE = 1e-4  # of a whitened component, relative to the first one: less is rounding error
_TINY = 1e-5  # below every variance of log-mel energies that matters
_DEAD_SHARE = 0.02  # an entry is dead if it is used less often than this share of the mean
_STEP_OF_DEAD = 0.1  # distance from a frequent entry at which a dead one is placed


@configuration
class CodebookConfig:
    """Log-mel frames, projection and codebooks; the defaults are those of BEST-RQ."""

    number: int = 1  # codebooks, each with a random projection and a head of its own
    entries: int = 8192  # entries of each codebook
    dim: int = 16  # dimension of the projected frames
    bins: int = 80  # log-mel filters
    # what an utterance's log-mel frames lose before they are stacked: the mean of each bin over the utterance, which
    # carries channel and loudness; also the standard deviation of each bin; nothing
    normalize: Literal["mean", "mean_and_variance", "none"] = "mean"
    # random: Xavier uniform; pca: whitened principal components, in which loudness weighs no more than other directions
    projection: Literal["random", "pca"] = "random"
    pca_steps: int = 64  # steps from whose frames the components are estimated, again after 1, 2, 4, ... of them
    update: Literal["none", "ema"] = "none"  # whether entries stay as drawn, or follow the mean of their frames
    decay: float = 0.99  # of the moving averages per step, with update=ema
    seed: int = 0  # seed of projections and codebooks, which depend on nothing else

    def __post_init__(self) -> None:
        check_bins("objective.codebook.bins", self.bins)
        if min(self.number, self.dim, self.pca_steps) < 1 or self.entries < 2:
            raise ConfigError(
                "objective.codebook.number, dim and pca_steps must be 1 or more and entries 2 or more, found "
                f"{self.number}, {self.dim}, {self.pca_steps} and {self.entries}"
            )
        if not 0 <= self.decay < 1:
            raise ConfigError(f"objective.codebook.decay must be at least 0 and below 1, found {self.decay}")
        if not -(2**63) <= self.seed < 2**64:
            raise ConfigError(f"objective.codebook.seed must have 64 bits at most, found {self.seed}")


class RandomQuantizer(nn.Module):
    """Codes of log-mel frames at the encoder's frame rate, in float32 even under autocast."""

    projections: Tensor  # (codebooks, in_dim, dim) float32
    mean: Tensor  # (in_dim,) float32, subtracted before the projection
    entries: Tensor  # (codebooks, entries, dim) float32, directions
    is_fitted: Tensor  # () bool, whether the principal components are final
    frame_sums: Tensor  # (in_dim + 1, in_dim + 1) float64, sum of outer products of frames, with a 1 appended to each
    counts: Tensor  # (codebooks, entries) float64, moving average of the number of frames of each entry
    sums: Tensor  # (codebooks, entries, dim) float64, that of the sum of their directions

    def __init__(self, config: CodebookConfig, encoder: EncoderConfig) -> None:
        """Draw projections and codebooks from the configured seed.

        Raises:
            ConfigError: there are fewer log-mel values in a frame than principal components.
        """
        super().__init__()
        self.config, self.hop, self.window = config, encoder.hop, encoder.window
        self.log_mel = LogMel(config.bins)
        in_dim = stacked(encoder.hop) * config.bins
        if config.projection == "pca" and config.dim > in_dim:
            raise ConfigError(
                f"objective.codebook.dim is {config.dim}, but a frame has only {in_dim} log-mel values; lower it, or "
                "raise objective.codebook.bins"
            )
        generator = torch.Generator().manual_seed(config.seed)
        shape = (config.number, in_dim, config.dim)
        bound = math.sqrt(6 / (in_dim + config.dim))  # Xavier uniform
        drawn = torch.rand(shape, generator=generator, device="cpu") * 2 * bound - bound
        self.register_buffer("projections", drawn)
        shape = (config.number, config.entries, config.dim)
        drawn = functional.normalize(torch.randn(shape, generator=generator, device="cpu"), dim=-1)
        self.register_buffer("entries", drawn)  # directions
        self.register_buffer("mean", torch.zeros(in_dim))  # taken off before the projection
        self._frames: UpdateSums | None = None
        self._members: UpdateSums | None = None
        if config.projection == "pca":
            self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))
            # number, sum and sum of outer products of the frames so far
            self.register_buffer("frame_sums", torch.zeros(in_dim + 1, in_dim + 1, dtype=torch.float64))
            self._frames = UpdateSums()
            self._is_known_fitted = False
        if config.update == "ema":
            # moving averages of the number and the sum of the frames of each entry
            self.register_buffer("counts", torch.ones(shape[:2], dtype=torch.float64))
            self.register_buffer("sums", self.entries.double())
            self._members = UpdateSums()

    def forward(self, waveforms: Tensor, num_samples: Tensor, size: int) -> Tensor:
        """Find the code of each encoder frame.

        Args:
            waveforms: (batch, time) at 16 kHz.
            num_samples: (batch,) int64, on the host.
            size: number of encoder frames of the padded batch.

        Returns:
            (batch, size, codebooks) int64; anything in the padding.
        """
        return self.codes(self.frames(waveforms, num_samples, size))

    @torch.no_grad()
    def frames(self, waveforms: Tensor, num_samples: Tensor, size: int) -> Tensor:
        """Compute the stacked log-mel frames; arguments as for `forward`.

        Returns:
            (batch, size, log-mel frames * bins) float32; anything in the padding.
        """
        device = waveforms.device
        if self.window < WINDOW:  # a frame of a short utterance has too little audio: silence follows
            is_padding = send(~within(num_samples, waveforms.shape[1]), device)
            missing = max(WINDOW - waveforms.shape[1], 0)
            waveforms = functional.pad(waveforms.masked_fill(is_padding, 0), (0, missing))
        num_samples = send(num_samples, device).clamp(min=WINDOW)
        mel = self.log_mel(waveforms)  # (batch, mel frames, bins)
        if self.config.normalize != "none":
            mel = without_mean(mel, num_samples)
        if self.config.normalize == "mean_and_variance":
            counts = frame_count(num_samples, [(1, WINDOW, HOP)])[:, None, None]
            mel = mel * (mel.square().sum(1, keepdim=True) / counts + _TINY).rsqrt()
        return stacked_log_mel(mel, num_samples, hop=self.hop, window=self.window, frames=size)

    @torch.no_grad()
    def codes(self, frames: Tensor) -> Tensor:
        """Map (..., in_dim) frames of `frames` to the (..., codebooks) int64 entries of largest cosine."""
        with torch.autocast(frames.device.type, enabled=False):
            projected = self._projected(frames.flatten(0, -2))  # (codebooks, frames, dim)
            nearest = (projected @ functional.normalize(self.entries, dim=-1).mT).argmax(-1)
        return nearest.T.unflatten(0, frames.shape[:-1])

    @torch.no_grad()
    def observe(self, frames: Tensor, codes: Tensor, step: int) -> None:
        """Add the frames of a micro-batch to what `after_step` learns from.

        Args:
            frames: (frames, in_dim) float32, valid ones.
            codes: (frames, codebooks) int64, their entries.
            step: number of updates before this one; the sums of an update that was skipped are dropped.
        """
        with torch.autocast(frames.device.type, enabled=False):
            if self._frames is not None and step < self.config.pca_steps:
                each = functional.pad(frames.double(), (0, 1), value=1.0)
                self._frames.add(each.T @ each, step)
            if self._members is not None:
                number, entries, dim = self.entries.shape
                rows = functional.pad(functional.normalize(self._projected(frames), dim=-1).double(), (0, 1), value=1.0)
                places = codes.T + entries * torch.arange(number, device=codes.device)[:, None]
                sums = rows.new_zeros(number * entries, dim + 1).index_add_(0, places.flatten(), rows.flatten(0, 1))
                self._members.add(sums.view(number, entries, dim + 1), step)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Update components and codebooks from the frames of all ranks.

        Args:
            step: number of updates, including this one and skipped ones.
        """
        if self._frames is not None and not self._is_known_fitted:
            if step <= self.config.pca_steps:
                self.frame_sums += self._frames.take(step - 1, like=self.frame_sums)
            is_last = step >= self.config.pca_steps  # later than that only if the last of these steps was skipped
            if (is_last or step & (step - 1) == 0) and not bool(self.is_fitted):  # after 1, 2, 4, ... steps
                self._fit()
            if is_last:
                self.is_fitted.fill_(True)
                self._is_known_fitted = True
        if self._members is not None:
            number, entries, dim = self.entries.shape
            taken = self._members.take(step - 1, like=self.sums.new_zeros(number, entries, dim + 1))
            self._move_entries(taken[..., :dim], taken[..., dim])

    def _projected(self, frames: Tensor) -> Tensor:
        """Map (frames, in_dim) to (codebooks, frames, dim)."""
        return (frames - self.mean) @ self.projections

    def _fit(self) -> None:
        """Replace the projections by whitened principal components of the frames so far, the same for all codebooks."""
        number = self.frame_sums[-1, -1].clamp(min=1)
        mean = self.frame_sums[-1, :-1] / number
        covariance = self.frame_sums[:-1, :-1] / number - mean[:, None] * mean
        variances, directions = torch.linalg.eigh(covariance.cpu())  # ascending; on the host, the same for all devices
        variances, directions = variances.flip(0)[: self.config.dim], directions.flip(1)[:, : self.config.dim]
        variances = variances.clamp(min=float(variances[0].clamp(min=1e-12)) * _LEAST_VARIANCE)
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        components = directions * largest.sign() / variances.sqrt()  # the sign of a direction is arbitrary
        self.projections.copy_(components.float().expand_as(self.projections))
        self.mean.copy_(mean)

    def _move_entries(self, sums: Tensor, counts: Tensor) -> None:
        """Move entries to the moving averages of their frames, and dead entries next to the most frequent ones.

        Args:
            sums: (codebooks, entries, dim) float64, sums of the unit vectors of the step.
            counts: (codebooks, entries) float64, their numbers.
        """
        decay = self.config.decay
        self.counts.mul_(decay).add_(counts, alpha=1 - decay)
        self.sums.mul_(decay).add_(sums, alpha=1 - decay)
        # dead entries: the least frequent entry is paired with the most frequent one, and so on
        order = self.counts.argsort(dim=-1, descending=True, stable=True)
        partner = order.gather(-1, self.config.entries - 1 - order.argsort(-1))
        halves = self.counts.gather(-1, partner) / 2
        is_dead = (self.counts < _DEAD_SHARE * self.counts.mean(-1, keepdim=True)) & (self.counts < halves)
        is_split = is_dead.gather(-1, partner)
        directions = functional.normalize(self.sums, dim=-1)
        beside = directions.gather(1, partner[..., None].expand_as(directions)) + _STEP_OF_DEAD * directions
        beside = functional.normalize(beside, dim=-1) * halves[..., None]
        self.sums.copy_(torch.where(is_dead[..., None], beside, torch.where(is_split[..., None], 0.5, 1.0) * self.sums))
        self.counts.copy_(torch.where(is_dead, halves, torch.where(is_split, 0.5, 1.0) * self.counts))
        self.entries.copy_(functional.normalize(self.sums, dim=-1))
