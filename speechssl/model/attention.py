"""Multi-head self-attention: torch's `scaled_dot_product_attention`, but products of our own in training on CPU."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model.dropout import draw_kept, keep, kept_scale

__all__ = ["SelfAttention", "attend"]


class SelfAttention(nn.Module):
    """One projection for query, key and value, attention, one projection of the result."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, is_attended: Tensor | None) -> Tensor:
        """Map (batch, frames, dim) to the same shape; `is_attended` is (batch, frames) bool, None for all True."""
        batch, frames, dim = x.shape
        merged = self.project_in(x).view(batch, frames, 3, self.num_heads, dim // self.num_heads)
        dropout = self.dropout if self.training else 0.0
        if x.device.type == "cpu" and self.training and merged.requires_grad and not torch.is_autocast_enabled("cpu"):
            attended = attend(merged, is_attended, dropout)
        else:
            query, key, value = merged.permute(2, 0, 3, 1, 4)  # each (batch, heads, frames, dim / heads)
            mask = None if is_attended is None else is_attended[:, None, None]
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
            attended = attended.transpose(1, 2)
        return self.project_out(attended.reshape(batch, frames, dim))


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
    return RowAttention.apply(merged, counts, dropout)


class RowAttention(torch.autograd.Function):
    """Softmax attention of each row of the batch over its own frames, with dropout of its weights."""

    @staticmethod
    def forward(ctx, merged: Tensor, counts: list[int], dropout: float) -> Tensor:  # type: ignore[no-untyped-def]
        """Map (batch, frames, 3, heads, dim) to (batch, frames, heads, dim)."""
        attended = torch.zeros_like(merged[:, :, 0])
        saved = []
        for rows, count in _alike(counts):
            query, key, value = _by_head(merged[rows, :count])
            weights = ((query * _scale(query)) @ key.mT).softmax(-1)  # (rows, heads, count, count)
            kept = draw_kept(weights.shape, dropout, weights.device) if dropout else None
            out = weights @ value if kept is None else (keep(weights, kept) @ value).mul_(kept_scale(dropout))
            attended[rows, :count] = out.transpose(1, 2)
            saved += [weights] if kept is None else [weights, kept]
        ctx.save_for_backward(merged, attended, *saved)
        ctx.counts, ctx.dropout = counts, dropout
        return attended

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        """Return the gradient of `merged`."""
        merged, attended, *saved = ctx.saved_tensors
        pieces = iter(saved)
        merged_gradient = torch.zeros_like(merged)
        for rows, count in _alike(ctx.counts):
            query, key, value = _by_head(merged[rows, :count])
            by_query, by_key, by_value = _by_head(merged_gradient[rows, :count])
            weights, kept = next(pieces), next(pieces) if ctx.dropout else None
            out = gradient[rows, :count].transpose(1, 2)  # (rows, heads, count, dim)
            # softmax takes its average off a row's gradient: the sum of gradient x weight, or of gradient x output
            average = (out * attended[rows, :count].transpose(1, 2)).sum(-1, keepdim=True)
            dropped = weights
            if kept is not None:
                dropped, out = keep(weights, kept), out * kept_scale(ctx.dropout)
            by_value.copy_(dropped.mT @ out)
            by_scores = (out @ value.mT).mul_(dropped).addcmul_(weights, average, value=-1)
            by_query.copy_((by_scores @ key).mul_(_scale(query)))
            by_key.copy_(by_scores.mT @ (query * _scale(query)))
        return merged_gradient, None, None


def _alike(counts: list[int]) -> Iterator[tuple[slice, int]]:
    """Give runs of rows with as many frames, as (rows, frames)."""
    start = 0
    for count, run in itertools.groupby(counts):
        end = start + len(list(run))
        yield slice(start, end), count
        start = end


def _by_head(merged: Tensor) -> Sequence[Tensor]:
    """View (rows, frames, 3, heads, dim) as query, key and value, each (rows, heads, frames, dim)."""
    return merged.permute(2, 0, 3, 1, 4).unbind()


def _scale(query: Tensor) -> float:
    return query.shape[-1] ** -0.5
