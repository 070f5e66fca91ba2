"""What a fit knows of the points before it starts: a sample held in memory, their mean and variance."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from speechssl.parallel import Ranks
from speechssl.units.points import Points, check_finite

__all__ = ["Standard", "draw_sample", "measure_standard"]


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Takes features to the units in which distances are measured: less `mean`, times `scale`."""

    mean: Tensor  # (dim,) float32
    scale: Tensor  # (dim,) float32, a factor

    @classmethod
    def none(cls, dim: int) -> Self:
        """Leave features as they are."""
        return cls(mean=torch.zeros(dim), scale=torch.ones(dim))

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        return type(self)(mean=self.mean.to(device), scale=self.scale.to(device))

    @cached_property
    def is_none(self) -> bool:
        """Whether features stay as they are; found out once, as a GPU has to be waited for."""
        return not bool(self.mean.any()) and bool((self.scale == 1).all())

    def apply(self, features: Tensor) -> Tensor:
        """Return (points, dim) features as float32 in the units of distances; on a GPU, any float type may stay."""
        if self.is_none:
            return features.float() if features.device.type == "cpu" else features
        return (features.float() - self.mean) * self.scale


def draw_sample(points: Points, *, at_most: int, generator: torch.Generator, ranks: Ranks) -> tuple[Tensor, int]:
    """Draw points at random, without replacement: one from each of so many stretches of equal length.

    Args:
        points: of this rank; those of all ranks count as one sequence, in the order of the ranks.
        at_most: how many to draw; all if there are no more.
        generator: source of the draws, on the CPU, the same on every rank.
        ranks: the processes.

    Returns:
        (sample, dim) float32 in random order, so that every beginning of it is a sample too, and the number of points
        of all ranks. Both are the same on every rank.
    """
    lengths = torch.zeros(ranks.world_size, dtype=torch.long, device=ranks.device)
    lengths[ranks.rank] = len(points)
    lengths = ranks.sum(lengths).cpu()
    num_points, first = int(lengths.sum()), int(lengths[: ranks.rank].sum())
    size = min(at_most, num_points)
    edges = torch.arange(size + 1) * num_points // max(size, 1)
    widths = edges.diff()
    rows = edges[:-1] + (torch.rand(size, generator=generator, dtype=torch.float64) * widths).long()
    begin, end = torch.searchsorted(rows, torch.tensor([first, first + len(points)])).tolist()
    own = points.gather(rows[begin:end] - first)
    order = torch.randperm(size, generator=generator).to(own.device)
    if ranks.world_size == 1:
        return own.index_select(0, order), num_points
    sample = torch.zeros(size, points.dim, device=ranks.device)
    sample[begin:end] = own.to(ranks.device)
    return ranks.sum(sample)[order.to(ranks.device)], num_points


def measure_standard(points: Points, ranks: Ranks) -> Standard:
    """Measure mean and standard deviation of every dimension, in one pass over all points of all ranks."""
    moments = torch.zeros(3, points.dim, dtype=torch.float64)
    for block in points.blocks():
        check_finite(block)
        block = block.double()  # its sums are taken where it lies
        count = torch.full((points.dim,), float(len(block)))
        moments += torch.stack([count, block.sum(0).cpu(), block.square().sum(0).cpu()])
    count, total, squares = ranks.sum(moments.to(ranks.device)).cpu()
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0) * count / (count - 1).clamp(min=1)
    return Standard(mean=mean.float(), scale=(1 / variance.sqrt().clamp(min=1e-6)).float())
