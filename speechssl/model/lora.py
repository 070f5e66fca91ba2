"""LoRA (arXiv:2106.09685): trainable low-rank adapters on the frozen projections of self-attention.

A projection W is used as `W + scale * up @ down`, where `up` has `rank` columns; `merged_tensors` adds the product to
W, so that code which reads a finished model needs no adapters. We do not use peft: it adapts the fused projection of
query, key and value as one matrix, so that query or value cannot be chosen, renames the parameters, keeps adapters in
separate files, and depends on transformers. We need only the class below.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.model.attention import SelfAttention
from speechssl.model.dropout import Dropout
from speechssl.model.encoder import SpeechEncoder
from speechssl.model.linear import Linear

__all__ = ["AdaptedLinear", "LoraConfig", "Projection", "add_adapters", "merged_tensors"]

Projection = Literal["query", "key", "value", "out"]
_FUSED: tuple[Projection, ...] = ("query", "key", "value")  # in the order of `SelfAttention.project_in`


@configuration
class LoraConfig:
    """Which projections get adapters, and their size; the defaults are the paper's for GPT-3, at rank 8."""

    rank: int = 8  # columns of an adapter
    alpha: float = 16.0  # the output of an adapter is multiplied by alpha / rank
    dropout: float = 0.0  # dropout of an adapter's input
    projections: tuple[Projection, ...] = ("query", "value")

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.projections or len({*self.projections}) < len(self.projections):
            raise ConfigError(
                "lora.rank must be 1 or more and lora.projections name some of query, key, value and out, once each; "
                f"found {self.rank} and {self.projections}"
            )

    @property
    def scale(self) -> float:
        """Factor of the product of an adapter's matrices."""
        return self.alpha / self.rank


class AdaptedLinear(Linear):
    """A frozen linear layer with a trainable adapter for some blocks of its rows.

    `weight` and `bias` keep their names and are frozen. `up` starts at zero, so that the output is unchanged at first.
    """

    def __init__(self, plain: nn.Linear, config: LoraConfig, blocks: tuple[int, ...], num_blocks: int) -> None:
        """Take over the parameters of `plain`; of its rows' `num_blocks` blocks, those in `blocks` get an adapter."""
        super().__init__(plain.in_features, plain.out_features, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.requires_grad_(False)
        self.scale, self.blocks, self.num_blocks = config.scale, blocks, num_blocks
        rows = plain.out_features // num_blocks
        self.down = nn.Parameter(torch.empty(len(blocks), config.rank, plain.in_features, device=plain.weight.device))
        self.up = nn.Parameter(torch.zeros(len(blocks), rows, config.rank, device=plain.weight.device))
        nn.init.uniform_(self.down, -math.sqrt(3 / plain.in_features), math.sqrt(3 / plain.in_features))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        narrow = functional.linear(self.dropout(x), self.down.flatten(0, 1))  # (..., adapters x rank)
        added = functional.linear(narrow, self.scale * _spread(self.up, self.blocks, self.num_blocks))
        return super().forward(x) + added


def add_adapters(encoder: SpeechEncoder, config: LoraConfig) -> SpeechEncoder:
    """Add adapters to the attention of every layer and freeze all else; changes and returns the encoder."""
    encoder.requires_grad_(False)
    fused = tuple(_FUSED.index(name) for name in config.projections if name != "out")
    for attention in [module for module in encoder.modules() if isinstance(module, SelfAttention)]:
        if fused:
            attention.project_in = AdaptedLinear(attention.project_in, config, fused, len(_FUSED))
        if "out" in config.projections:
            attention.project_out = AdaptedLinear(attention.project_out, config, (0,), 1)
    return encoder


def merged_tensors(tensors: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Merge the adapters into the weights of their projections.

    Args:
        tensors: parameters of a model with adapters, by name.
        config: configuration of the adapters.

    Returns:
        The parameters of the equivalent model without adapters.
    """
    fused = tuple(_FUSED.index(name) for name in config.projections if name != "out")
    merged = dict(tensors)
    for name in [name for name in tensors if name.endswith(".up")]:
        up, down = merged.pop(name), merged.pop(name.removesuffix("up") + "down")
        weight = name.removesuffix("up") + "weight"
        blocks, num_blocks = ((0,), 1) if name.endswith("project_out.up") else (fused, len(_FUSED))
        added = config.scale * _spread(up.double(), blocks, num_blocks) @ down.double().flatten(0, 1)
        merged[weight] = (merged[weight].double() + added).to(merged[weight].dtype)
    return merged


def _spread(up: Tensor, blocks: tuple[int, ...], num_blocks: int) -> Tensor:
    """Place (adapters, rows, rank) into the block of each: (num_blocks x rows, adapters x rank), zero elsewhere."""
    empty = torch.zeros_like(up[0])
    return torch.cat(
        [
            torch.cat([up[adapter] if block == own else empty for adapter, own in enumerate(blocks)], dim=1)
            for block in range(num_blocks)
        ]
    )
