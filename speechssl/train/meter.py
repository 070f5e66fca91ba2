"""Averages of metrics, and sums of tallies, between two reports over steps, micro-batches and ranks."""

import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from speechssl.parallel import Ranks
from speechssl.tasks.metrics import report_metrics

__all__ = ["Meter", "peak_memory_gib"]


class Meter:
    """Accumulates sums and counts of metrics, and tallies, on the device until the next report."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.tallies: dict[str, Tensor] = {}

    def add(
        self, totals: Mapping[str, Tensor], counts: Mapping[str, int], tallies: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add sums of metrics, () each, with the number of their values, and tallies of any shape.

        This copies nothing to the host, to avoid a synchronisation in every step.
        """
        for name, total in totals.items():
            self._sum(self.totals, name, total)
            self.counts[name] = self.counts.get(name, 0) + counts[name]
        for name, tally in (tallies or {}).items():
            self._sum(self.tallies, name, tally)

    def report(self) -> dict[str, float]:
        """Return the averages over all ranks and the metrics of the tallies, and reset; all ranks have to call it.

        Metrics without values are left out.
        """
        sums, tallies = self._sums(), self._tallies()
        self.totals, self.counts, self.tallies = {}, {}, {}
        means = {name: total / count for name, (total, count) in sums.items() if count > 0}
        means |= {name: float(value) for name, value in report_metrics(tallies).items()}
        return {name: means[name] for name in ("loss", *means) if name in means}  # "loss" comes first

    def state(self) -> dict[str, Any]:
        """Return sums, counts and tallies over all ranks, for a checkpoint; all ranks have to call it."""
        return {"sums": self._sums(), "tallies": {name: tally.tolist() for name, tally in self._tallies().items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state`, on any number of ranks."""
        share = 1 if self.ranks.is_first else 0
        for name, (total, count) in state.get("sums", {}).items():
            self._sum(self.totals, name, torch.tensor(total * share, dtype=torch.float64))
            self.counts[name] = int(count) * share
        for name, tally in state.get("tallies", {}).items():
            self._sum(self.tallies, name, torch.tensor(tally, dtype=torch.float64) * share)

    def _sum(self, sums: dict[str, Tensor], name: str, values: Tensor) -> None:
        values = values.detach().to(self.ranks.device, torch.float64, non_blocking=True)
        sums[name] = sums[name] + values if name in sums else values

    def _sums(self) -> dict[str, list[float]]:
        """Return sum and count of each metric, over all ranks."""
        if not self.totals:
            return {}
        names = sorted(self.totals)
        counts = torch.tensor([self.counts[name] for name in names], dtype=torch.float64, device=self.ranks.device)
        sums = self.ranks.sum(torch.stack([torch.stack([self.totals[name] for name in names]), counts], 1))
        return dict(zip(names, sums.tolist(), strict=True))

    def _tallies(self) -> dict[str, Tensor]:
        """Return each tally, over all ranks."""
        return {name: self.ranks.sum(self.tallies[name]) for name in sorted(self.tallies)}


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory so far: of tensors on an accelerator, else the resident size of the process."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
