"""Multi-head self-attention: torch's `scaled_dot_product_attention`.

Packed frames (`packing`) attend within their utterance: on CUDA by one kernel of torch's for all of them.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.fast.attention import attend_packed_rows, attend_rows
from speechssl.model.packing import Packing

__all__ = ["SelfAttention", "attend", "attend_packed"]


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
            attended = attend_rows(merged, is_attended, dropout)
        else:
            attended = attend(merged, is_attended, dropout)
        return self.project_out(attended.reshape(x.shape))


def attend(merged: Tensor, is_attended: Tensor | None, dropout: float) -> Tensor:
    """Attend within each row, over its own frames alone.

    Args:
        merged: (batch, frames, 3, heads, dim), query, key and value.
        is_attended: (batch, frames) bool, the first frames of each row; None for all.
        dropout: probability that a weight is dropped.

    Returns:
        (batch, frames, heads, dim); garbage in the padding.
    """
    query, key, value = merged.permute(2, 0, 3, 1, 4)  # each (batch, heads, frames, dim)
    mask = None if is_attended is None else is_attended[:, None, None]
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attended.transpose(1, 2)


def attend_packed(merged: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Attend within each utterance of a packed batch.

    Args:
        merged: (valid, 3, heads, dim), query, key and value.
        packing: of the frames.
        dropout: probability that a weight is dropped.

    Returns:
        (valid, heads, dim).
    """
    if merged.device.type == "cuda" and (kernel := _fused_kernel(merged, packing)):
        return fused_attention(merged, packing, dropout, kernel)
    if _suits_rows(merged):
        return attend_packed_rows(merged, packing.lengths, dropout)
    return packing.pack(attend(packing.unpack(merged), packing.is_valid, dropout))


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
        dropout: probability that a weight is dropped.
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
    """Say whether products of our own are faster than torch's attention: in training, in float32."""
    return fast.applies(merged) and merged.requires_grad and not torch.is_autocast_enabled("cpu")
