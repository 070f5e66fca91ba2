"""SUPERB's learned weighted sum of layers (Yang et al. 2021, arXiv:2105.01051, section 3).

The sum is over the outputs of all Transformer layers and the input of the first, with softmax weights that start equal.
s3prl calls it `Featurizer`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LayerSum", "normalised"]


class LayerSum(nn.Module):
    """Weighted sum of layers."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers))  # before the softmax

    def forward(self, layers: Tensor) -> Tensor:
        """Map (batch, layers, frames, dim) to (batch, frames, dim)."""
        return torch.einsum("blfd,l->bfd", layers, self.shares())

    def shares(self) -> Tensor:
        """Return the (layers,) weights, which add up to 1."""
        return self.weights.softmax(0)


def normalised(layers: Tensor) -> Tensor:
    """Normalise each frame of each layer to mean 0 and variance 1 (s3prl: `normalize`, upstream_feature_normalize).

    There is nothing to learn, so it may be done once, before features are stored or averaged.

    Args:
        layers: (..., dim) float.
    """
    return functional.layer_norm(layers, layers.shape[-1:])
