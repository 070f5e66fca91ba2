"""CPU kernel of `speechssl.model.attention`: attention with dropout, utterance by utterance, without padding.

With dropout, torch's attention on CPUs draws random numbers one by one and keeps several (frames x frames) matrices for
the backward pass; this kernel keeps one matrix and a byte per element, and skips the padding.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from speechssl.model.fast.dropout import draw_kept, keep, kept_scale

__all__ = ["RowAttention", "attend_packed_rows", "attend_rows"]

Block = tuple[
    int, int, int, int
]  # first frame, number of utterances, frames from one to the next, valid frames of each


def attend_rows(merged: Tensor, is_attended: Tensor | None, dropout: float) -> Tensor:
    """Attend within each row of a padded batch.

    Args:
        merged: (batch, frames, 3, heads, dim), query, key and value.
        is_attended: (batch, frames) bool, True for the first frames of each row; None for all frames.
        dropout: probability that an attention weight is dropped.

    Returns:
        (batch, frames, heads, dim); 0 in the padding.
    """
    batch, frames = merged.shape[:2]
    counts = [frames] * batch if is_attended is None else is_attended.sum(1).tolist()
    return RowAttention.apply(merged.flatten(0, 1), _blocks(counts, frames), dropout).unflatten(0, (batch, frames))


def attend_packed_rows(merged: Tensor, lengths: Sequence[int], dropout: float) -> Tensor:
    """Attend within each utterance of a packed batch.

    Args:
        merged: (valid, 3, heads, dim), query, key and value.
        lengths: frames of each utterance.
        dropout: probability that an attention weight is dropped.

    Returns:
        (valid, heads, dim).
    """
    return RowAttention.apply(merged, _blocks(lengths), dropout)


class RowAttention(torch.autograd.Function):
    """Softmax attention of each utterance over its own frames, with dropout of the attention weights."""

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
            # the softmax gradient subtracts the row average: the sum of gradient x weight, equal to gradient x output
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
    """Group neighbouring utterances with equal numbers of frames.

    Args:
        counts: valid frames of each utterance.
        frames: frames from the start of one utterance to the start of the next; None if they are packed.
    """
    blocks, start = [], 0
    for count, run in itertools.groupby(counts):
        number, stride = len(list(run)), count if frames is None else frames
        blocks.append((start, number, stride, count))
        start += number * stride
    return blocks


def _within(x: Tensor, block: Block) -> Tensor:
    """View the valid frames of a block: (frames, ...) as (utterances, count, ...)."""
    start, number, stride, count = block
    return x[start : start + number * stride].unflatten(0, (number, stride))[:, :count]


def _by_head(merged: Tensor) -> Sequence[Tensor]:
    """View (utterances, frames, 3, heads, dim) as query, key and value, each (utterances, heads, frames, dim)."""
    return merged.permute(2, 0, 3, 1, 4).unbind()


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5
