"""Autoregressive predictive coding as a task of speechssl, in a package of its own: an example of how one is added.

Chung et al., "An Unsupervised Autoregressive Model for Speech Representation Learning" (arXiv:1904.03240), predict the
spectrum of frames ahead from all frames before. Their network runs forwards; speechssl's trunk looks both ways, so the
future is hidden from it: of each utterance all frames are masked from one that is drawn on, and the first few of them
are predicted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import configuration
from speechssl.data.batching import Batch
from speechssl.errors import ConfigError
from speechssl.model.context import StepContext
from speechssl.model.encoder import Encoded, EncoderConfig, SpeechEncoder
from speechssl.model.host import send
from speechssl.tasks.flops import Product
from speechssl.tasks.health import FLAT_FEATURES, LOST_GROUND, NO_GRADIENT, SAME_FEATURES, Band, Health
from speechssl.tasks.model import LossSum
from speechssl.tasks.pretraining import Objective, PretrainModel
from speechssl.tasks.task import DataSizes, Planned, Planning, Task

__all__ = ["TASK", "APCConfig", "APCObjective"]


@configuration
class APCConfig:
    """What is predicted of the future."""

    kind: Literal["apc"] = "apc"
    ahead: int = 5  # frames that are predicted, the first that are hidden
    bands: int = 40  # of the spectrum, equally wide
    seen: tuple[float, float] = (0.3, 0.9)  # share of an utterance that is not hidden: drawn between the two

    def __post_init__(self) -> None:
        if min(self.ahead, self.bands) < 1 or not 0 < self.seen[0] <= self.seen[1] < 1:
            raise ConfigError(
                "objective.ahead and objective.bands must be 1 or more, and objective.seen two ascending shares "
                f"between 0 and 1; found {self.ahead}, {self.bands} and {self.seen}"
            )


class APCObjective(Objective):
    """L1 distance between the spectrum of the first hidden frames and what the trunk makes of the frames before."""

    def __init__(self, config: APCConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.config, self.hop, self.window = config, encoder.hop, encoder.window
        self.predict = nn.Linear(encoder.transformer.dim, config.bands)

    def draw_masks(self, counts: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Hide each row from a frame on that is drawn: (batch, frames) bool, on the host."""
        low, high = self.config.seen
        share = low + (high - low) * torch.rand(len(counts), generator=generator)
        first = (counts * share).long().clamp(min=1)
        return torch.arange(size) >= first[:, None]

    def forward(self, encoded: Encoded, is_masked: Tensor, batch: Batch, context: StepContext) -> LossSum:
        """Score one batch; see `Objective.forward`.

        Returns:
            The loss summed over the predicted frames, averaged over bands, with their number.
        """
        device = encoded.last.device
        hidden_before = is_masked.cumsum(1) - is_masked.long()  # (batch, frames)
        is_predicted = send(is_masked & encoded.is_valid & (hidden_before < self.config.ahead), device)
        target = self.spectrum(batch.waveforms, send(encoded.is_valid, device))[is_predicted]  # (predicted, bands)
        predicted = self.predict(encoded.last[is_predicted]).float()
        loss = (predicted - target).abs().mean(-1).sum()
        count = is_predicted.sum()
        parts = {"apc_loss": loss.detach() / count.clamp(min=1), "spectrum_size": target.abs().mean()}
        return LossSum(value=loss, count=count, parts=parts)

    @torch.no_grad()
    def spectrum(self, waveforms: Tensor, is_valid: Tensor) -> Tensor:
        """Return the logarithm of the power in each band, of zero mean and unit variance in each utterance.

        Args:
            waveforms: (batch, time).
            is_valid: (batch, frames) bool.

        Returns:
            (batch, frames, bands) float32; anything in the padding.
        """
        frames = waveforms.float().unfold(1, self.window, self.hop)[:, : is_valid.shape[1]]  # (batch, frames, window)
        power = torch.fft.rfft(frames * torch.hann_window(self.window, device=frames.device)).abs().square()
        bands = functional.adaptive_avg_pool1d(power, self.config.bands).add(1e-6).log()
        weights = is_valid[..., None].float()
        number = weights.sum(1, keepdim=True).clamp(min=1)
        mean = (bands * weights).sum(1, keepdim=True) / number
        variance = ((bands - mean).square() * weights).sum(1, keepdim=True) / number
        return (bands - mean) * (variance + 1e-6).rsqrt()

    def health(self) -> Health:
        """Say what a healthy run looks like."""
        bands = (NO_PREDICTION, LOST_GROUND, SAME_FEATURES, FLAT_FEATURES, NO_GRADIENT)
        return Health(bands=bands, loss="apc_loss", signs=_signs)


def _signs(values: Mapping[str, float]) -> dict[str, float]:
    """Compare the loss with that of predicting the mean of each band, which is zero."""
    known = "apc_loss" in values and values.get("spectrum_size", 0) > 0
    return {"loss_of_mean": values["apc_loss"] / values["spectrum_size"]} if known else {}


NO_PREDICTION = Band(
    name="no_prediction",
    sign="loss_of_mean",
    shown="loss, as a share of that of predicting the mean spectrum",
    high=0.98,
    is_early=False,
    seen="0.84 after 150 steps and 0.71 after 400 (apc.yaml on festvox-ru, 1.3 h). At four times its learning rate the "
    "features went flat by step 150, and 0.96 was left after 550",
    likely="the past teaches nothing: a learning rate too low or too high, or near-silent audio",
    change="listen to some of data.manifests, try another optim.lr, lower objective.ahead",
)


class APCTask(Task):
    """What speechssl asks of autoregressive predictive coding."""

    kind = "apc"
    method = "apc"
    title = "APC (prediction of the spectrum of frames ahead)"
    config_type = APCConfig
    planning = Planning(
        sizes={"small": Planned(config=APCConfig(ahead=3), max_grad_norm=1.0, cpu_audio_s=84.0, lr=(32, 5e-4))}
    )

    def build(self, config: APCConfig, encoder: SpeechEncoder, sizes: DataSizes) -> PretrainModel:
        """Put the prediction on a trunk.

        Raises:
            LabelError: labels are given, which it would pass over.
        """
        self.check(sizes)
        return PretrainModel(encoder, APCObjective(config, encoder.config))

    def head_keys(self, config: APCConfig) -> Sequence[str]:
        """Name the number of bands, which the head has one output for each of."""
        return ["bands"]

    def products(
        self, config: Any, encoder: EncoderConfig, clusters: Sequence[int], *, frames: int, utterances: int = 1
    ) -> list[Product]:
        """List the one product of the head."""
        return [Product("heads", config.ahead, encoder.transformer.dim, config.bands)]


TASK = APCTask()
