"""Gumbel product quantizer: maps a frame to one entry of each of several codebooks.

Section 2 of wav2vec 2.0 (arXiv:2006.11477), equation 1. Used by the contrastive objective only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.tasks.metrics import perplexity

__all__ = ["Quantized", "Quantizer", "QuantizerConfig"]


@configuration
class QuantizerConfig:
    """Codebooks and the temperature of the Gumbel noise; the defaults are BASE."""

    groups: int = 2
    entries: int = 320  # entries of each codebook (fairseq: latent_vars)
    dim: int = 256  # dimension of the concatenated entries (fairseq: latent_dim)
    max_temperature: float = 2.0  # temperature at step 0
    min_temperature: float = 0.5
    decay: float = 0.999995  # factor of the temperature per step

    def __post_init__(self) -> None:
        if self.dim % self.groups:
            raise ConfigError(f"quantizer.dim is {self.dim}, expected a multiple of quantizer.groups ({self.groups})")

    def temperature(self, step: int) -> float:
        """Return the temperature of the Gumbel noise at a training step."""
        return max(self.max_temperature * self.decay**step, self.min_temperature)


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Entries chosen for some frames, and the usage of the codebooks."""

    vectors: Tensor  # (frames, dim)
    codes: Tensor  # (frames, groups) int64, the entry chosen in each group
    soft_perplexity: Tensor  # (), perplexity of the averaged softmax, summed over groups; has the diversity gradient
    hard_perplexity: Tensor  # (), perplexity of the arg-max counts, summed over groups
    soft_usage: Tensor  # (groups, entries) float32, the averaged softmax, detached
    counts: Tensor  # (groups, entries) float32, how often each entry is the best one


class Quantizer(nn.Module):
    """Straight-through Gumbel softmax over entries, in float32 even under autocast."""

    def __init__(self, config: QuantizerConfig, in_dim: int) -> None:
        super().__init__()
        self.config = config
        self.score = nn.Linear(in_dim, config.groups * config.entries)
        nn.init.normal_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.codebook = nn.Parameter(torch.empty(config.groups, config.entries, config.dim // config.groups).uniform_())

    def forward(self, features: Tensor, *, temperature: float, generator: torch.Generator) -> Quantized:
        """Quantize frames.

        Args:
            features: (frames, in_dim), unmasked frames of the extractor.
            temperature: temperature of the Gumbel softmax; no noise is drawn in evaluation mode.
            generator: random generator of the noise, on the device of `features`.
        """
        scores = self.score(features).float().view(-1, self.config.groups, self.config.entries)
        soft = scores.softmax(-1)
        best = scores.argmax(-1)  # (frames, groups)
        counts = _one_hot(best, scores).sum(0)  # (groups, entries)
        if self.training:
            uniform = torch.rand(scores.shape, device=scores.device, generator=generator)
            tiny = torch.finfo(torch.float32).tiny
            gumbel = -(-(uniform.clamp(min=tiny)).log()).clamp(min=tiny).log()
            noisy = ((scores + gumbel) / temperature).softmax(-1)
            codes = noisy.argmax(-1)
            one_hot = _one_hot(codes, scores) + (
                noisy - noisy.detach()
            )  # exactly one-hot forward, soft gradient backward
        else:
            codes = best
            one_hot = _one_hot(codes, scores)
        vectors = torch.einsum("fge,ged->fgd", one_hot, self.codebook.float()).flatten(1)  # (frames, dim)
        soft_usage = soft.mean(0)
        return Quantized(
            vectors=vectors,
            codes=codes,
            soft_perplexity=_perplexity(soft_usage),
            hard_perplexity=perplexity(counts).sum(),
            soft_usage=soft_usage.detach(),
            counts=counts,
        )


def _one_hot(codes: Tensor, like: Tensor) -> Tensor:
    """Return a one-hot tensor like `like`, with 1 at (...) `codes`; `functional.one_hot` would synchronise."""
    return torch.zeros_like(like).scatter_(-1, codes[..., None], 1.0)


def _perplexity(usage: Tensor) -> Tensor:
    """Return exp(entropy) of (groups, entries) distributions, summed over groups, as the released code computes it."""
    return torch.exp(-(usage * torch.log(usage + 1e-7)).sum(-1)).sum()
