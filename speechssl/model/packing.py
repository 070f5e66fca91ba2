"""Packed batches: the valid frames of all utterances concatenated, without padding.

Frame-wise layers then compute nothing for padding, and attention needs no mask, which would rule out the fastest
kernels. The positions of the frames are computed on the host, without a synchronisation.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.model.host import send

__all__ = ["LazyLayers", "Packing", "UnpackedLayers"]


class Packing:
    """Positions of the valid frames in a padded batch; `pack` maps (batch, frames, ...) to (valid, ...).

    It is not a dataclass: torch.compile would guard on all fields and recompile the layers for other lengths.
    """

    def __init__(self, is_valid: Tensor, device: torch.device) -> None:
        """Find the positions of the valid frames.

        Args:
            is_valid: (batch, frames) bool, True for the first frames of each row, or for any visible ones, at least one
                in all; should be on the host, to avoid a synchronisation.
            device: device of the tensors that will be packed.
        """
        is_valid = is_valid.cpu()
        counts = is_valid.sum(1)
        counts = counts[counts > 0]
        self.batch, self.frames = is_valid.shape
        self.lengths: list[int] = counts.tolist()  # frames of each utterance, without empty ones
        self.longest = max(self.lengths)
        self.is_valid = send(is_valid, device)  # (batch, frames) bool
        self.places = send(is_valid.flatten().nonzero()[:, 0], device)  # (valid,) int64, positions in the padded batch
        self.offsets = send(functional.pad(counts.cumsum(0), (1, 0)).int(), device)  # (utterances + 1,) int32
        self.has_flash = _has_flash(device)

    def pack(self, x: Tensor) -> Tensor:
        """Map (batch, frames, ...) to (valid, ...)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        """Map (valid, ...) to (batch, frames, ...), zero in the padding."""
        padded = x.new_zeros(self.batch * self.frames, *x.shape[1:]).index_copy(0, self.places, x)
        return padded.unflatten(0, (self.batch, self.frames))


class LazyLayers(Sequence[Tensor]):
    """Outputs of layers, each computed on access, since a training step needs only one of them."""

    def at(self, index: int) -> Tensor:
        """Return the output of the layer `index`, from 0 up."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Return the output of a layer, or those of several."""
        numbers = range(len(self))[index]
        return self.at(numbers) if isinstance(numbers, int) else [self.at(each) for each in numbers]

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over the outputs, first layer to last."""
        return (self.at(index) for index in range(len(self)))


class UnpackedLayers(LazyLayers):
    """Outputs of packed layers, (batch, frames, dim), zero in the padding; each is unpacked once."""

    def __init__(self, packed: Sequence[Tensor], packing: Packing) -> None:
        self.packed = packed
        self.packing = packing
        self.unpacked: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.packed)

    def at(self, index: int) -> Tensor:
        """Return the unpacked output of a layer."""
        if index not in self.unpacked:
            self.unpacked[index] = self.packing.unpack(self.packed[index])
        return self.unpacked[index]


def _has_flash(device: torch.device) -> bool:
    """Return whether torch's flash attention runs on a device; checked here because a compiled layer cannot."""
    if device.type != "cuda" or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.backends.cuda.flash_sdp_enabled() and torch.cuda.get_device_capability(device) >= (8, 0)
