"""Error rates of a detector, slowly: every threshold is tried, in exact fractions."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

__all__ = ["operating_points", "slow_eer", "slow_min_dcf"]

Point = tuple[Fraction, Fraction]  # misses, false alarms


def operating_points(scores: Sequence[float], is_target: Sequence[bool]) -> Iterator[Point]:
    """Yield the rates at every threshold: above all scores, then at each."""
    trials = [*zip(scores, is_target, strict=True)]
    targets = [score for score, target in trials if target]
    others = [score for score, target in trials if not target]
    yield Fraction(1), Fraction(0)
    for threshold in sorted(set(scores), reverse=True):
        missed = sum(score < threshold for score in targets)
        alarms = sum(score >= threshold for score in others)
        yield Fraction(missed, len(targets)), Fraction(alarms, len(others))


def slow_eer(scores: Sequence[float], is_target: Sequence[bool]) -> Fraction:
    """Walk along the line through the points until misses are no more than false alarms."""
    points = [*operating_points(scores, is_target)]
    for (miss, alarm), (next_miss, next_alarm) in pairwise(points):
        if next_miss <= next_alarm:
            # miss + t (next_miss - miss) = alarm + t (next_alarm - alarm)
            t = (miss - alarm) / ((next_alarm - alarm) - (next_miss - miss))
            return miss + t * (next_miss - miss)
    raise AssertionError("the last point accepts all")


def slow_min_dcf(
    scores: Sequence[float], is_target: Sequence[bool], p_target: Fraction, c_miss: Fraction, c_false_alarm: Fraction
) -> Fraction:
    """Apply NIST's definition: cost at each threshold, over that of the cheaper of two blind decisions."""
    costs = [
        c_miss * miss * p_target + c_false_alarm * alarm * (1 - p_target)
        for miss, alarm in operating_points(scores, is_target)
    ]
    return min(costs) / min(c_miss * p_target, c_false_alarm * (1 - p_target))
