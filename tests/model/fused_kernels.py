"""CPU stand-ins for CUDA's kernels for packed attention, so that their callers can be tested on a CPU."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["fused_kernels_on_cpu"]


@contextlib.contextmanager
def fused_kernels_on_cpu() -> Iterator[list[str]]:
    """Let torch's operators compute on CPU, without dropout; yields a list of the kernels that were run."""
    calls: list[str] = []
    library = torch.library.Library("aten", "IMPL")

    def flash(
        query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, _: Tensor, longest: int, *rest: Any, **__: Any
    ) -> Any:
        calls.append("flash")
        _check(query, offsets, longest, rest[1])
        assert query.shape[-1] % 8 == 0
        empty = query.new_empty(0)
        return _attend(query, key, value, offsets), empty, empty, empty, empty

    def flash_backward(gradient: Tensor, *args: Any, **_: Any) -> Any:
        query, key, value, _, _, offsets = args[:6]
        return _gradients(query, key, value, offsets, gradient)

    def efficient(
        query: Tensor, key: Tensor, value: Tensor, bias: None, offsets: Tensor, _: Tensor, longest: int, *rest: Any
    ) -> Any:
        calls.append("efficient" if rest[3:] == (True,) else "efficient, never backward")  # a default is left out
        assert bias is None
        _check(query[0], offsets, longest, rest[1])
        empty = query.new_empty(0)
        return _attend(query[0], key[0], value[0], offsets)[None], empty, empty, empty, longest, longest

    def efficient_backward(gradient: Tensor, *args: Any, **_: Any) -> Any:
        query, key, value, _, _, offsets = args[:6]
        found = _gradients(query[0], key[0], value[0], offsets, gradient[0])
        return *(each[None] for each in found), query.new_empty(0)

    for name, kernel in {
        "_flash_attention_forward": flash,
        "_flash_attention_backward": flash_backward,
        "_efficient_attention_forward": efficient,
        "_efficient_attention_backward": efficient_backward,
    }.items():
        library.impl(name, kernel, "CPU")
    try:
        yield calls
    finally:
        library._destroy()


def _check(query: Tensor, offsets: Tensor, longest: int, dropout: float) -> None:
    """Check the requirements of the kernels."""
    lengths = offsets.diff()
    assert offsets.dtype == torch.int32
    assert (int(offsets[0]), int(offsets[-1]), int(lengths.max())) == (0, len(query), longest)
    assert int(lengths.min()) > 0
    assert query.stride(-1) == 1
    assert dropout == 0


def _attend(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """Attend within each utterance: (valid, heads, dim)."""
    found = [_weights(q, k) @ v for q, k, v in _utterances(offsets, query, key, value)]
    return torch.cat(found, 1).transpose(0, 1)


def _gradients(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, gradient: Tensor) -> list[Tensor]:
    """Return the gradients of query, key and value; autograd does not work within an operator."""
    found: list[list[Tensor]] = [[], [], []]
    for q, k, v, by_out in _utterances(offsets, query, key, value, gradient):
        weights = _weights(q, k)
        by_weights = by_out @ v.mT
        by_scores = weights * (by_weights - (by_weights * weights).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
        for each, one in zip(found, (by_scores @ k, by_scores.mT @ q, weights.mT @ by_out), strict=True):
            each.append(one)
    return [torch.cat(each, 1).transpose(0, 1) for each in found]


def _utterances(offsets: Tensor, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield each utterance's tensors, (heads, frames, dim)."""
    for start, end in itertools.pairwise(offsets.tolist()):
        yield [tensor[start:end].transpose(0, 1) for tensor in tensors]


def _weights(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
