"""Counts the matrix products of the encoder in a training step from its configuration, without running it.

Tasks list the products of their heads (`Task.products`).

The count has each forward product and its two gradients, without the gradient of the waveform, those of a frozen
extractor, and layers skipped by layer drop. Convolutions count as matrix products. Norms, activations, dropout, random
numbers, the Fourier transform of log-mel input and the optimiser are left out.
"""

from dataclasses import dataclass

import torch

from speechssl.model.encoder import EncoderConfig
from speechssl.model.frames import frame_count
from speechssl.model.log_mel import FREQUENCIES
from speechssl.model.masking import MaskConfig, draw_spans

__all__ = [
    "Product",
    "masked_share",
    "transformer_products",
    "trunk_products",
]

_DRAWS = 20  # number of masks drawn to estimate the masked share: a standard error of 0.2 %


@dataclass(frozen=True)
class Product:
    """`batch` products of (rows, inner) with (inner, columns), `times` per step, and those of their gradients."""

    part: str
    rows: int
    inner: int
    columns: int
    batch: int = 1
    times: float = 1.0
    has_forward: bool = True
    has_left_gradient: bool = True  # gradient of the left factor (activations)
    has_right_gradient: bool = True  # gradient of the right factor (weights, or other activations)

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """(batch, rows, inner, columns) of each product, forward and backward."""
        found = [(self.batch, self.rows, self.inner, self.columns)] * self.has_forward
        found += [(self.batch, self.rows, self.columns, self.inner)] * self.has_left_gradient
        return found + [(self.batch, self.inner, self.rows, self.columns)] * self.has_right_gradient

    @property
    def flops(self) -> float:
        """Additions and multiplications per step."""
        return len(self.shapes) * self.times * 2.0 * self.batch * self.rows * self.inner * self.columns


def masked_share(config: MaskConfig, *, frames: int = 0, utterances: int = 1) -> float:
    """Return the expected share of masked frames, for utterances with many spans.

    With `same_count` and several utterances of `frames` frames each, it is estimated by drawing masks, since there is
    no closed form for the least masked utterance.

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
    encoder: EncoderConfig,
    utterances: int,
    samples: int,
    *,
    is_training: bool = True,
    trains_conv: bool = True,
    masks: int = 1,
    visible: float = 1.0,
) -> list[Product]:
    """List the products of extractor, projection, positions and layers.

    Args:
        encoder: configuration of the encoder.
        utterances: number of utterances in the batch.
        samples: number of samples of each utterance.
        is_training: whether to include gradients.
        trains_conv: whether to include those of the extractor.
        masks: number of masks of each utterance, which share the extractor.
        visible: share of the frames that the layers run on.
    """
    products = _extractor(encoder, utterances, samples, is_training and trains_conv)
    frames = frame_count(samples, encoder.stack)
    return products + transformer_products(
        encoder, utterances * masks, frames, is_training=is_training, visible=visible
    )


def _extractor(encoder: EncoderConfig, utterances: int, samples: int, is_training: bool) -> list[Product]:
    products, in_channels = [], 1
    for index, (channels, kernel, _) in enumerate(encoder.stack):
        rows = utterances * frame_count(samples, encoder.stack[: index + 1])
        is_log_mel = encoder.input == "log_mel" and index == 0
        products.append(
            Product(
                "log-mel" if is_log_mel else f"extractor {index}",
                rows,
                FREQUENCIES if is_log_mel else in_channels * kernel,
                channels,
                has_left_gradient=is_training and index > 0,
                has_right_gradient=is_training and not is_log_mel,
            )
        )
        in_channels = channels
    return products


def transformer_products(
    encoder: EncoderConfig, utterances: int, frames: int, *, is_training: bool, visible: float = 1.0
) -> list[Product]:
    """List the products of projection, positions and layers; "attention, products" are scores and weighted values."""
    transformer = encoder.transformer
    rows, dim, heads = utterances * frames, transformer.dim, transformer.num_heads
    groups, kernel = transformer.position_groups, transformer.position_kernel
    kept, seen = 1 - transformer.layer_drop if is_training else 1.0, round(visible * frames)

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

    def layers(number: int, frames: int) -> list[Product]:
        rows, times = utterances * frames, number * kept
        return [
            needed("attention, maps", rows, dim, 3 * dim, times=times),
            needed("attention, products", frames, dim // heads, frames, batch=utterances * heads, times=times),
            needed("attention, products", frames, frames, dim // heads, batch=utterances * heads, times=times),
            needed("attention, maps", rows, dim, dim, times=times),
            needed("feed-forward", rows, dim, transformer.ffn_dim, times=times),
            needed("feed-forward", rows, transformer.ffn_dim, dim, times=times),
        ]

    products = [
        needed("projection", rows, encoder.conv[-1][0], dim),
        needed("positions", rows, dim // groups * kernel, dim // groups, batch=groups),
        *layers(transformer.num_layers - len(transformer.lower), seen),
    ]
    if transformer.lower:
        products += layers(len(transformer.lower), -(-seen // transformer.group))
    return products
