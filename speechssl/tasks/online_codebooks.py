"""Online clustering of frames: codebooks whose entries are moving averages of the frames nearest to them.

DinoSR (arXiv:2305.10005, section 3.2): one codebook for each of several layers. The updates are sums over the frames of
all ranks, so that the codebooks stay equal.
"""

import torch
from torch import Tensor, nn

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.tasks.update_sums import UpdateSums

__all__ = ["OnlineCodebookConfig", "OnlineCodebooks"]

DEAD = 0.01  # an entry with less than this share of the average usage is replaced
SPLIT = 0.01  # share of its distance that an unused entry keeps from the entry it is moved to


@configuration
class OnlineCodebookConfig:
    """Size and speed of the codebooks; the defaults are DinoSR's."""

    entries: int = 256
    decay: float = 0.9  # share of an entry that an update keeps

    def __post_init__(self) -> None:
        if self.entries < 2 or not 0 <= self.decay < 1:
            raise ConfigError(
                "objective.codebooks must have entries of 2 or more and a decay from 0 to below 1, found "
                f"entries={self.entries}, decay={self.decay}"
            )


class OnlineCodebooks(nn.Module):
    """One codebook per layer; `entries` and `usage` are part of the checkpoint."""

    entries: Tensor  # (layers, entries, dim)
    usage: Tensor  # (layers, entries), moving average of the frames per update

    def __init__(self, config: OnlineCodebookConfig, layers: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("entries", torch.randn(layers, config.entries, dim))
        self.register_buffer("usage", torch.ones(layers, config.entries))
        self.seen = UpdateSums()  # (layers, entries, dim + 1), of the frames assigned to each entry, and their number

    @torch.no_grad()
    def assign(self, frames: Tensor) -> Tensor:
        """Return the nearest entry of each frame.

        Args:
            frames: (layers, frames, dim) float32.

        Returns:
            (layers, frames) int64.
        """
        with torch.autocast(frames.device.type, enabled=False):
            offset = self.entries.square().sum(-1) / 2  # |z - e|^2 / 2 without the part that all entries share
            return torch.baddbmm(offset[:, None], frames, self.entries.mT, beta=-1).argmax(-1)

    @torch.no_grad()
    def count(self, codes: Tensor) -> Tensor:
        """Count how often each entry is assigned in (layers, frames) int64 codes: (layers, entries) float32."""
        return torch.zeros_like(self.usage).scatter_add_(1, codes, codes.new_ones(codes.shape, dtype=torch.float32))

    @torch.no_grad()
    def gather(self, frames: Tensor, codes: Tensor, step: int) -> None:
        """Add frames to the sums of the update under way; sums of an earlier step, which was skipped, are dropped.

        Args:
            frames: (layers, frames, dim) float32.
            codes: (layers, frames) int64, from `assign`.
            step: number of the step.
        """
        is_assigned = frames.new_zeros(*codes.shape, self.config.entries).scatter_(-1, codes[..., None], 1.0)
        with torch.autocast(frames.device.type, enabled=False):
            sums = is_assigned.mT @ frames  # unlike `index_add_`, deterministic on every device
        self.seen.add(torch.cat([sums, self.count(codes)[..., None]], -1), step)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the entries towards the frames of all ranks gathered in a step; without any, keep them.

        Equation 4 of the paper: sums and counts are moving averages, an entry is their quotient. Entries that hardly
        any frame is nearest to are replaced; see `_split`.

        Args:
            step: number of the step, as for `gather`.
        """
        taken = self.seen.take(step, like=self.entries.new_zeros(*self.usage.shape, self.entries.shape[-1] + 1))
        sums, counts = taken[..., :-1], taken[..., -1]
        decay = self.config.decay
        kept = decay * self.usage
        usage = kept + (1 - decay) * counts
        moved = (kept[..., None] * self.entries + (1 - decay) * sums) / usage[..., None].clamp(min=1e-20)
        is_seen = counts.sum() > 0
        entries, usage = _split(torch.where(usage[..., None] > 1e-20, moved, self.entries), usage)
        self.entries.copy_(torch.where(is_seen, entries, self.entries))
        self.usage.copy_(torch.where(is_seen, usage, self.usage))


def _split(entries: Tensor, usage: Tensor) -> tuple[Tensor, Tensor]:
    """Move each unused entry to a much used one, whose frames they then share, as the LBG algorithm splits a cluster.

    The n-th unused entry goes nearly all the way to the n-th most used one, and takes half of its usage. Since a used
    entry is the mean of its frames, some of them lie on the side that the other comes from. There are no random numbers
    and no look at the frames, so the result is the same on all ranks.

    Args:
        entries: (layers, entries, dim).
        usage: (layers, entries).

    Returns:
        New entries and usage.
    """
    is_dead = usage < DEAD * usage.mean(1, keepdim=True)
    order = usage.argsort(stable=True, dim=1, descending=True)  # the most used first
    turn = (is_dead.cumsum(1) - 1).clamp(min=0)
    source = order.gather(1, turn)  # (layers, entries), the entry to split for each unused one
    shared = torch.zeros_like(usage).scatter_add_(1, source, is_dead.to(usage.dtype))
    halved = torch.where(shared > 0, usage / 2, usage)
    beside = entries.gather(1, source[..., None].expand_as(entries)).lerp(entries, SPLIT)
    return (
        torch.where(is_dead[..., None], beside, entries),
        torch.where(is_dead, halved.gather(1, source), halved),
    )
