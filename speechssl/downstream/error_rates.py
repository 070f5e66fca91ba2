"""Error rates of a detector, such as speaker verification: DET points, EER and normalised minDCF, exact under ties.

A trial is accepted if its score is at least the threshold. Trials of equal score are accepted or rejected together, so
the operating points are those between distinct scores, with "reject all" before them and "accept all" after the last.

EER: the straight lines between neighbouring operating points are crossed with miss = false alarm. So do scikit-learn's
`roc_curve` with linear interpolation and, by it, SUPERB's verification task. It needs no choice between two
thresholds, and does not depend on the order of tied trials. Other definitions differ where trials are few: the ROC's
convex hull (BOSARIS) is never above this one; the point with the smallest gap between the two rates, or their mean
there, may be on either side.

minDCF: NIST's detection cost, least over all thresholds, divided by the cost of the better of the two decisions that
need no score (NIST 2016 Speaker Recognition Evaluation plan, section 3): 1 is worthless, and no detector is above it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.errors import ManifestError

__all__ = ["DetCurve", "SortedTrials", "equal_error_rate", "min_dcf"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DetCurve:
    """Operating points of a detector, from "reject all" to "accept all"."""

    miss: Floats  # (points,) share of target trials below the threshold, 1 to 0
    false_alarm: Floats  # (points,) share of non-target trials at or above it, 0 to 1


class SortedTrials:
    """Scored trials, sorted once, for operating points under any weights of the trials."""

    def __init__(self, scores: ArrayLike, is_target: ArrayLike) -> None:
        """Sort trials.

        Args:
            scores: (trials,) the larger, the more the two sides are alike; infinite ones are allowed.
            is_target: (trials,) bool, True where both sides are of one speaker.

        Raises:
            ManifestError: a score is NaN, or there is no target trial, or no other.
        """
        scores, is_target = np.asarray(scores, np.float64), np.asarray(is_target, bool)
        if scores.shape != is_target.shape or scores.ndim != 1:
            raise ValueError(f"expected as many labels as scores, found {is_target.shape} and {scores.shape}")
        undefined = np.flatnonzero(np.isnan(scores))
        if len(undefined):
            raise ManifestError(
                f"{len(undefined)} of {len(scores)} scores are not a number, the first of trial {undefined[0] + 1}; "
                "correct what computes them, or leave these trials out"
            )
        targets = int(is_target.sum())
        if not 0 < targets < len(scores):
            raise ManifestError(
                f"expected target and non-target trials, found {targets} and {len(scores) - targets}; "
                "name trials with both"
            )
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)  # of runs of equal scores
        self._is_target = is_target[self._order]
        self.thresholds = np.append(np.inf, ordered[self._ends])  # (points,) of the operating points

    def curve(self, weights: NDArray[np.int64] | None = None) -> DetCurve | None:
        """Return the operating points.

        Args:
            weights: (trials,) how often each trial counts, in the order given at first; None: once.

        Returns:
            The points; None if no target trial, or no other, has a weight.
        """
        counts = np.ones(len(self._order), np.int64) if weights is None else weights[self._order]
        accepted = np.cumsum(np.where(self._is_target, counts, 0))[self._ends]
        alarms = np.cumsum(np.where(self._is_target, 0, counts))[self._ends]
        if not accepted[-1] or not alarms[-1]:
            return None
        return DetCurve(
            miss=np.append(1.0, (accepted[-1] - accepted) / accepted[-1]),
            false_alarm=np.append(0.0, alarms / alarms[-1]),
        )


def equal_error_rate(curve: DetCurve) -> float:
    """Return the rate at which misses equal false alarms, on straight lines between the operating points.

    Examples:
        >>> round(equal_error_rate(SortedTrials([3, 2, 1, 0], [1, 0, 1, 0]).curve()), 3)
        0.5
        >>> round(equal_error_rate(SortedTrials([1, 1, 1, 0], [1, 1, 0, 0]).curve()), 3)  # of the three tied trials
        0.333
    """
    gap = curve.miss - curve.false_alarm  # falls from 1 to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(curve.miss[after - 1] + share * (curve.miss[after] - curve.miss[after - 1]))


def min_dcf(curve: DetCurve, p_target: float, *, c_miss: float = 1.0, c_false_alarm: float = 1.0) -> float:
    """Return NIST's detection cost, least over the thresholds and normalised.

    Args:
        curve: operating points.
        p_target: prior probability of a target trial.
        c_miss: cost of a rejected target trial.
        c_false_alarm: cost of an accepted non-target trial.
    """
    of_miss, of_alarm = c_miss * p_target, c_false_alarm * (1 - p_target)
    return float((of_miss * curve.miss + of_alarm * curve.false_alarm).min() / min(of_miss, of_alarm))
