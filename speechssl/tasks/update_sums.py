"""Sums over the micro-batches and ranks of one update, for codebooks that follow the frames without a gradient."""

import torch
from torch import Tensor, distributed

__all__ = ["UpdateSums"]


class UpdateSums:
    """Sums of one update on this rank; not saved, since checkpoints lie between updates."""

    def __init__(self) -> None:
        self.step, self.total = -1, torch.zeros(())

    def add(self, part: Tensor, step: int) -> None:
        """Add the part of a micro-batch; the first of an update removes those of a skipped one.

        Args:
            part: any shape, the same in every call.
            step: number of updates before this one, as in `StepContext`.
        """
        self.total = self.total + part if step == self.step else part
        self.step = step

    def take(self, step: int, *, like: Tensor) -> Tensor:
        """Return the sum over all ranks, and forget it.

        Args:
            step: number of updates before the one whose sum is taken; zeros if nothing was added in it.
            like: a tensor of the shape, type and device of the sum.
        """
        total = self.total if self.step == step else torch.zeros_like(like)
        self.step = -1
        if distributed.is_available() and distributed.is_initialized():
            total = total.clone()
            distributed.all_reduce(total)
        return total
