"""How much of an epoch each corpus fills: small ones come again within it, of large ones it has a part.

XLS-R (arXiv:2111.09296, section 3.1) draws corpora in proportion to (their hours) ** alpha. Here nothing is drawn with
replacement: the utterances of a corpus come in rounds, each in an order of its own, and an epoch takes up where the one
before it ended. So no utterance comes twice before all have come once, and any epoch can be planned by itself.
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
    """What counts as a corpus, and how much of an epoch it fills."""

    alpha: float = 1.0  # exponent of a corpus's hours: 1 as they are, 0 all corpora equal
    by: Literal["manifest", "language"] = "manifest"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(
                f"batch.mix.alpha must lie between 0 (corpora equal) and 1 (as they are), found {self.alpha}"
            )


class Mix:
    """The utterances of each epoch; a function of seed and epoch."""

    def __init__(
        self,
        codes: NDArray[np.int32],
        lengths: NDArray[np.int64],
        *,
        alpha: float,
        generator: Callable[[int, int], torch.Generator],
    ) -> None:
        """Share out an epoch, which lasts as long as all utterances do.

        Args:
            codes: (utterances,) int32, which corpus each is of.
            lengths: (utterances,) int64, samples.
            alpha: exponent of a corpus's hours.
            generator: of the order of a corpus in a round, given their numbers.
        """
        self._members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
        self._generator = generator
        samples = np.array([lengths[members].sum() for members in self._members], np.float64)
        weights = np.where(samples > 0, np.maximum(samples, 1) ** alpha, 0)
        shares = weights / weights.sum() * samples.sum()  # samples of an epoch
        self.rounds = shares / np.maximum(samples, 1)  # (corpora,): how often an epoch goes through each
        self._counts = [
            max(1, round(len(members) * rounds)) if len(members) else 0
            for members, rounds in zip(self._members, self.rounds.tolist(), strict=True)
        ]

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the places of an epoch's utterances, in ascending order; one that comes again stands there again."""
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
    """Return the names of the corpora, and for each utterance the number of its own, (utterances,) int32.

    Utterances of one manifest alone, and those without a language, are of the corpus ''.
    """
    numbers: defaultdict[str | None, int] = defaultdict(count().__next__)
    blocks = Rows.of(utterances).column("corpus" if by == "manifest" else "language")
    codes = np.concatenate([np.fromiter(map(numbers.__getitem__, block), np.int32, len(block)) for block in blocks])
    return [name or "" for name in numbers], codes
