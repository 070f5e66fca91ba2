"""What objectives of masked prediction share: weights of masked and unmasked frames, and the extractor's penalty."""

from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.model.encoder import Encoded
from speechssl.model.host import frames_where

__all__ = ["check_frame_weights", "feature_penalty", "weighted_frames"]


def check_frame_weights(masked: float, unmasked: float) -> None:
    """Check the weights of a configuration.

    Raises:
        ConfigError: one is negative, or both are 0.
    """
    if min(masked, unmasked) < 0 or max(masked, unmasked) == 0:
        raise ConfigError(
            "objective.masked_weight and objective.unmasked_weight must not be negative, and one of them above 0; "
            f"found {masked} and {unmasked}"
        )


def weighted_frames(
    is_masked: Tensor, is_valid: Tensor, *, masked: float, unmasked: float
) -> dict[str, tuple[Tensor, float]]:
    """Return the (batch, frames) bool places of masked and unmasked frames, each with its weight, by name."""
    return {"masked": (is_masked & is_valid, masked), "unmasked": (~is_masked & is_valid, unmasked)}


def feature_penalty(encoded: Encoded) -> Tensor:
    """Return the mean square of the extractor's output over valid frames, the same under all masks: () float32."""
    return frames_where(encoded.conv, encoded.is_valid[: len(encoded.conv)]).float().square().mean()
