"""Figures that tell a healthy run from a collapsing one. They are computed on the device of their input and stay there.

What can be averaged over batches goes into `LossSum.parts`. What cannot, because a batch holds few of the entries of
a large codebook, is counted: `LossSum.tallies`, to be added up over batches, ranks and the steps of a report before
`report_metrics` looks at them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "empty_share",
    "feature_metrics",
    "mean_cosine",
    "participation_ratio",
    "perplexity",
    "report_metrics",
    "row_spread",
    "tally",
]


def perplexity(usage: Tensor) -> Tensor:
    """Return exp of the entropy of (..., entries) shares that sum to one, or counts: (...) float32, from 1 to entries.

    Examples:
        >>> perplexity(torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]))
        tensor([4., 1.])
    """
    usage = usage.float()
    shares = usage / usage.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.exp(torch.special.entr(shares).sum(-1))


def tally(chosen: Tensor, size: int) -> Tensor:
    """Count how often each of `size` numbers occurs in an int64 tensor: (size,) float32, exact up to 16 million."""
    flat = chosen.flatten()
    counts = torch.zeros(size, device=flat.device)
    return counts.index_add_(0, flat, torch.ones((), device=flat.device).expand(len(flat)))


def report_metrics(tallies: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the share of entries in use and the perplexity of each tally, () float32.

    Args:
        tallies: (..., entries) counts by name, of all batches of a report; leading axes are codebooks.

    Returns:
        `<name>_used`, over all codebooks, and `<name>_perplexity`, of the codebook with the lowest.
    """
    metrics = {}
    for name, counts in tallies.items():
        metrics[f"{name}_used"] = (counts > 0).float().mean()
        metrics[f"{name}_perplexity"] = perplexity(counts).min()
    return metrics


def feature_metrics(features: Tensor, is_valid: Tensor, *, at_most: int = 512) -> dict[str, Tensor]:
    """Measure how much the frames of a batch differ.

    Args:
        features: (batch, frames, dim).
        is_valid: (batch, frames) bool, False in the padding.
        at_most: frames that are looked at, evenly spaced over the batch, the padding among them; which bounds the cost.

    Returns:
        `feature_rank`, the participation ratio, and `feature_cosine`, the mean over all pairs; () float32.
    """
    chosen = features.detach().flatten(0, 1)
    weights = is_valid.flatten()
    if len(chosen) > at_most:
        places = torch.arange(at_most, device=features.device) * len(chosen) // at_most
        chosen, weights = chosen[places], weights[places]
    with torch.autocast(features.device.type, enabled=False):
        chosen, weights = chosen.float(), weights.float()
        return {
            "feature_rank": participation_ratio(chosen, weights),
            "feature_cosine": mean_cosine(chosen, weights),
        }


def participation_ratio(features: Tensor, weights: Tensor) -> Tensor:
    """Return the effective number of dimensions of frames less their mean, (sum of variances)^2 / sum of squares.

    The variances are those along the principal directions. They need not be found: their sum and the sum of their
    squares are the trace and the squared norm of the covariance. So it costs one small product of matrices and no
    synchronisation with the device, which singular values would; it is at most the rank by entropy (Roy and Vetterli
    2007), which the probe measures.

    Args:
        features: (frames, dim) float32.
        weights: (frames,) float32, 1 for a frame that counts and 0 for one that does not.

    Returns:
        () float32 from 1 to dim; 0 where all frames are equal.
    """
    tiny = torch.finfo(torch.float32).tiny
    weights = weights[:, None]
    mean = (features * weights).sum(0) / weights.sum().clamp(min=1)
    centred = (features - mean) * weights
    power = centred.square().sum()
    is_spread = power > 1e-10 * (features * weights).square().sum()  # the rest is rounding
    centred = centred / power.clamp(min=tiny).sqrt()  # the trace is now one
    small = centred.T @ centred if centred.shape[0] >= centred.shape[1] else centred @ centred.T
    return torch.where(is_spread, 1 / small.square().sum().clamp(min=tiny), 0.0)


def mean_cosine(features: Tensor, weights: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of two different frames, () float32; 0 if there are fewer than two.

    Args:
        features: (frames, dim) float32.
        weights: (frames,) float32, 1 for a frame that counts and 0 for one that does not.
    """
    directions = functional.normalize(features, dim=-1) * weights[:, None]
    number = weights.sum()
    pairs = number * (number - 1)
    return (directions.sum(0).square().sum() - directions.square().sum()) / pairs.clamp(min=1)


def row_spread(values: Tensor) -> Tensor:
    """Return the standard deviation of the finite values of a row, averaged over rows: () float32, without gradient.

    Args:
        values: (rows, values) float; infinite where there is none. Rows without any are left out.
    """
    values = values.detach().float()
    is_finite = torch.isfinite(values)
    values, number = values.masked_fill(~is_finite, 0.0), is_finite.sum(1)
    mean = values.sum(1) / number.clamp(min=1)
    centred = (values - mean[:, None]).masked_fill(~is_finite, 0.0)
    spread = (centred.square().sum(1) / number.clamp(min=1)).sqrt()
    return spread.sum() / (number > 0).sum().clamp(min=1)


def empty_share(best: Tensor, is_valid: Tensor, blank: int) -> Tensor:
    """Return the share of utterances whose greedy transcript is empty, () float32.

    Args:
        best: (batch, frames) int64, the most likely token of each frame.
        is_valid: (batch, frames) bool, False in the padding.
        blank: the token that says nothing.
    """
    return (~((best != blank) & is_valid).any(1)).float().mean()
