"""Visible frames only: the Transformer runs on unmasked frames, and a light decoder fills in the masked ones.

The asymmetry of masked autoencoders (MAE, arXiv:2111.06377) as in data2vec 2.0 (arXiv:2212.07525, section 3.1): several
masks of an utterance share one pass of the extractor. The decoder serves pretraining alone.
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.model.encoder import EncoderConfig
from speechssl.model.host import send
from speechssl.model.norm import LayerNorm
from speechssl.model.positions import PositionalConv
from speechssl.model.transformer import Layer
from speechssl.tasks.flops import Product, transformer_products

__all__ = ["DECODER_KEYS", "VisibleConfig", "VisibleDecoder", "decoder_products", "number_of_masks", "tiled"]


@configuration
class VisibleConfig:
    """Masks of an utterance, and the decoder."""

    masks: int = 1  # masks of each utterance, which share one pass of the extractor (data2vec 2.0: 8)
    decoder: Literal["conv", "transformer"] = "conv"  # convolutions as in data2vec 2.0, or layers like the encoder's
    layers: int = 2  # of the decoder (data2vec 2.0: 4)
    kernel: int = 7  # frames, of its convolutions, or of its positions
    groups: int = 16  # of its convolutions, or of its positions

    def __post_init__(self) -> None:
        if min(self.masks, self.layers, self.kernel, self.groups) < 1:
            raise ConfigError(
                "objective.visible: expected masks, layers, kernel and groups from 1 up, found "
                f"{self.masks}, {self.layers}, {self.kernel} and {self.groups}"
            )


DECODER_KEYS = ("decoder", "layers", "kernel", "groups")  # of `VisibleConfig`, on which the decoder's weights depend


class VisibleDecoder(nn.Module):
    """Maps encoded visible frames to all frames."""

    def __init__(self, config: VisibleConfig, encoder: EncoderConfig) -> None:
        """Build the decoder.

        Args:
            config: kind and size.
            encoder: the encoder, whose dimension the decoder keeps.

        Raises:
            ConfigError: the groups do not divide the dimension.
        """
        super().__init__()
        dim = encoder.transformer.dim
        if dim % config.groups:
            raise ConfigError(
                f"objective.visible.groups={config.groups}: expected a divisor of encoder.transformer.dim={dim}"
            )
        self.masks = config.masks
        self.mask_vector = nn.Parameter(torch.empty(dim).uniform_())
        convs = config.layers if config.decoder == "conv" else 1  # which give a Transformer its positions
        self.convs = nn.ModuleList(PositionalConv(dim, config.kernel, config.groups) for _ in range(convs))
        self.norms = nn.ModuleList(LayerNorm(dim) for _ in range(convs))
        self.layers = nn.ModuleList(
            Layer(encoder.transformer) for _ in range(config.layers if config.decoder == "transformer" else 0)
        )

    def forward(self, x: Tensor, is_visible: Tensor, is_valid: Tensor) -> Tensor:
        """Fill in the masked frames.

        Args:
            x: (batch, frames, dim) from the encoder; only its visible frames are read.
            is_visible: (batch, frames) bool, on the host, the frames that the encoder saw.
            is_valid: (batch, frames) bool, on the host, False in the padding.

        Returns:
            (batch, frames, dim); undefined in the padding.
        """
        seen, valid = (send(each, x.device)[..., None] for each in (is_visible, is_valid))
        x = torch.where(seen, x, self.mask_vector.to(x.dtype))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(x + conv(x.masked_fill(~valid, 0)))
        is_attended = None if bool(is_valid.all()) else valid[..., 0]
        for layer in self.layers:
            x = layer(x, is_attended)
        return x


def decoder_products(config: VisibleConfig, encoder: EncoderConfig, frames: int) -> list[Product]:
    """List the products of the decoder for one utterance of so many frames under all its masks, for the planner."""
    is_conv = config.decoder == "conv"
    shape = dataclasses.replace(
        encoder.transformer,
        num_layers=0 if is_conv else config.layers,
        position_kernel=config.kernel,
        position_groups=config.groups,
        hourglass=None,
    )
    products = transformer_products(
        dataclasses.replace(encoder, transformer=shape), config.masks, frames, is_training=True
    )
    of_convs = [each for each in products if each.part == "positions"] * (config.layers if is_conv else 1)
    others = [each for each in products if each.part not in ("positions", "projection")]
    return [dataclasses.replace(each, part="decoder") for each in (*of_convs, *others)]


def number_of_masks(config: VisibleConfig | None) -> int:
    """Return how many masks an utterance has in a step: one if the encoder sees the mask vector."""
    return 1 if config is None else config.masks


def tiled(x: Tensor, rows: int) -> Tensor:
    """Repeat (batch, ...) as a whole until there are `rows` rows: one copy for each mask of the batch."""
    return x if len(x) == rows else x.repeat(rows // len(x), *(1 for _ in x.shape[1:]))
