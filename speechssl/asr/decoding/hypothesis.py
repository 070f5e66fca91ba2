"""Hypotheses: texts with scores, and the frames of their tokens; greedy decoding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechssl.asr.transcripts.timed import Token, best_path
from speechssl.text.vocabulary import BLANK, Vocabulary, frames_needed

__all__ = ["Decoder", "GreedyDecoder", "Hypothesis", "first_words", "greedy_decode", "merged", "place_tokens"]


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A hypothesis for an utterance.

    `asr.transcripts.timed.words_of` turns the tokens into words with times and confidences. The confidence of a word is
    the mean probability of its letters, each at its best frame, without the language model.
    """

    text: str
    score: float  # natural logarithm; comparable between hypotheses of one utterance and one decoder
    place: Callable[[], tuple[Token, ...]] = field(repr=False, compare=False)  # finds `tokens`

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """Tokens on the most probable path of the text, word boundaries included; computed on request.

        The alignment costs a third of a narrow search, and is usually needed for the best hypothesis only.
        """
        return self.place()


class Decoder(Protocol):
    """Interface from log-probabilities to texts."""

    def decode(self, log_probs: Tensor, counts: Tensor) -> list[list[Hypothesis]]:
        """Decode a batch.

        Args:
            log_probs: (batch, frames, vocab) natural logarithms, on any device.
            counts: (batch,) int64, valid frames of each row.

        Returns:
            For each row its hypotheses, best first, at least one, with distinct texts.
        """
        ...


def first_words(tokens: Sequence[int], boundary: int, words: int) -> list[int]:
    """Return the tokens of the first words, with one boundary between words.

    Examples:
        >>> first_words([1, 5, 6, 1, 1, 7, 1, 8], boundary=1, words=2)
        [5, 6, 1, 7]
    """
    spelt = [list(run) for is_boundary, run in groupby(tokens, key=boundary.__eq__) if not is_boundary]
    return [token for word in spelt[:words] for token in (boundary, *word)][1:]


def place_tokens(log_probs: Tensor, ids: Sequence[int]) -> tuple[Token, ...]:
    """Align tokens with frames on their most probable path.

    Args:
        log_probs: (frames, vocab), of one utterance without padding.
        ids: token ids without blanks.

    Raises:
        ValueError: there are fewer frames than the tokens need.
    """
    required = frames_needed(ids)
    if required > len(log_probs):
        raise ValueError(f"{len(ids)} tokens need {required} frames, found {len(log_probs)}")
    values = log_probs.double().numpy()
    tokens: list[Token] = []
    frame = 0
    for place, run in groupby(_best_path(values, np.array(ids, np.int64)).tolist()):
        behind = frame + len(list(run))
        if place % 2:
            token = ids[place // 2]
            best = float(np.exp(values[frame:behind, token].max()))
            tokens.append(Token(id=token, start=frame, end=behind, probability=best))
        frame = behind
    return tuple(tokens)


def _best_path(values: NDArray[np.float64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the (frames,) states of the most probable path: token i is state 2 i + 1, blanks are the even states."""
    line = np.full(2 * len(ids) + 1, BLANK)
    line[1::2] = ids
    can_skip = np.zeros(len(line), bool)  # whether the blank before a token may be skipped
    can_skip[3::2] = ids[1:] != ids[:-1]
    scores = np.full(len(line), -np.inf)
    scores[0] = 0.0  # before the first frame the path is at the leading blank
    steps = np.zeros((len(values), len(line)), np.int64)
    for frame, row in enumerate(values):
        choices = np.full((3, len(line)), -np.inf)
        choices[0] = scores
        choices[1, 1:] = scores[:-1]
        choices[2, 2:] = np.where(can_skip[2:], scores[:-2], -np.inf)
        steps[frame] = choices.argmax(0)
        scores = choices.max(0) + row[line]
    place = len(line) - 1
    if len(ids) and scores[-2] > scores[-1]:
        place -= 1
    path = np.zeros(len(values), np.int64)
    for frame in range(len(values) - 1, -1, -1):
        path[frame] = place
        place -= steps[frame, place]
    return path


def greedy_decode(logits: Tensor, counts: Tensor) -> list[list[int]]:
    """Decode a batch.

    Args:
        logits: (batch, frames, vocab), or log-probabilities.
        counts: (batch,) int64, valid frames of each row.

    Returns:
        For each row its token ids.

    Examples:
        >>> import torch
        >>> best = torch.tensor([[2, 2, 0, 2, 3, 3]])
        >>> greedy_decode(torch.nn.functional.one_hot(best), torch.tensor([5]))
        [[2, 2, 3]]
    """
    return [merged(best[:count]) for best, count in zip(logits.argmax(-1).cpu(), counts.tolist(), strict=True)]


def merged(path: Tensor) -> list[int]:
    """Return the token ids of one path, (frames,) int64: repeats merged, blanks removed."""
    return [token for token in path.unique_consecutive().tolist() if token != BLANK]


class GreedyDecoder:
    """Greedy decoder: the most probable token of each frame; one hypothesis with the score of this path."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def decode(self, log_probs: Tensor, counts: Tensor) -> list[list[Hypothesis]]:
        """Decode a batch; see `Decoder`."""
        found = []
        for row, count in zip(log_probs.cpu(), counts.tolist(), strict=True):
            tokens = best_path(row[:count])
            text = self._vocabulary.decode([token.id for token in tokens])
            score = float(row[:count].max(-1).values.sum())
            found.append([Hypothesis(text=text, score=score, place=partial(tuple, tokens))])
        return found
