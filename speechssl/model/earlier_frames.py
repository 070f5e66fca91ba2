"""Keys and values that an attention layer keeps of earlier frames, so that a stream does not compute them again."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["EarlierFrames"]


class EarlierFrames:
    """Keys and values of one layer: those that are kept, and those of the frames that were attended last."""

    def __init__(self) -> None:
        self.kept = 0  # number of kept frames
        self._merged: tuple[Tensor, Tensor] | None = None  # keys and values, each (batch, heads, frames, dim)

    def attend(self, merged: Tensor) -> Tensor:
        """Attend to the kept frames and to the new ones.

        Args:
            merged: (batch, frames, 3, heads, dim), query, key and value of the new frames.

        Returns:
            (batch, frames, heads, dim).
        """
        query, key, value = merged.permute(2, 0, 3, 1, 4)  # each (batch, heads, frames, dim)
        if self._merged is not None:
            keys, values = self._merged
            key, value = torch.cat([keys[:, :, : self.kept], key], 2), torch.cat([values[:, :, : self.kept], value], 2)
        self._merged = key, value
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    def keep(self, new: int, at_most: int) -> None:
        """Keep the first `new` of the frames that were attended last too, and of all kept ones the last `at_most`."""
        if self._merged is None:
            return
        stop = self.kept + new
        self.kept = min(stop, at_most)
        keys, values = self._merged
        self._merged = keys[:, :, stop - self.kept : stop], values[:, :, stop - self.kept : stop]
