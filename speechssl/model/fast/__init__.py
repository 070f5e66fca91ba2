"""Kernels written for CPUs, one a module, and the switch that says whether one may run.

Beside each caller stands the plain form, in torch's own operations, which it equals (`tests/model/fast`). CUDA and
graphs (`torch.compile`, `torch.export`) always take that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["applies", "plain_only"]

_IS_PLAIN_ONLY = ContextVar("_IS_PLAIN_ONLY", default=False)


def applies(x: Tensor) -> bool:
    """Say whether a kernel of this folder may compute with `x`: on a CPU, outside of graphs and of `plain_only`."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _IS_PLAIN_ONLY.get()


@contextmanager
def plain_only() -> Iterator[None]:
    """Compute in torch's own operations in this block and thread, to compare; no setting of a run does.

    Layers that are computed again in the backward pass must see the block there, too.
    """
    token = _IS_PLAIN_ONLY.set(True)
    try:
        yield
    finally:
        _IS_PLAIN_ONLY.reset(token)
