"""What the host knows of a batch reaches the device without the one waiting for the other.

Lengths, masks and hence the positions and numbers of all chosen frames are known on the host. A step that asked the
device for them would wait until all that was queued there is done, and leave it idle until more is queued.
"""

import torch
from torch import Tensor

__all__ = ["frames_where", "generator_on", "send"]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; from the host it goes there after what is queued, and nothing waits."""
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()  # a copy of other memory waits for the device
    return tensor.to(device, non_blocking=True)


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Return a generator that draws on `device`: the given one of the host, or another that it draws the seed of."""
    if generator.device.type == device.type:
        return generator
    seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    return torch.Generator(device).manual_seed(seed)


def frames_where(x: Tensor, is_chosen: Tensor) -> Tensor:
    """Return the chosen frames, row after row, as `x[is_chosen]` does.

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
