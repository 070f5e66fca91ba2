"""Batches for the parts of recipes/gpu: noise, of the lengths of real utterances, put together as training does.

A GPU's time does not depend on what is said, so no audio has to be carried. The lengths are those of festvox-ru
(Debian; 620 sentences read by one speaker, 99.5 minutes): every 40th part of their distribution.
"""

from collections.abc import Sequence

import numpy as np
import torch

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.batching import Batch, BatchConfig, BatchSampler, Example, collate
from speechssl.data.utterances import Utterance
from speechssl.model.frames import Stack, frame_count

__all__ = ["draw_lengths", "list_utterances", "mixed_batches"]

QUANTILES_S = (
    *(3.8, 5.1, 5.6, 5.8, 6.1, 6.4, 6.6, 6.8, 7.1, 7.1, 7.2, 7.5, 7.7, 7.9, 8.1, 8.2, 8.4, 8.6, 8.7, 8.9, 9.1),
    *(9.4, 9.7, 9.9, 10.2, 10.3, 10.6, 10.8, 11.1, 11.4, 11.7, 12.1, 12.4, 12.7, 13.0, 13.3, 13.8, 14.2, 14.9, 16.0),
    18.0,
)
LETTERS_A_SECOND = 12


def draw_lengths(seconds: float, *, seed: int, scale: float = 1.0) -> list[int]:
    """Draw the lengths of utterances, in samples, until they last `seconds`; `scale` makes all shorter."""
    random = np.random.default_rng(seed)
    places = np.linspace(0, 1, len(QUANTILES_S))
    lengths: list[int] = []
    while sum(lengths) < seconds * SAMPLE_RATE:
        lengths.append(int(scale * SAMPLE_RATE * np.interp(random.uniform(), places, QUANTILES_S)))
    return lengths


def list_utterances(lengths: Sequence[int]) -> list[Utterance]:
    """Name utterances of these lengths; there are no files."""
    return [
        Utterance(id=f"u{number}", path=f"u{number}.wav", num_samples=length, sample_rate=SAMPLE_RATE, channels=1)
        for number, length in enumerate(lengths)
    ]


def mixed_batches(
    number: int,
    config: BatchConfig,
    *,
    stack: Stack,
    clusters: Sequence[int],
    vocabulary: int,
    seed: int,
    scale: float = 1.0,
) -> list[Batch]:
    """Make batches of noise as `BatchSampler` puts them together, with random labels and texts.

    Args:
        number: of batches.
        config: how many seconds each holds, and how long a crop may be.
        stack: of the encoder, for the number of labels.
        clusters: units of each label stream.
        vocabulary: tokens, the blank among them.
        seed: of everything that is drawn.
        scale: of all lengths.
    """
    utterances = list_utterances(draw_lengths((2 * number + 2) * config.seconds, seed=seed, scale=scale))
    epoch = BatchSampler(utterances, config, seed=seed).epoch(0)
    full = [crops for crops in epoch if sum(crop.num_samples for crop in crops) > 0.8 * config.seconds * SAMPLE_RATE]
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for crops in full[:number]:
        examples = []
        for crop in crops:
            frames = frame_count(crop.num_samples, stack)
            tokens = max(1, int(crop.num_samples / SAMPLE_RATE * LETTERS_A_SECOND))
            examples.append(
                Example(
                    id=utterances[crop.index].id,
                    waveform=0.1 * torch.randn(crop.num_samples, generator=generator),
                    labels=torch.stack([torch.randint(k, (frames,), generator=generator) for k in clusters]),
                    tokens=torch.randint(1, vocabulary, (tokens,), generator=generator),
                )
            )
        batches.append(collate(examples))
    return batches
