"""What decoders return: texts with scores, and the frames in which their tokens were said."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

import torch
from torch import Tensor
from torchaudio.functional import forced_align

from speechssl.data.vocabulary import BLANK
from speechssl.transcripts.timed import Token

__all__ = ["Decoder", "Hypothesis", "first_words", "place_tokens"]


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What may have been said in an utterance.

    `speechssl.transcripts.timed.words_of` makes words with times and confidences of the tokens: a word's confidence is
    the mean probability of its letters, each at its best frame, as the model gives it without language model.
    """

    text: str
    score: float  # natural logarithm; comparable between hypotheses of one utterance and one decoder
    tokens: tuple[Token, ...]  # on the most probable path of this text; word boundaries between words included


class Decoder(Protocol):
    """Turns log-probabilities into texts."""

    def decode(self, log_probs: Tensor, counts: Tensor) -> list[list[Hypothesis]]:
        """Decode a batch.

        Args:
            log_probs: (batch, frames, vocab) natural logarithms, on any device.
            counts: (batch,) int64, valid frames of each row.

        Returns:
            For each row its hypotheses, best first, at least one; their texts differ.
        """
        ...


def first_words(tokens: Sequence[int], boundary: int, words: int) -> list[int]:
    """Return the tokens of the first words, with one boundary between two.

    Examples:
        >>> first_words([1, 5, 6, 1, 1, 7, 1, 8], boundary=1, words=2)
        [5, 6, 1, 7]
    """
    spelt = [list(run) for is_boundary, run in groupby(tokens, key=boundary.__eq__) if not is_boundary]
    return [token for word in spelt[:words] for token in (boundary, *word)][1:]


def place_tokens(log_probs: Tensor, ids: Sequence[int]) -> tuple[Token, ...]:
    """Find the frames of tokens on the most probable path that says them.

    Args:
        log_probs: (frames, vocab), of one utterance without padding.
        ids: without blanks.

    Raises:
        ValueError: there are fewer frames than the tokens need.
    """
    required = len(ids) + sum(left == right for left, right in pairwise(ids))
    if required > len(log_probs):
        raise ValueError(f"{len(ids)} tokens need {required} frames, found {len(log_probs)}")
    if not ids:
        return ()
    path, scores = forced_align(log_probs[None].float(), torch.tensor([list(ids)]), blank=BLANK)
    probabilities = scores[0].exp().tolist()
    tokens: list[Token] = []
    frame = 0
    for token, run in groupby(path[0].tolist()):
        behind = frame + len(list(run))
        if token != BLANK:
            best = max(probabilities[frame:behind])
            tokens.append(Token(id=token, start=frame, end=behind, probability=best))
        frame = behind
    return tuple(tokens)
