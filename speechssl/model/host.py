"""Copies from host to device without a synchronisation.

Lengths and masks, and with them the positions and numbers of all selected frames, are known on the host. Reading them
from the device would block until its queue is empty, and leave the device idle until new work is queued.
"""

import torch
from torch import Tensor

__all__ = ["frames_where", "generator_on", "send"]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without a synchronisation."""
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy of pageable memory would synchronise
    return tensor.to(device, non_blocking=True)


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Return a generator on `device`: the given one if it is there, else a new one that the given one seeds."""
    if generator.device.type == device.type:
        return generator
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    return torch.Generator(device).manual_seed(seed)


def frames_where(x: Tensor, is_chosen: Tensor) -> Tensor:
    """Return the chosen frames, row after row, like `x[is_chosen]`, without a synchronisation.

    Args:
        x: (batch, frames, ...), on any device.
        is_chosen: (batch, frames) bool, on the host.

    Returns:
        (chosen, ...).
    """
    x = x.flatten(0, 1)
    if bool(is_chosen.all()):
        return x
    return x.index_select(0, send(is_chosen.flatten().nonzero()[:, 0], x.device))
