"""Measurements by which a process chooses among ways to compute the same product."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["least_seconds"]

_REPEATS = 5


def least_seconds(ways: Mapping[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Return the least processor time that each way took, in seconds; the ways take turns, without gradients.

    One thread does the work: where a machine has other work, the waits of threads for each other are random.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            turns = [{name: _seconds(way) for name, way in ways.items()} for _ in range(_REPEATS + 1)]
    finally:
        torch.set_num_threads(num_threads)
    return {name: min(turn[name] for turn in turns[1:]) for name in ways}


def _seconds(way: Callable[[], Tensor]) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start
