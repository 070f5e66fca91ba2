"""Ranks of a torchrun job, or of a single process: rank, device, and sums over ranks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["Ranks", "pick_device", "start_ranks", "whole", "whole_tensors"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the others."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; the tensor itself is unchanged."""
        total = value.detach().clone()
        if self.world_size > 1:
            distributed.all_reduce(total)
        return total

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            distributed.barrier()


def pick_device() -> torch.device:
    """Return this process's accelerator, or the CPU if there is none.

    On CUDA, this also sets TF32 for convolutions to the setting of matrix products: off, unless the process enabled it.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    if accelerator.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32  # cuDNN enables TF32 by default
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


def start_ranks() -> Ranks:
    """Join the torchrun job, if there is one, and return this process's rank."""
    device = pick_device()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo" if device.type == "cpu" else None)
    return Ranks(rank=int(os.environ.get("RANK", "0")), world_size=world_size, device=device)


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor, on all ranks together; return other tensors unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor], ranks: Ranks, device: torch.device) -> dict[str, Tensor]:
    """Gather sharded tensors on a device of the first rank; all ranks have to call it."""
    gathered = {}
    for name, tensor in tensors.items():
        whole_tensor = whole(tensor.detach())
        if ranks.is_first:  # the other ranks release it at once
            gathered[name] = whole_tensor.to(device).contiguous()
    return gathered
