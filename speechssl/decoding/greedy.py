"""CTC logits to token ids: the best token of each frame, repeats merged, blanks removed."""

from functools import partial

from torch import Tensor

from speechssl.data.vocabulary import BLANK, Vocabulary
from speechssl.decoding.hypothesis import Hypothesis
from speechssl.transcripts.timed import best_path

__all__ = ["GreedyDecoder", "greedy_decode", "merged"]


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
    """The likeliest token of each frame; one hypothesis, whose score is that of this path."""

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
