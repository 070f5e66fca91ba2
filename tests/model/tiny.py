"""Encoders small enough for tests: 2 layers, dim 32, a frame every 20 samples with a receptive field of 30."""

import dataclasses

import torch
from torch import nn

from speechssl.model.encoder import EncoderConfig, SpeechEncoder
from speechssl.model.transformer import TransformerConfig

TINY_STACK = ((8, 10, 5), (12, 3, 2), (16, 2, 2))  # kernels longer than, no multiple of, and equal to their stride
TINY_TRANSFORMER = TransformerConfig(
    dim=32,
    num_layers=2,
    num_heads=4,
    ffn_dim=48,
    position_kernel=6,
    position_groups=4,
    dropout=0.0,
    attention_dropout=0.0,
    layer_drop=0.0,
)
BASE_LIKE = EncoderConfig(conv=TINY_STACK, conv_grad_scale=1.0, feature_dropout=0.0, transformer=TINY_TRANSFORMER)
LARGE_LIKE = dataclasses.replace(
    BASE_LIKE, conv_norm="layer", conv_bias=True, transformer=dataclasses.replace(TINY_TRANSFORMER, norm="pre")
)
LOG_MEL_LIKE = dataclasses.replace(BASE_LIKE, input="log_mel", log_mel_bins=20, conv=((12, 3, 2), (16, 3, 1)))
LOG_MEL_BOTH = {"group": LOG_MEL_LIKE, "layer": dataclasses.replace(LOG_MEL_LIKE, conv_norm="layer", conv_bias=True)}


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Redraw all parameters, large enough that nothing is close to the identity, to zero or to a default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.3 * noise)
            else:
                is_norm_weight = name.endswith("weight")
                parameter.copy_(0.2 * noise + is_norm_weight)


def tiny_encoder(config: EncoderConfig = BASE_LIKE, seed: int = 0) -> SpeechEncoder:
    """Return an encoder with random weights, in evaluation mode."""
    encoder = SpeechEncoder(config)
    randomise(encoder, seed)
    return encoder.eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normal noise that depends only on shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference relative to the expected norm; 0 for two tensors of zeros."""
    found, expected = found.detach().float(), expected.detach().float()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))
