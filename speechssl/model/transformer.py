"""Transformer encoder over frames: convolutional positions, self-attention layers, layer drop.

Post-norm as in BASE (the paper's figure) or pre-norm as in LARGE. It does not handle waveforms or masking.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechssl.config import added, configuration
from speechssl.errors import ConfigError
from speechssl.model.attention import SelfAttention
from speechssl.model.context import INFERENCE, StepContext
from speechssl.model.dropout import Dropout
from speechssl.model.earlier_frames import EarlierFrames
from speechssl.model.host import send
from speechssl.model.hourglass import FrameGroups, HourglassConfig, RestoredLayers
from speechssl.model.linear import Linear
from speechssl.model.norm import LayerNorm
from speechssl.model.packing import Packing, UnpackedLayers
from speechssl.model.positions import PositionalConv

__all__ = ["Layer", "Transformer", "TransformerConfig", "without_learning"]


@configuration
class TransformerConfig:
    """Size and regularisation; the defaults are BASE."""

    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_dim: int = 3072
    norm: Literal["post", "pre"] = "post"  # fairseq: layer_norm_first
    position_kernel: int = 128  # frames (fairseq: conv_pos)
    position_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layer_drop: float = 0.05  # probability that a layer is skipped in a training step
    hourglass: HourglassConfig | None = added(None)  # middle layers at a lower frame rate; None: all at the full one

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or self.dim % self.position_groups:
            raise ConfigError(
                f"transformer.dim is {self.dim}, expected a multiple of num_heads ({self.num_heads}) "
                f"and of position_groups ({self.position_groups})"
            )
        if self.hourglass is not None and not self.lower:
            raise ConfigError(
                f"encoder.transformer.hourglass keeps {self.hourglass.before} + {self.hourglass.after} layers at the "
                f"full rate, expected fewer than num_layers ({self.num_layers})"
            )

    @property
    def group(self) -> int:
        """Frames that are one frame at the lower rate; 1 without `hourglass`."""
        return 1 if self.hourglass is None else self.hourglass.factor

    @property
    def lower(self) -> range:
        """Layers at a lower frame rate, counted from 0; none without `hourglass`."""
        if self.hourglass is None:
            return range(0)
        return range(self.hourglass.before, self.num_layers - self.hourglass.after)


class Transformer(nn.Module):
    """Transformer that returns the output of every layer.

    `recompute` trades time for memory: only the input of each layer is kept, and the layer runs again, with the same
    dropout, in the backward pass. `packed` runs the layers on valid frames only, see `packing`: padding costs nothing,
    packing a little. Neither changes the model, so the training code sets them.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.packed = False
        self.positions = PositionalConv(config.dim, config.position_kernel, config.position_groups)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):  # BERT's initialisation, as in the reference
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        x: Tensor,
        is_valid: Tensor,
        num_layers: int | None = None,
        context: StepContext = INFERENCE,
        is_visible: Tensor | None = None,
    ) -> Sequence[Tensor]:
        """Encode.

        Args:
            x: (batch, frames, dim).
            is_valid: (batch, frames) bool, False in the padding; on the host, its values need no synchronisation.
            num_layers: number of layers to run; None for all.
            context: its `layer_seed` determines which layers are dropped; its `num_frozen` is the number of layers,
                from the first, that get no gradient from this batch; if it is above 0, the positions get none either.
            is_visible: (batch, frames) bool, on the host, valid frames that the layers run on, one or more; the others
                are seen by the positions alone. None for all valid frames.

        Returns:
            num_layers x (batch, frames, dim). A layer dropped in training repeats its input. In pre-norm form the
            output of the last layer has passed the final norm, the others have not. Zero in the padding if `packed`,
            and in all frames that are not visible. Layers at a lower frame rate give each frame the output of its
            group, added to the frame before them.
        """
        is_present = is_valid if is_visible is None else is_visible
        is_exporting = torch.compiler.is_exporting()  # exported graphs cannot branch on values
        has_padding = is_exporting or not bool(is_valid.all())
        is_packed = self.packed and has_padding and not is_exporting and bool(is_valid.any())
        packing = Packing(is_valid, x.device) if is_packed and is_visible is None else None
        is_valid = send(is_valid, x.device) if packing is None else packing.is_valid
        if has_padding:
            x = x.masked_fill(~is_valid[..., None], 0)  # the positional convolution must not see the padding
        packing = packing if is_visible is None else Packing(is_visible, x.device)
        is_attended = packing or (is_valid if has_padding else None)
        with without_learning(context.num_frozen > 0):
            x = x + self.positions(x)
            if self.config.norm == "post":
                x = self.norm(x)
            x = self.dropout(x)
            x = x if packing is None else packing.pack(x)  # (valid, dim)
        outputs: list[Tensor] = []
        lower, groups = self.config.lower, None
        kept = self.draw_kept_layers(context.layer_seed)
        for index, (layer, is_kept) in enumerate(zip(self.layers[:num_layers], kept, strict=False)):
            if lower and index == lower[0]:
                groups = FrameGroups(x, is_present, self.config.group, packing)
                x = groups.averaged()
            attended = is_attended if groups is None or index not in lower else groups.is_attended
            with without_learning(index < context.num_frozen):
                if is_kept and self.recompute and torch.is_grad_enabled():
                    x = checkpoint(layer, x, attended, use_reentrant=False)
                elif is_kept:
                    x = layer(x, attended)
            if groups is not None and index == lower[-1]:
                x = groups.restored(x)
            outputs.append(x)
        if self.config.norm == "pre" and len(outputs) == len(self.layers):
            outputs[-1] = self.norm(x)
        layers = outputs if groups is None else RestoredLayers(outputs, lower[:-1], groups.restored)
        return layers if packing is None else UnpackedLayers(layers, packing)

    def draw_kept_layers(self, seed: int | None) -> list[bool]:
        """Draw which layers run, first to last; all run outside training. See `StepContext.layer_seed`."""
        if not self.training or self.config.layer_drop == 0:
            return [True] * len(self.layers)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        draws = torch.rand(len(self.layers), generator=generator, device="cpu")
        return (draws >= self.config.layer_drop).tolist()


def without_learning(is_frozen: bool) -> AbstractContextManager[object]:
    """Return `torch.no_grad()` or, if nothing is frozen, a null context, which leaves no trace in exported graphs."""
    return torch.no_grad() if is_frozen else nullcontext()


class Layer(nn.Module):
    """Self-attention and feed-forward, each with a residual connection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention = SelfAttention(config.dim, config.num_heads, config.attention_dropout)
        self.attention_norm = LayerNorm(config.dim)
        self.expand = Linear(config.dim, config.ffn_dim)
        self.contract = Linear(config.ffn_dim, config.dim)
        self.ffn_norm = LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        self.activation_dropout = Dropout(config.activation_dropout)

    def forward(self, x: Tensor, is_attended: Tensor | Packing | EarlierFrames | None) -> Tensor:
        """Map (batch, frames, dim), or (valid, dim), to the same shape; `is_attended` as in `SelfAttention`."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), is_attended))
            return x + self.dropout(self.feed_forward(self.ffn_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, is_attended)))
        return self.ffn_norm(x + self.dropout(self.feed_forward(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Apply the two-layer feed-forward network to (..., dim)."""
        return self.contract(self.activation_dropout(self.expand.activated(x)))
