"""Batches from a reading process to the one that trains, through memory that both have from the start.

torch's own way makes a new shared file for each tensor, whose pages the kernel clears one by one, and passes its handle
through a socket: twice the work of reading 16-bit audio. Here a process writes into one of a few places that it uses in
turn, and the parent copies the batch out before the place comes round again. The memory has no name, so that the
small /dev/shm of containers does not limit it.
"""

import mmap
import multiprocessing
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from speechssl.data.batching import Batch

__all__ = ["Packed", "SharedPlaces", "pack", "start_method"]


def start_method() -> str:
    """Return how processes that read are started: forked on Linux, unless the program asked for `spawn`.

    Python's own default there is a server from 3.14 on, whose processes import torch anew and inherit no memory.
    """
    default = multiprocessing.get_start_method()
    return "fork" if sys.platform == "linux" and default != "spawn" else default


class SharedPlaces:
    """For each process a few places, of the size of the largest batch, used in turn."""

    def __init__(self, workers: int, ahead: int, samples: int) -> None:
        """Share memory; pages count only once they are written.

        Args:
            workers: processes, forked from this one later.
            ahead: batches that each may be asked for while the parent copies one.
            samples: float32, in the largest batch.
        """
        shape = (workers, ahead + 1, samples)
        memory = mmap.mmap(-1, 4 * workers * (ahead + 1) * samples)
        self._places = torch.frombuffer(memory, dtype=torch.float32).view(shape)
        self._turn = -1

    @classmethod
    def where_processes_are_forked(cls, workers: int, ahead: int, samples: int) -> "SharedPlaces | None":
        """Share memory, or None where processes do not inherit it."""
        return cls(workers, ahead, samples) if start_method() == "fork" else None

    def take(self) -> tuple[tuple[int, int], Tensor]:
        """Return, in a process that reads, the next place: where it is, and its (samples,) float32."""
        info = get_worker_info()
        assert info is not None
        self._turn = (self._turn + 1) % self._places.shape[1]
        where = (info.id, self._turn)
        return where, self._places[where]

    def at(self, where: tuple[int, int]) -> Tensor:
        """Return the (samples,) float32 of a place."""
        return self._places[where]


@dataclass(frozen=True)
class Packed:
    """A batch on its way: arrays, which are sent by value, and where its waveforms lie."""

    batch: Batch  # without tensors
    arrays: dict[str, Any]  # by field
    where: tuple[int, int] | None  # None: the waveforms are among the arrays
    shape: tuple[int, int]

    def unpack(self, places: SharedPlaces | None, *, is_pinned: bool) -> Batch:
        """Return the batch, in memory of this process."""
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        if self.where is not None:
            assert places is not None
            shared = places.at(self.where)[: self.shape[0] * self.shape[1]].view(self.shape)
            tensors["waveforms"] = torch.empty(self.shape, pin_memory=is_pinned).copy_(shared)
        batch = replace(self.batch, **tensors)
        return batch.pin_memory() if is_pinned else batch


def pack(batch: Batch, where: tuple[int, int] | None, place: Tensor | None) -> Packed:
    """Make a batch ready to be sent.

    Args:
        batch: whose waveforms may lie at the place already.
        where: the place is; None without one.
        place: (samples,) float32; waveforms that do not fit are sent by value.
    """
    size = batch.waveforms.numel()
    if place is None or not 0 < size <= len(place):
        where = None
    elif batch.waveforms.data_ptr() != place.data_ptr():
        place[:size] = batch.waveforms.reshape(-1)
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    sent = {name: value.numpy() for name, value in tensors.items() if where is None or name != "waveforms"}
    nothing = torch.empty(0)
    bare: dict[str, Any] = {name: nothing if name in ("waveforms", "num_samples") else None for name in tensors}
    rows, time = batch.waveforms.shape
    return Packed(replace(batch, **bare), sent, where, (rows, time))
