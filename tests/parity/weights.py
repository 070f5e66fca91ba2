"""Copy a trunk's weights into other toolkits' models, module by module; on purpose not by speechssl.interop."""

import torch
from torch import nn

from speechssl.model.encoder import SpeechEncoder
from speechssl.model.transformer import Layer, PositionalConv

__all__ = ["copy_into", "copy_module", "copy_trunk"]


def copy_into(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy one parameter; the shapes must agree."""
    assert target.shape == source.shape
    with torch.no_grad():
        target.copy_(source)


def copy_module(target: nn.Module, source: nn.Module) -> None:
    """Copy a layer whose parameters are called weight and bias in both."""
    names = [name for name, _ in source.named_parameters()]
    assert names == [name for name, _ in target.named_parameters()]
    for name in names:
        copy_into(getattr(target, name), getattr(source, name))


def copy_positions(target: nn.Conv1d, source: PositionalConv) -> None:
    """Copy the weight-normed convolution of positions."""
    copy_into(target.bias, source.conv.bias)
    for name in ("original0", "original1"):
        copy_into(getattr(target.parametrizations.weight, name), getattr(source.conv.parametrizations.weight, name))


def copy_attention(target: nn.Module, source: Layer) -> None:
    """Split the merged projection into query, key and value."""
    projections = (target.q_proj, target.k_proj, target.v_proj)
    merged = source.attention.project_in
    for projection, weight, bias in zip(projections, merged.weight.chunk(3), merged.bias.chunk(3), strict=True):
        copy_into(projection.weight, weight)
        copy_into(projection.bias, bias)
    copy_module(target.out_proj, source.attention.project_out)


def copy_trunk(target_encoder: nn.Module, encoder: SpeechEncoder) -> None:
    """Copy projection and layers, which torchaudio and transformers name alike."""
    for theirs, ours in zip(target_encoder.layers, encoder.transformer.layers, strict=True):
        copy_attention(theirs.attention, ours)
        copy_module(theirs.layer_norm, ours.attention_norm)
        copy_module(theirs.feed_forward.intermediate_dense, ours.expand)
        copy_module(theirs.feed_forward.output_dense, ours.contract)
        copy_module(theirs.final_layer_norm, ours.ffn_norm)
    copy_positions(target_encoder.pos_conv_embed.conv, encoder.transformer.positions)
    copy_module(target_encoder.layer_norm, encoder.transformer.norm)
