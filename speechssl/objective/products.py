"""The matrix products that a pretraining step asks for, counted from its configuration; nothing is run.

Counted is what the mathematics asks for: each product forward, and its two gradients, without that of the waveform and
without those of a frozen extractor; layers that layer drop skips are not done. Norms, activations, dropout, random
numbers and the optimiser are left out. Convolutions count as the products they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from speechssl.model.conv import frame_count
from speechssl.model.encoder import EncoderConfig
from speechssl.model.masking import MaskConfig, draw_spans
from speechssl.objective.contrastive import ContrastiveConfig
from speechssl.objective.masked_prediction import MaskedPredictionConfig

__all__ = [
    "Product",
    "contrastive_products",
    "masked_prediction_products",
    "masked_share",
    "pretraining_flops",
    "trunk_products",
]

_DRAWS = 20  # of masks, where only draws tell how much is masked: a standard error of 0.2 %


@dataclass(frozen=True)
class Product:
    """`batch` products of (rows, inner) with (inner, columns), `times` a step, and those of their gradients."""

    part: str
    rows: int
    inner: int
    columns: int
    batch: int = 1
    times: float = 1.0
    has_forward: bool = True
    has_left_gradient: bool = True  # of what has rows
    has_right_gradient: bool = True  # of the weights, or of the other activations

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """(batch, rows, inner, columns) of each product that is done, forward and backward."""
        found = [(self.batch, self.rows, self.inner, self.columns)] * self.has_forward
        found += [(self.batch, self.rows, self.columns, self.inner)] * self.has_left_gradient
        return found + [(self.batch, self.inner, self.rows, self.columns)] * self.has_right_gradient

    @property
    def flops(self) -> float:
        """Additions and multiplications in a step."""
        return len(self.shapes) * self.times * 2.0 * self.batch * self.rows * self.inner * self.columns


def pretraining_flops(
    encoder: EncoderConfig,
    objective: ContrastiveConfig | MaskedPredictionConfig,
    *,
    clusters: Sequence[int],
    samples: int,
    utterances: int = 1,
) -> float:
    """Return the operations of a pretraining step for one utterance, as many frames masked as are on average.

    Args:
        encoder: the trunk.
        objective: of either method.
        clusters: units of each label stream; empty for the contrastive objective.
        samples: of the utterance, at 16 kHz.
        utterances: of its batch, as long as it is; with `mask.same_count` the least masked of it counts.
    """
    frames = frame_count(samples, encoder.conv)
    masked = round(masked_share(objective.mask, frames=frames, utterances=utterances) * frames)
    products = trunk_products(encoder, 1, samples)
    match objective:
        case ContrastiveConfig():
            products += contrastive_products(objective, encoder, 1, masked)
        case MaskedPredictionConfig():
            products += masked_prediction_products(objective, encoder, clusters, frames=frames, masked=masked)
    return sum(product.flops for product in products)


def masked_share(config: MaskConfig, *, frames: int = 0, utterances: int = 1) -> float:
    """Return the expected share of frames that overlapping spans cover, in an utterance of many spans.

    With `same_count` and several utterances, of so many frames each, it is the mean of draws: nothing shorter gives the
    share of the least masked.

    Examples:
        >>> round(masked_share(MaskConfig()), 2)  # 49 % in the paper
        0.49
        >>> round(masked_share(MaskConfig(same_count=True), frames=780, utterances=8), 2)
        0.46
    """
    if not config.same_count or utterances < 2 or frames < 1:
        return 1 - (1 - config.start_prob) ** config.span
    counts, generator = torch.full((utterances,), frames), torch.Generator().manual_seed(0)
    draws = [draw_spans(counts, frames, config, generator).sum().item() for _ in range(_DRAWS)]
    return sum(draws) / (_DRAWS * utterances * frames)


def trunk_products(
    encoder: EncoderConfig, utterances: int, samples: int, *, is_training: bool = True, trains_conv: bool = True
) -> list[Product]:
    """List the products of extractor, projection, positions and layers.

    Args:
        encoder: the trunk.
        utterances: in the batch.
        samples: of each.
        is_training: whether gradients are wanted.
        trains_conv: whether the extractor's are.
    """
    products = _extractor(encoder, utterances, samples, is_training and trains_conv)
    return products + _transformer(encoder, utterances, frame_count(samples, encoder.conv), is_training=is_training)


def contrastive_products(
    config: ContrastiveConfig, encoder: EncoderConfig, utterances: int, masked: int
) -> list[Product]:
    """List the products of wav2vec 2.0's heads; `masked` frames in the whole batch."""
    quantizer = config.quantizer
    dim, conv_dim = encoder.transformer.dim, encoder.conv[-1][0]
    own = max(masked // utterances, 1)
    return [
        Product("heads", masked, conv_dim, quantizer.groups * quantizer.entries),
        # forward picks a row of the codebook; backward its gradient is needed for every entry
        Product(
            "heads",
            masked,
            quantizer.entries,
            quantizer.dim // quantizer.groups,
            batch=quantizer.groups,
            has_forward=False,
            has_right_gradient=False,
        ),
        Product("heads", masked, quantizer.dim, config.dim),
        Product("heads", masked, dim, config.dim),
        Product("heads", own, config.dim, min(own, 1 + config.distractors), batch=utterances),
    ]


def masked_prediction_products(
    config: MaskedPredictionConfig, encoder: EncoderConfig, clusters: Sequence[int], *, frames: int, masked: int
) -> list[Product]:
    """List the products of HuBERT's heads; `frames` and `masked` count those of the whole batch."""
    rows = masked if config.unmasked_weight == 0 else frames
    project = Product("heads", rows, encoder.transformer.dim, config.dim * len(clusters))
    return [project, *(Product("heads", rows, config.dim, units) for units in clusters)]


def _extractor(encoder: EncoderConfig, utterances: int, samples: int, is_training: bool) -> list[Product]:
    products, in_channels = [], 1
    for index, (channels, kernel, _) in enumerate(encoder.conv):
        rows = utterances * frame_count(samples, encoder.conv[: index + 1])
        products.append(
            Product(
                f"extractor {index}",
                rows,
                in_channels * kernel,
                channels,
                has_left_gradient=is_training and index > 0,
                has_right_gradient=is_training,
            )
        )
        in_channels = channels
    return products


def _transformer(encoder: EncoderConfig, utterances: int, frames: int, *, is_training: bool) -> list[Product]:
    """List the products of projection, positions and layers; attention's own are those of weights and values."""
    transformer = encoder.transformer
    rows, dim, heads = utterances * frames, transformer.dim, transformer.num_heads
    groups, kernel = transformer.position_groups, transformer.position_kernel
    kept = transformer.num_layers * (1 - transformer.layer_drop if is_training else 1)

    def needed(part: str, rows: int, inner: int, columns: int, batch: int = 1, times: float = 1.0) -> Product:
        return Product(
            part,
            rows,
            inner,
            columns,
            batch,
            times,
            has_left_gradient=is_training,
            has_right_gradient=is_training,
        )

    return [
        needed("projection", rows, encoder.conv[-1][0], dim),
        needed("positions", rows, dim // groups * kernel, dim // groups, batch=groups),
        needed("attention, maps", rows, dim, 3 * dim, times=kept),
        needed("attention, products", frames, dim // heads, frames, batch=utterances * heads, times=kept),
        needed("attention, products", frames, frames, dim // heads, batch=utterances * heads, times=kept),
        needed("attention, maps", rows, dim, dim, times=kept),
        needed("feed-forward", rows, dim, transformer.ffn_dim, times=kept),
        needed("feed-forward", rows, transformer.ffn_dim, dim, times=kept),
    ]
