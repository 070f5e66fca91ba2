"""Pooling of frames into one vector per utterance: mean, and attentive statistics (Okabe et al. 2018)."""

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["AttentiveStatistics", "MeanPooling", "Pooling", "pooling_of"]

Pooling = Literal["mean", "attentive_statistics"]


class MeanPooling(nn.Module):
    """Mean over valid frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, frames: Tensor, is_valid: Tensor) -> Tensor:
        """Map (batch, frames, dim) with (batch, frames) bool, True for valid frames, to (batch, dim)."""
        weights = is_valid.to(frames.dtype)
        return torch.einsum("bfd,bf->bd", frames, weights / weights.sum(1, keepdim=True))


class AttentiveStatistics(nn.Module):
    """Weighted mean and standard deviation of frames, with weights from a small network (arXiv:1803.10963)."""

    def __init__(self, dim: int, hidden: int = 128) -> None:
        """Build the attention; equation 4 of the paper with tanh and `hidden` units."""
        super().__init__()
        self.dim = 2 * dim
        self.hidden = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, frames: Tensor, is_valid: Tensor) -> Tensor:
        """Map (batch, frames, dim) with (batch, frames) bool, True for valid frames, to (batch, 2 x dim)."""
        scores = self.score(self.hidden(frames).tanh())[..., 0]  # (batch, frames)
        weights = scores.masked_fill(~is_valid, float("-inf")).softmax(1)
        mean = torch.einsum("bfd,bf->bd", frames, weights)
        square = torch.einsum("bfd,bf->bd", (frames - mean[:, None]).square(), weights)  # never below 0
        return torch.cat([mean, (square + 1e-9).sqrt()], 1)  # the root of 0 has no gradient


def pooling_of(kind: Pooling, dim: int) -> MeanPooling | AttentiveStatistics:
    """Build a pooling of (batch, frames, dim)."""
    match kind:
        case "mean":
            return MeanPooling(dim)
        case "attentive_statistics":
            return AttentiveStatistics(dim)
