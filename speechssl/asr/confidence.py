"""How sure a recogniser is of a hypothesis: measures of one utterance from its log-posteriors, no reference needed.

All measures rise with confidence. None is a probability of being right: `asr.calibration` maps one to that. Signs of
hallucination, such as loops, are apart, since the posteriors of a hallucinated text may be high.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from speechssl.asr.lm.ngram_model import NGramModel
from speechssl.asr.lm.sentences import as_letters
from speechssl.asr.transcripts.timed import Token, mean_probability
from speechssl.text.vocabulary import BLANK, WORD_BOUNDARY

__all__ = ["LONGEST_UNIT", "Measure", "agreement", "certainty", "lm_score", "longest_loop", "measures_of", "path_score"]

Measure = Literal["posterior", "path", "certainty", "lm", "agreement"]

LONGEST_UNIT = 12  # letters, of what is repeated in a loop


def path_score(log_probs: Tensor, tokens: Sequence[Token]) -> float:
    """Return the mean log-probability of the frames on a path, blanks included; 0 is certainty.

    Args:
        log_probs: (frames, vocab) of one utterance, natural logarithms.
        tokens: tokens of the hypothesis with their frames; the other frames are blanks.
    """
    path = torch.full((len(log_probs),), BLANK)
    for token in tokens:
        path[token.start : token.end] = token.id
    return float(log_probs.gather(1, path[:, None]).double().mean())


def certainty(log_probs: Tensor) -> float:
    """Return 1 minus the mean entropy of the frames whose most probable token is not the blank, relative to log(vocab).

    Frames of blanks are as sure in a wrong text as in a right one. Without other frames the certainty is 0.

    Args:
        log_probs: (frames, vocab) of one utterance, natural logarithms.
    """
    spoken = log_probs[log_probs.argmax(-1) != BLANK].double()
    if not len(spoken):
        return 0.0
    entropy = torch.special.entr(spoken.exp()).sum(-1).mean()
    return 1 - float(entropy) / math.log(log_probs.shape[1])


def lm_score(text: str, lm: NGramModel) -> float:
    """Return the natural log-probability of a text per letter, word gaps and sentence end counted as one each.

    Args:
        text: words separated by spaces.
        lm: an n-gram model of words, or of letters with word boundaries.
    """
    words = text.split()
    letters = as_letters(words)
    score = lm.score_sentence(letters if WORD_BOUNDARY in lm.ids else words).sum()
    return float(score) * math.log(10) / (len(letters) + 1)


def agreement(text: str, other: str) -> float:
    """Return 1 minus the edit distance of two texts, in letters, relative to the longer one; 1 for two empty ones.

    Examples:
        >>> agreement("one", "ones"), agreement("one", "")
        (0.75, 0.0)
    """
    return float(Levenshtein.normalized_similarity(text, other))


def measures_of(
    log_probs: Tensor, text: str, tokens: Sequence[Token], *, lm: NGramModel | None = None, others: Sequence[str] = ()
) -> dict[Measure, float]:
    """Return every measure that can be computed for a hypothesis; `posterior` is 0 for an empty one.

    Args:
        log_probs: (frames, vocab) of one utterance, natural logarithms.
        text: the hypothesis.
        tokens: its tokens with their frames.
        lm: a language model, for `lm`.
        others: hypotheses of another model, or of draws with dropout; `agreement` is their mean.
    """
    found: dict[Measure, float] = {
        "posterior": mean_probability(tokens) if tokens else 0.0,
        "path": path_score(log_probs, tokens),
        "certainty": certainty(log_probs),
    }
    if lm is not None:
        found["lm"] = lm_score(text, lm)
    if others:
        found["agreement"] = sum(agreement(text, other) for other in others) / len(others)
    return found


def longest_loop(text: str) -> int:
    """Return the letters, spaces included, of the longest part that repeats one unit at least three times in a row.

    A unit has up to `LONGEST_UNIT` letters. Recognisers that have lost the audio fall into such loops.

    Examples:
        >>> longest_loop("so no no no no"), longest_loop("one two")
        (13, 0)
    """
    letters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    longest = 0
    for size in range(1, min(LONGEST_UNIT, len(letters) // 3) + 1):
        is_same = letters[size:] == letters[:-size]
        breaks = np.flatnonzero(~is_same)
        runs = np.diff(np.concatenate([[-1], breaks, [len(is_same)]])) - 1
        if (run := int(runs.max())) >= 2 * size:
            longest = max(longest, run + size)
    return longest
