"""Probabilistic linear discriminant analysis: the two-covariance model, and the projection before it.

An embedding is x = mean + y + e: y, of covariance B, is the same in all utterances of a speaker; e, of covariance W,
is drawn for each utterance (Brümmer and de Villiers 2010, "The speaker partitioning problem", section 4). Two
embeddings are compared by the log of the probability that one speaker gives both over that of two speakers. B and W
are fitted by EM, in coordinates in which both are diagonal; the start is their unbiased moments.

`lda_projection` finds the directions with the largest ratio of between- to within-speaker variance. The training data
of S speakers show at most S - 1 directions between speakers; the model gives no weight to the others, so that the
projection to S - 1 directions loses nothing, and makes W invertible where dimensions are many. Its W is shrunk towards
a multiple of the identity by as much as the data are few (Ledoit and Wolf 2004, "A well-conditioned estimator for
large-dimensional covariance matrices").
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.downstream.pair_scores import Terms
from speechssl.errors import ManifestError

__all__ = ["Plda", "check_training_speakers", "lda_projection", "shrunk_covariance"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Plda:
    """The two-covariance model."""

    mean: Floats  # (dim,)
    between: Floats  # (dim, dim) covariance of speakers
    within: Floats  # (dim, dim) covariance of the utterances of a speaker

    @classmethod
    def fit(cls, embeddings: Floats, speakers: Sequence[str], *, iterations: int = 20) -> "Plda":
        """Fit the model by EM.

        Args:
            embeddings: (utterances, dim).
            speakers: speaker of each utterance; those of one utterance tell about B alone.
            iterations: EM iterations; 0 for the moments.

        Raises:
            ManifestError: there are fewer than two speakers, or none has two utterances.
        """
        numbers, counts = _numbered(speakers)
        residuals, means = _parted(embeddings, numbers, counts)
        total, most = len(embeddings), len(counts)
        mean = embeddings.mean(0)
        within = shrunk_covariance(residuals) * total / (total - most)  # the means took a degree each
        scatter = (means - mean).T @ ((means - mean) * counts[:, None])
        between = (scatter - (most - 1) * within) / (total - (counts**2).sum() / total)
        values, vectors = np.linalg.eigh(between)
        between = (vectors * np.maximum(values, 1e-6 * np.trace(within) / len(within))) @ vectors.T
        model = cls(mean=mean, between=between, within=within)
        for _ in range(iterations):
            model = model._improved(embeddings, numbers, counts)
        return model

    def _improved(self, embeddings: Floats, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> "Plda":
        """Return the model after one EM iteration."""
        transform, ratios = self._diagonal()
        points = (embeddings - self.mean) @ transform.T
        sums = np.zeros((len(counts), points.shape[1]))
        np.add.at(sums, numbers, points)
        variances = ratios / (1 + counts[:, None] * ratios)  # (speakers, dim) of y, given the speaker's utterances
        voices = variances * sums  # its mean
        rest = points - voices[numbers]
        shift = rest.mean(0)
        between = voices.T @ voices / len(counts) + np.diag(variances.mean(0))
        within = (rest - shift).T @ (rest - shift) / len(points)
        within += np.diag((counts[:, None] * variances).sum(0) / len(points))
        back = np.linalg.inv(transform)
        return Plda(mean=self.mean + back @ shift, between=back @ between @ back.T, within=back @ within @ back.T)

    def terms(self, embeddings: Floats) -> Terms:
        """Return what `pair_scores` needs for log-likelihood ratios of any two of (utterances, dim) embeddings."""
        transform, ratios = self._diagonal()
        points = (embeddings - self.mean) @ transform.T
        # sum and difference of two points have the variances 1 + 2 ratio and 1 for one speaker, 1 + ratio for two
        square = -0.25 * (1 / (1 + 2 * ratios) + 1) + 0.5 / (1 + ratios)
        constant = (np.log1p(ratios) - 0.5 * np.log1p(2 * ratios)).sum()
        return Terms(left=points * (ratios / (1 + 2 * ratios)), right=points, own=points**2 @ square + constant / 2)

    def _diagonal(self) -> tuple[Floats, Floats]:
        """Return a (dim, dim) transform that makes W the identity and B diagonal, and (dim,) that diagonal."""
        inverse = np.linalg.inv(np.linalg.cholesky(self.within))
        ratios, vectors = np.linalg.eigh(inverse @ self.between @ inverse.T)
        return vectors.T @ inverse, np.maximum(ratios, 0)


def lda_projection(embeddings: Floats, speakers: Sequence[str], dim: int) -> Floats:
    """Return a (dim, directions) projection in which speakers differ most, with a within-speaker covariance near one.

    Args:
        embeddings: (utterances, dim).
        speakers: speaker of each utterance.
        dim: directions wanted, at most.

    Returns:
        As many directions as wanted, or as the speakers less one, or as the dimensions.

    Raises:
        ManifestError: there are fewer than two speakers, or none has two utterances.
    """
    numbers, counts = _numbered(speakers)
    residuals, means = _parted(embeddings, numbers, counts)
    within = shrunk_covariance(residuals) * len(embeddings) / (len(embeddings) - len(counts))
    inverse = np.linalg.inv(np.linalg.cholesky(within))
    centred = (means - embeddings.mean(0)) * np.sqrt(counts)[:, None] @ inverse.T
    _, vectors = np.linalg.eigh(centred.T @ centred)
    directions = min(dim, len(counts) - 1, embeddings.shape[1])
    return inverse.T @ vectors[:, ::-1][:, :directions]


def shrunk_covariance(points: Floats) -> Floats:
    """Return the Ledoit-Wolf estimate of a covariance from (points, dim) of mean 0: (dim, dim).

    Examples:
        >>> shrunk_covariance(np.array([[1.0, 1.0], [-1.0, -1.0]])).round(2).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    number, dim = points.shape
    plain = points.T @ points / number
    scale = np.trace(plain) / dim
    spread = ((plain - scale * np.eye(dim)) ** 2).sum()
    noise = (((points**2).sum(1) ** 2).sum() - number * (plain**2).sum()) / number**2
    share = min(1.0, max(0.0, noise) / spread) if spread else 0.0
    return (1 - share) * plain + share * scale * np.eye(dim)


def check_training_speakers(speakers: Sequence[str]) -> None:
    """Check that speakers of utterances show differences between speakers and within one.

    Raises:
        ManifestError: there are fewer than two speakers, or none has two utterances.
    """
    counts = Counter(speakers)
    most = max(counts.values(), default=0)
    if len(counts) < 2 or most < 2:
        raise ManifestError(
            f"expected two speakers or more to train on, and one of them with two utterances, found {len(counts)} "
            f"speakers with {most} at most; name a larger training manifest, or score by cosine"
        )


def _numbered(speakers: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (utterances,) numbers of speakers, and (speakers,) how many utterances each has."""
    check_training_speakers(speakers)
    _, numbers, counts = np.unique(np.array(speakers), return_inverse=True, return_counts=True)
    return numbers, counts


def _parted(embeddings: Floats, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return (utterances, dim) differences from the mean of the speaker, and (speakers, dim) these means."""
    means = np.zeros((len(counts), embeddings.shape[1]))
    np.add.at(means, numbers, embeddings)
    means /= counts[:, None]
    return embeddings - means[numbers], means
