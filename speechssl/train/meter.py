"""Averages of figures between two reports, over steps, micro-batches and ranks."""

import resource
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from speechssl.parallel import Ranks

__all__ = ["Meter", "peak_memory_gib"]


class Meter:
    """Sums of figures with the number of values in each; they stay on their device until the report."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, totals: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        """Add sums of figures, () each, with the number of their values; not fetched, or the next step would wait."""
        for name, total in totals.items():
            total = total.detach().to(self.ranks.device, torch.float64, non_blocking=True)
            self.totals[name] = self.totals[name] + total if name in self.totals else total
            self.counts[name] = self.counts.get(name, 0) + counts[name]

    def report(self) -> dict[str, float]:
        """Return the averages over all ranks and start anew; a figure without values is left out. All ranks call it."""
        sums = self.state()
        self.totals, self.counts = {}, {}
        means = {name: total / count for name, (total, count) in sums.items() if count > 0}
        return {name: means[name] for name in ("loss", *means) if name in means}  # the loss first

    def state(self) -> dict[str, list[float]]:
        """Return sums and counts over all ranks, for a checkpoint between two reports. All ranks call it."""
        if not self.totals:
            return {}
        names = sorted(self.totals)
        counts = torch.tensor([self.counts[name] for name in names], dtype=torch.float64, device=self.ranks.device)
        sums = self.ranks.sum(torch.stack([torch.stack([self.totals[name] for name in names]), counts], 1))
        return dict(zip(names, sums.tolist(), strict=True))

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Go on from what `state` returned, in any number of ranks."""
        for name, (total, count) in state.items():
            mine = (total, int(count)) if self.ranks.is_first else (0.0, 0)
            self.totals[name] = torch.tensor(mine[0], dtype=torch.float64, device=self.ranks.device)
            self.counts[name] = mine[1]


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory that was in use so far: the accelerator's tensors, or what is resident of the process."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
