"""The sizes and batches that are compared with every reference."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.data.batching import Batch
from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count, within
from speechssl.tasks.contrastive import ContrastiveConfig, draw_negatives
from speechssl.tasks.masked_prediction import MaskedPredictionConfig
from speechssl.tasks.quantizer import QuantizerConfig
from tests.model.tiny import BASE_LIKE, LARGE_LIKE, noise

__all__ = ["CASES", "CLUSTERS", "TINY", "TRAINED", "VOCABULARY", "Case", "Draws", "Speech", "randomise_at_width"]

CLUSTERS = 7
VOCABULARY = 6


@dataclass(frozen=True)
class Case:
    """One size and form of the trunk, and the lengths of the batch that it is compared on."""

    name: str
    config: EncoderConfig
    lengths: tuple[int, ...]  # samples
    contrastive: ContrastiveConfig
    masked_prediction: MaskedPredictionConfig

    @property
    def size(self) -> str:
        return self.name.split()[0]


def _at_full_width(config: EncoderConfig, num_layers: int = 2) -> EncoderConfig:
    """Return the published trunk with few layers and without what is random or scales gradients."""
    transformer = dataclasses.replace(
        config.transformer, num_layers=num_layers, dropout=0.0, attention_dropout=0.0, layer_drop=0.0
    )
    return dataclasses.replace(config, feature_dropout=0.0, conv_grad_scale=1.0, transformer=transformer)


def _case(name: str, config: EncoderConfig, lengths: tuple[int, ...]) -> Case:
    is_tiny = name.startswith("tiny")
    contrastive = ContrastiveConfig(feature_dropout=0.0)
    masked_prediction = MaskedPredictionConfig(unmasked_weight=0.5)
    if is_tiny:
        quantizer = QuantizerConfig(groups=2, entries=5, dim=12)
        contrastive = dataclasses.replace(contrastive, dim=8, negatives=6, quantizer=quantizer)
        masked_prediction = dataclasses.replace(masked_prediction, dim=8)
    config = dataclasses.replace(config, padding_in_norm=True)  # as all the references
    return Case(name, config, lengths, contrastive, masked_prediction)


_PRE = dataclasses.replace(BASE_LIKE.transformer, norm="pre")
CASES = [
    _case("tiny base", BASE_LIKE, (430, 610, 820)),
    _case("tiny large", LARGE_LIKE, (430, 610, 820)),
    _case("tiny group norm, pre-norm", dataclasses.replace(BASE_LIKE, transformer=_PRE), (430, 610, 820)),
    _case("tiny layer norm, post-norm", dataclasses.replace(BASE_LIKE, conv_norm="layer"), (430, 610, 820)),
    _case("BASE", _at_full_width(EncoderConfig.base()), (2400, 3123, 4000)),
    _case("LARGE", _at_full_width(EncoderConfig.large()), (2400, 3123, 4000)),
]
TINY = CASES[:-2]
TRAINED = [*TINY[:2], _case("BASE of one layer", _at_full_width(EncoderConfig.base(), 1), (1500, 1800, 2000))]


@dataclass(frozen=True)
class Speech:
    """A batch of noise with its masks, units and text."""

    waveforms: Tensor  # (batch, time), zero in the padding
    num_samples: Tensor  # (batch,)
    counts: Tensor  # (batch,) valid frames
    is_real: Tensor  # (batch, time) bool
    is_valid: Tensor  # (batch, frames) bool
    is_masked: Tensor  # (batch, frames) bool, as many in every row, none in the padding
    labels: Tensor  # (batch, frames) int64
    targets: Tensor  # (batch, tokens) int64
    target_lengths: Tensor  # (batch,)

    @classmethod
    def of(cls, case: Case, *, is_padded: bool) -> "Speech":
        """Draw the batch of a case; without padding every row is as long as the longest."""
        num_samples = torch.tensor(case.lengths)
        if not is_padded:
            num_samples = torch.full_like(num_samples, max(case.lengths))
        is_real = within(num_samples, max(case.lengths))
        counts = frame_count(num_samples, case.config.conv)
        is_valid = within(counts, int(counts.max()))
        shuffled = noise(*is_valid.shape, seed=1).masked_fill(~is_valid, torch.inf).argsort(1).argsort(1)
        return cls(
            waveforms=noise(*is_real.shape) * is_real,
            num_samples=num_samples,
            counts=counts,
            is_real=is_real,
            is_valid=is_valid,
            is_masked=shuffled < int(counts.min()) // 2,
            labels=(noise(*is_valid.shape, seed=2).abs() * 5).long() % CLUSTERS,
            targets=torch.tensor([[1, 2, 2], [3, 1, 0], [5, 0, 0]]),
            target_lengths=torch.tensor([3, 2, 1]),
        )

    def to(self, dtype: torch.dtype) -> "Speech":
        """Return the same waveforms in another precision."""
        return dataclasses.replace(self, waveforms=self.waveforms.to(dtype))

    @property
    def batch(self) -> Batch:
        """The same as our own type."""
        return Batch(
            ids=tuple("abc"),
            waveforms=self.waveforms,
            num_samples=self.num_samples,
            targets=self.targets,
            target_lengths=self.target_lengths,
        )


@dataclass(frozen=True)
class Draws:
    """What `ContrastiveObjective` draws from a generator of a given seed, to be given to a reference."""

    gumbel: Tensor  # (masked, groups, entries)
    negatives: Tensor  # (masked, negatives), positions among the masked frames

    @classmethod
    def of(cls, case: Case, speech: Speech, seed: int, *, is_training: bool = True) -> "Draws":
        """Draw as `ContrastiveObjective` does: noise first, if in training, then negatives."""
        generator = torch.Generator().manual_seed(seed)
        utterance = speech.is_masked.nonzero()[:, 0]
        quantizer = case.contrastive.quantizer
        shape = (len(utterance), quantizer.groups, quantizer.entries)
        uniform = torch.rand(shape, generator=generator) if is_training else torch.full(shape, 0.5)
        negatives = draw_negatives(utterance, case.contrastive.negatives, 0, generator)
        return cls(gumbel=-(-uniform.log()).log(), negatives=negatives)


def randomise_at_width(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter of ours anew so that outputs are of order 1 at any width."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.2 * drawn + name.endswith("weight"))  # norms and biases
            elif name.endswith("original0"):
                parameter.copy_(2.5 + 0.5 * drawn)  # magnitude of a tap over all channels, 6 channels to a tap
            else:
                fan_in = parameter[0].numel() if "conv" in name else parameter.shape[-1]
                parameter.copy_(1.4 * fan_in**-0.5 * drawn)
