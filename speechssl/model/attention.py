"""Multi-head self-attention on top of torch's `scaled_dot_product_attention`.

Packed frames (`packing`) attend within their own utterance; on CUDA a single torch kernel handles all utterances.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.model import fast
from speechssl.model.earlier_frames import EarlierFrames
from speechssl.model.fast.attention import attend_packed_rows, attend_rows
from speechssl.model.linear import Linear
from speechssl.model.packing import Packing

__all__ = ["SelfAttention", "attend", "attend_packed"]


class SelfAttention(nn.Module):
    """Self-attention with one fused projection for query, key and value, and an output projection."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)

    def forward(self, x: Tensor, is_attended: Tensor | Packing | EarlierFrames | None) -> Tensor:
        """Map frames to the same shape.

        Args:
            x: (batch, frames, dim); or (valid, dim), packed.
            is_attended: (batch, frames) bool, True for the first frames of each row; None for all frames; a `Packing`
                if `x` is packed; or the frames before `x`, in inference only.
        """
        dim = x.shape[-1]
        merged = self.project_in(x).view(*x.shape[:-1], 3, self.num_heads, dim // self.num_heads)
        dropout = self.dropout if self.training else 0.0
        if isinstance(is_attended, Packing):
            attended = attend_packed(merged, is_attended, dropout)
        elif isinstance(is_attended, EarlierFrames):
            attended = is_attended.attend(merged)
        elif self.training and _suits_rows(merged):
            attended = attend_rows(merged, is_attended, dropout)
        else:
            attended = attend(merged, is_attended, dropout)
        return self.project_out(attended.reshape(x.shape))


def attend(merged: Tensor, is_attended: Tensor | None, dropout: float) -> Tensor:
    """Attend within each row of a padded batch.

    Args:
        merged: (batch, frames, 3, heads, dim), query, key and value.
        is_attended: (batch, frames) bool, True for the first frames of each row; None for all frames.
        dropout: probability that an attention weight is dropped.

    Returns:
        (batch, frames, heads, dim); undefined in the padding.
    """
    query, key, value = merged.permute(2, 0, 3, 1, 4)  # each (batch, heads, frames, dim)
    mask = None if is_attended is None else is_attended[:, None, None]
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attended.transpose(1, 2)


def attend_packed(merged: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Attend within each utterance of a packed batch.

    Args:
        merged: (valid, 3, heads, dim), query, key and value.
        packing: positions of the frames in the padded batch.
        dropout: probability that an attention weight is dropped.

    Returns:
        (valid, heads, dim). In inference on CPUs each utterance attends by itself.
    """
    if merged.device.type == "cuda" and (kernel := _fused_kernel(merged, packing)):
        return fused_attention(merged, packing, dropout, kernel)
    if _suits_rows(merged):
        return attend_packed_rows(merged, packing.lengths, dropout)
    if merged.device.type == "cpu" and not (merged.requires_grad or torch.compiler.is_compiling()):
        return torch.cat([attend(each[None], None, dropout)[0] for each in merged.split(packing.lengths)])
    return packing.pack(attend(packing.unpack(merged), packing.is_valid, dropout))


def fused_attention(
    merged: Tensor, packing: Packing, dropout: float, kernel: Literal["flash", "efficient"] = "flash"
) -> Tensor:
    """Attend within each utterance by one CUDA kernel for the whole packed batch.

    This calls the torch operators that `scaled_dot_product_attention` uses for jagged tensors and
    `torch.nn.attention.varlen` for plain ones. Jagged tensors are wrapped and unwrapped in Python in every layer, which
    is slow when training is bound by kernel launches, and their fallback reads the lengths back from the device.
    `varlen` has no dropout and is missing in torch 2.9.

    Args:
        merged: (valid, 3, heads, dim); float16 or bfloat16 for flash attention.
        packing: positions of the frames in the padded batch.
        dropout: probability that an attention weight is dropped.
        kernel: flash attention, or the memory-efficient kernel, which supports float32.

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
    """Choose the kernel for (valid, 3, heads, dim); None where neither supports the type or the size."""
    dim = merged.shape[-1]
    if dim % 8:
        return None
    if packing.has_flash and dim <= 256 and merged.dtype in (torch.float16, torch.bfloat16):
        return "flash"
    return "efficient" if merged.dtype in (torch.float16, torch.float32) else None


def _suits_rows(merged: Tensor) -> bool:
    """Return whether the CPU kernel is faster than torch's attention: in training, in float32."""
    return fast.applies(merged) and merged.requires_grad and not torch.is_autocast_enabled("cpu")
