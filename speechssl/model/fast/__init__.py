"""Kernels for CPUs, one per module, and the switch that decides whether they may run.

Each caller also has a plain implementation in torch operations with the same results (`tests/model/fast`). CUDA and
graphs (`torch.compile`, `torch.export`) always use the plain one. `SPEECHSSL_KERNELS` in the environment selects:

    auto    the kernels, where they are faster on this processor (the default)
    ours    the kernels, wherever they can run
    plain   torch operations only
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from speechssl.processor import chosen_kernels

__all__ = ["applies", "plain_only"]

_IS_PLAIN_ONLY = ContextVar("_IS_PLAIN_ONLY", default=False)


def applies(x: Tensor) -> bool:
    """Return whether a kernel of this folder may run on `x`: on a CPU, outside of graphs and of `plain_only`."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or _IS_PLAIN_ONLY.get():
        return False
    return chosen_kernels() != "plain"


@contextmanager
def plain_only() -> Iterator[None]:
    """Use the plain implementations in this block and thread; for comparisons only, no configuration sets it.

    With recomputed layers, the backward pass must run inside the block too.
    """
    token = _IS_PLAIN_ONLY.set(True)
    try:
        yield
    finally:
        _IS_PLAIN_ONLY.reset(token)
