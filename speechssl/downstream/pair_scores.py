"""Scores of pairs of embeddings: cosine, the form that PLDA shares with it, and adaptive s-norm.

Cosine and the log-likelihood ratio of PLDA are both own(a) + own(b) + <left(a), right(b)>, which `Terms` holds, so
pairs and cohorts are scored by the same products.

Adaptive s-norm: each side of a trial is scored against a cohort of other speakers; the trial's score less the mean of
the side's highest cohort scores, over their standard deviation, is averaged over both sides (Matějka et al. 2017,
"Analysis of score normalization in multilingual speaker recognition", section 2.3).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import ManifestError

__all__ = ["Terms", "adaptive_s_norm", "cosine_terms", "length_normalised", "score_pairs"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_AT_ONCE = 2**22  # numbers of one product in memory


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What scores of pairs are made of: own[a] + own[b] + left[a] . right[b]."""

    left: Floats  # (utterances, dim)
    right: Floats  # (utterances, dim)
    own: Floats  # (utterances,)


def length_normalised(embeddings: Floats) -> Floats:
    """Divide (utterances, dim) embeddings by their lengths; one of length 0 stays, and its cosine with any is 0."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)


def cosine_terms(embeddings: Floats) -> Terms:
    """Return what `score_pairs` needs for cosines of (utterances, dim) embeddings."""
    unit = length_normalised(embeddings)
    return Terms(left=unit, right=unit, own=np.zeros(len(unit)))


def score_pairs(terms: Terms, first: Indices, second: Indices) -> Floats:
    """Return the (pairs,) scores of utterances `first` with utterances `second`, (pairs,) indices each."""
    most = max(1, _AT_ONCE // terms.left.shape[1])
    found = np.empty(len(first))
    for begin in range(0, len(first), most):
        a, b = first[begin : begin + most], second[begin : begin + most]
        found[begin : begin + most] = terms.own[a] + terms.own[b] + (terms.left[a] * terms.right[b]).sum(1)
    return found


def adaptive_s_norm(
    scores: Floats, first: Indices, second: Indices, terms: Terms, cohort: Terms, *, top: int
) -> Floats:
    """Normalise the scores of pairs by a cohort.

    Args:
        scores: (pairs,) from `score_pairs`.
        first: (pairs,) indices of utterances.
        second: the same for the other side.
        terms: of the utterances.
        cohort: of the cohort, whose speakers should not be in the pairs.
        top: highest cohort scores of a side that count; all if there are fewer.

    Raises:
        ManifestError: the cohort's scores of an utterance are all equal, as those of a cohort of one are.
    """
    most = max(1, _AT_ONCE // len(cohort.own))
    means, deviations = np.empty(len(terms.own)), np.empty(len(terms.own))
    for begin in range(0, len(terms.own), most):
        rows = slice(begin, begin + most)
        against = terms.own[rows, None] + cohort.own + terms.left[rows] @ cohort.right.T
        if top < against.shape[1]:
            against = np.partition(against, -top, axis=1)[:, -top:]
        means[rows], deviations[rows] = against.mean(1), against.std(1)
    if not deviations.all():
        raise ManifestError(
            f"expected cohort scores that differ, found {min(top, len(cohort.own))} equal ones for an utterance; "
            "name a larger training manifest, or leave the s-norm out"
        )
    normalised = [(scores - means[side]) / deviations[side] for side in (first, second)]
    return (normalised[0] + normalised[1]) / 2
