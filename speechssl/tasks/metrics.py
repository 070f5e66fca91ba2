"""Metrics that tell a healthy run from a collapsing one, computed on the device of their input.

Metrics that can be averaged over batches go into `LossSum.parts`. The usage of a large codebook cannot, because a batch
holds few of its entries; it is counted in `LossSum.tallies`, which are summed over batches, ranks and the steps of a
report before `report_metrics` evaluates them.
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
    """Return the perplexity of (..., entries) shares or counts: (...) float32, from 1 to entries.

    Examples:
        >>> perplexity(torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]))
        tensor([4., 1.])
    """
    usage = usage.float()
    shares = usage / usage.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.exp(torch.special.entr(shares).sum(-1))


def tally(chosen: Tensor, size: int) -> Tensor:
    """Count how often each number below `size` occurs in an int64 tensor: (size,) float32, exact up to 16 million."""
    flat = chosen.flatten()
    counts = torch.zeros(size, device=flat.device)
    return counts.index_add_(0, flat, torch.ones((), device=flat.device).expand(len(flat)))


def report_metrics(tallies: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the share of used entries and the perplexity of each tally, () float32.

    Args:
        tallies: (..., entries) counts by name, of all batches of a report; leading axes are codebooks.

    Returns:
        `<name>_used`, over all codebooks, and `<name>_perplexity`, the lowest of all codebooks.
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
        at_most: number of frames to sample, evenly spaced over the padded batch; bounds the cost.

    Returns:
        `feature_rank`, the participation ratio, and `feature_cosine`, the mean cosine over all pairs; () float32.
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
    """Return the effective number of dimensions of centred frames, (sum of variances)^2 / sum of squared variances.

    The variances are those along the principal directions. Their sum and the sum of their squares are the trace and the
    squared norm of the covariance, so no decomposition is needed: the cost is one small matrix product, without the
    synchronisation that singular values would need. The result is at most the rank by entropy (Roy and Vetterli 2007),
    which the probe measures.

    Args:
        features: (frames, dim) float32.
        weights: (frames,) float32, 1 for a frame that counts and 0 for one that does not.

    Returns:
        () float32 from 1 to dim; 0 if all frames are equal.
    """
    tiny = torch.finfo(torch.float32).tiny
    weights = weights[:, None]
    mean = (features * weights).sum(0) / weights.sum().clamp(min=1)
    centred = (features - mean) * weights
    power = centred.square().sum()
    is_spread = power > 1e-10 * (features * weights).square().sum()  # a smaller variance is rounding error
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
        values: (rows, values) float; infinite entries are ignored, and so are rows without finite values.
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
        blank: index of the CTC blank.
    """
    return (~((best != blank) & is_valid).any(1)).float().mean()
