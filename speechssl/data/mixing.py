"""Mixes corpora: an epoch repeats small corpora and takes a part of large ones.

XLS-R (arXiv:2111.09296, section 3.1) samples corpora in proportion to hours ** alpha. Here sampling is without
replacement: the utterances of a corpus come in rounds, each shuffled anew, and an epoch continues where the previous
one ended. So no utterance repeats before all have come once, and each epoch can be planned independently.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.config import configuration
from speechssl.data.utterances import Rows, Utterance
from speechssl.errors import ConfigError

__all__ = ["Mix", "MixConfig", "corpora"]


@configuration
class MixConfig:
    """Shares of the corpora in an epoch."""

    alpha: float = 1.0  # exponent of a corpus's hours: 1 keeps the proportions, 0 makes all corpora equal
    by: Literal["manifest", "language"] = "manifest"  # what counts as a corpus

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(
                f"batch.mix.alpha must lie between 0 (corpora equal) and 1 (as they are), found {self.alpha}"
            )


class Mix:
    """Selects the utterances of each epoch, as a function of seed and epoch."""

    def __init__(
        self,
        codes: NDArray[np.int32],
        lengths: NDArray[np.int64],
        *,
        alpha: float,
        generator: Callable[[int, int], torch.Generator],
    ) -> None:
        """Compute the share of each corpus; an epoch is as long as all utterances together.

        Args:
            codes: (utterances,) int32, index of each utterance's corpus.
            lengths: (utterances,) int64, samples.
            alpha: exponent of a corpus's hours.
            generator: returns the generator that shuffles a corpus, from the indices of corpus and round.
        """
        self._codes = codes
        self._members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
        self._generator = generator
        samples = np.array([lengths[members].sum() for members in self._members], np.float64)
        weights = np.where(samples > 0, np.maximum(samples, 1) ** alpha, 0)
        shares = weights / weights.sum() * samples.sum()  # (corpora,) samples in an epoch
        self.rounds = shares / np.maximum(samples, 1)  # (corpora,) passes through each corpus in an epoch
        self._counts = [
            max(1, round(len(members) * rounds)) if len(members) else 0
            for members, rounds in zip(self._members, self.rounds.tolist(), strict=True)
        ]

    @property
    def passes(self) -> NDArray[np.float64]:
        """(utterances,) float64, how often an epoch holds each utterance, on average over epochs."""
        sizes = [max(1, len(members)) for members in self._members]
        return (np.array(self._counts, np.float64) / sizes)[self._codes]

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices of an epoch's utterances in ascending order, with repetitions."""
        parts = []
        for code, (members, wanted) in enumerate(zip(self._members, self._counts, strict=True)):
            begin, end = epoch * wanted, (epoch + 1) * wanted
            for round_ in range(begin // max(len(members), 1), -(-end // max(len(members), 1))):
                order = torch.randperm(len(members), generator=self._generator(code, round_)).numpy()
                first = round_ * len(members)
                parts.append(members[order[max(begin - first, 0) : max(end - first, 0)]])
        return np.sort(np.concatenate(parts))


def corpora(
    utterances: Sequence[Utterance], by: Literal["manifest", "language"]
) -> tuple[list[str], NDArray[np.int32]]:
    """Return the names of the corpora, and the index of each utterance's corpus, (utterances,) int32.

    The corpus is '' for utterances of a single manifest, and for those without a language.
    """
    numbers: defaultdict[str | None, int] = defaultdict(count().__next__)
    blocks = Rows.of(utterances).column("corpus" if by == "manifest" else "language")
    codes = np.concatenate([np.fromiter(map(numbers.__getitem__, block), np.int32, len(block)) for block in blocks])
    return [name or "" for name in numbers], codes
