"""Multi-head self-attention: torch's `scaled_dot_product_attention`, but products of our own in training on CPU.

Packed frames (`packing`) attend within their utterance: on CUDA by one kernel for all of them.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.dropout import draw_kept, keep, kept_scale
from speechssl.model.packing import Packing

__all__ = ["SelfAttention", "attend", "attend_packed"]

Block = tuple[int, int, int, int]  # first frame, utterances, frames from one to the next, frames of each that count


class SelfAttention(nn.Module):
    """One projection for query, key and value, attention, one projection of the result."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, is_attended: Tensor | Packing | None) -> Tensor:
        """Map frames to the same shape.

        Args:
            x: (batch, frames, dim); or (valid, dim), packed.
            is_attended: (batch, frames) bool, the first frames of each row, None for all; or how `x` is packed.
        """
        dim = x.shape[-1]
        merged = self.project_in(x).view(*x.shape[:-1], 3, self.num_heads, dim // self.num_heads)
        dropout = self.dropout if self.training else 0.0
        if isinstance(is_attended, Packing):
            attended = attend_packed(merged, is_attended, dropout)
        elif self.training and _suits_rows(merged):
            attended = attend(merged, is_attended, dropout)
        else:
            attended = _attend_masked(merged, is_attended, dropout)
        return self.project_out(attended.reshape(x.shape))


def attend(merged: Tensor, is_attended: Tensor | None, dropout: float) -> Tensor:
    """Attend within each row, over its own frames alone.

    With dropout, torch's attention on CPU draws one number after the other and keeps several matrices of
    (frames x frames); this keeps one and a byte an element, and passes over the padding.

    Args:
        merged: (batch, frames, 3, heads, dim), query, key and value.
        is_attended: (batch, frames) bool, the first frames of each row; None for all.
        dropout: chance that a weight is dropped.

    Returns:
        (batch, frames, heads, dim); 0 in the padding.
    """
    batch, frames = merged.shape[:2]
    counts = [frames] * batch if is_attended is None else is_attended.sum(1).tolist()
    return RowAttention.apply(merged.flatten(0, 1), _blocks(counts, frames), dropout).unflatten(0, (batch, frames))


def attend_packed(merged: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Attend within each utterance of a packed batch.

    Args:
        merged: (valid, 3, heads, dim), query, key and value.
        packing: of the frames.
        dropout: chance that a weight is dropped.

    Returns:
        (valid, heads, dim).
    """
    if merged.device.type == "cuda" and (kernel := _fused_kernel(merged, packing)):
        return fused_attention(merged, packing, dropout, kernel)
    if _suits_rows(merged):
        return RowAttention.apply(merged, _blocks(packing.lengths), dropout)
    return packing.pack(_attend_masked(packing.unpack(merged), packing.is_valid, dropout))


def fused_attention(
    merged: Tensor, packing: Packing, dropout: float, kernel: Literal["flash", "efficient"] = "flash"
) -> Tensor:
    """Attend within each utterance by one kernel for all, on CUDA.

    torch's own operators, called as `scaled_dot_product_attention` does for jagged tensors and `torch.nn.attention.
    varlen` for plain ones. The former wraps and unwraps tensors in Python, layer after layer, where the device waits
    for calls as it is, and reads lengths back where it takes its plain form; the latter has no dropout, and torch 2.9
    does not have it.

    Args:
        merged: (valid, 3, heads, dim); float16 or bfloat16 for flash attention.
        packing: of the frames.
        dropout: chance that a weight is dropped.
        kernel: flash attention, or the memory-efficient kernel, which knows float32.

    Returns:
        (valid, heads, dim).
    """
    query, key, value = merged.unbind(1)
    offsets, longest = packing.offsets, packing.longest
    if kernel == "flash":
        found = torch.ops.aten._flash_attention_forward(
            query, key, value, offsets, offsets, longest, longest, dropout, False, False
        )
        return found[0]
    for_backward = torch.is_grad_enabled() and merged.requires_grad
    found = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, offsets, offsets, longest, longest, dropout, 0, for_backward
    )
    return found[0][0]


def _fused_kernel(merged: Tensor, packing: Packing) -> Literal["flash", "efficient"] | None:
    """Choose the kernel for (valid, 3, heads, dim); None where neither is made for the type or the size."""
    dim = merged.shape[-1]
    if dim % 8:
        return None
    if packing.has_flash and dim <= 256 and merged.dtype in (torch.float16, torch.bfloat16):
        return "flash"
    return "efficient" if merged.dtype in (torch.float16, torch.float32) else None


def _suits_rows(merged: Tensor) -> bool:
    """Say whether `RowAttention` is faster; a compiled graph has no place for it."""
    is_plain = merged.device.type == "cpu" and not torch.compiler.is_compiling()
    return is_plain and merged.requires_grad and not torch.is_autocast_enabled("cpu")


def _attend_masked(merged: Tensor, is_attended: Tensor | None, dropout: float) -> Tensor:
    """Map (batch, frames, 3, heads, dim) to (batch, frames, heads, dim) by torch's attention."""
    query, key, value = merged.permute(2, 0, 3, 1, 4)  # each (batch, heads, frames, dim)
    mask = None if is_attended is None else is_attended[:, None, None]
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attended.transpose(1, 2)


class RowAttention(torch.autograd.Function):
    """Softmax attention of each utterance over its own frames, with dropout of its weights."""

    @staticmethod
    def forward(ctx, merged: Tensor, blocks: list[Block], dropout: float) -> Tensor:  # type: ignore[no-untyped-def]
        """Map (frames, 3, heads, dim) to (frames, heads, dim)."""
        attended = torch.zeros_like(merged[:, 0])
        saved = []
        for block in blocks:
            query, key, value = _by_head(_within(merged, block))
            weights = ((query * _scale(query)) @ key.mT).softmax(-1)  # (utterances, heads, count, count)
            kept = draw_kept(weights.shape, dropout, weights.device) if dropout else None
            out = weights @ value if kept is None else (keep(weights, kept) @ value).mul_(kept_scale(dropout))
            _within(attended, block).copy_(out.transpose(1, 2))
            saved += [weights] if kept is None else [weights, kept]
        ctx.save_for_backward(merged, attended, *saved)
        ctx.blocks, ctx.dropout = blocks, dropout
        return attended

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        """Return the gradient of `merged`."""
        merged, attended, *saved = ctx.saved_tensors
        pieces = iter(saved)
        merged_gradient = torch.zeros_like(merged)
        for block in ctx.blocks:
            query, key, value = _by_head(_within(merged, block))
            by_query, by_key, by_value = _by_head(_within(merged_gradient, block))
            weights, kept = next(pieces), next(pieces) if ctx.dropout else None
            out = _within(gradient, block).transpose(1, 2)  # (utterances, heads, count, dim)
            # softmax takes its average off a row's gradient: the sum of gradient x weight, or of gradient x output
            average = (out * _within(attended, block).transpose(1, 2)).sum(-1, keepdim=True)
            dropped = weights
            if kept is not None:
                dropped, out = keep(weights, kept), out * kept_scale(ctx.dropout)
            by_value.copy_(dropped.mT @ out)
            by_scores = (out @ value.mT).mul_(dropped).addcmul_(weights, average, value=-1)
            by_query.copy_((by_scores @ key).mul_(_scale(query)))
            by_key.copy_(by_scores.mT @ (query * _scale(query)))
        return merged_gradient, None, None


def _blocks(counts: Sequence[int], frames: int | None = None) -> list[Block]:
    """Group neighbours of as many frames.

    Args:
        counts: valid frames of each utterance.
        frames: from the beginning of one to that of the next; None where they are packed.
    """
    blocks, start = [], 0
    for count, run in itertools.groupby(counts):
        number, stride = len(list(run)), count if frames is None else frames
        blocks.append((start, number, stride, count))
        start += number * stride
    return blocks


def _within(x: Tensor, block: Block) -> Tensor:
    """View the frames of a block that count: (frames, ...) as (utterances, count, ...)."""
    start, number, stride, count = block
    return x[start : start + number * stride].unflatten(0, (number, stride))[:, :count]


def _by_head(merged: Tensor) -> Sequence[Tensor]:
    """View (utterances, frames, 3, heads, dim) as query, key and value, each (utterances, heads, frames, dim)."""
    return merged.permute(2, 0, 3, 1, 4).unbind()


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5
