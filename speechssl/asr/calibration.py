"""From a confidence measure to the share of letters that are right: choice of the measure, map, and how far it errs.

The measure is chosen by the area under its risk-coverage curve (Geifman and El-Yaniv, arXiv:1705.08500): the CER of the
utterances that are kept, as fewer are. The map to expected accuracy is monotone, by pool adjacent violators. Its error
is the expected calibration error (Naeini et al. 2015), on utterances that the map was not fitted on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

__all__ = [
    "Bin",
    "Isotonic",
    "bins_of",
    "calibration_error",
    "choose_measure",
    "cross_fitted",
    "fit_isotonic",
    "right_letters",
    "risk_area",
    "risk_coverage",
]

Floats = NDArray[np.float64]
Name = TypeVar("Name", bound=str)

_ROUNDING = 1e-9  # accuracies that differ by less are equal
_BINS, _FOLDS = 10, 5


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """A rising map, linear between its points and constant outside."""

    confidence: tuple[float, ...]  # ascending
    accuracy: tuple[float, ...]  # ascending

    def __call__(self, confidence: Sequence[float]) -> Floats:
        """Return the expected accuracy of each confidence."""
        return np.interp(np.asarray(confidence, np.float64), self.confidence, self.accuracy)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Utterances of similar expected accuracy."""

    expected: float  # mean expected accuracy
    accuracy: float  # share of right letters
    utterances: int
    letters: float


def risk_coverage(confidence: Sequence[float], errors: Sequence[float], letters: Sequence[float]) -> Floats:
    """Return the CER of the surest utterances, for each number of them.

    Utterances of equal confidence have no order: each of them counts with the mean errors and letters of all.

    Args:
        confidence: (utterances,), higher is surer.
        errors: (utterances,) wrong letters.
        letters: (utterances,) letters of the references.

    Returns:
        (utterances,) float64, of the surest one, the surest two, ...
    """
    _, group = np.unique(-np.asarray(confidence, np.float64), return_inverse=True)
    sizes = np.bincount(group)
    order = np.sort(group)
    totals = [np.bincount(group, np.asarray(each, np.float64)) / sizes for each in (errors, letters)]
    wrong, spoken = (np.cumsum(total[order]) for total in totals)
    return wrong / spoken


def risk_area(confidence: Sequence[float], errors: Sequence[float], letters: Sequence[float]) -> float:
    """Return the mean of the risk-coverage curve: the CER of what is kept, averaged over all numbers of utterances."""
    return float(risk_coverage(confidence, errors, letters).mean())


def choose_measure(
    measures: Mapping[Name, Sequence[float]], errors: Sequence[float], letters: Sequence[float]
) -> tuple[Name, dict[Name, float]]:
    """Return the measure with the least area under the risk-coverage curve, the first of equals, and all areas."""
    areas = {name: risk_area(values, errors, letters) for name, values in measures.items()}
    return min(areas, key=areas.__getitem__), areas


def fit_isotonic(confidence: Sequence[float], accuracy: Sequence[float], weights: Sequence[float]) -> Isotonic:
    """Fit the rising map with the least weighted squared error, by pool adjacent violators.

    Args:
        confidence: (utterances,).
        accuracy: (utterances,) share of right letters.
        weights: (utterances,), as the number of letters; above 0.

    Returns:
        The map through the middle of each block of equal accuracy.
    """
    values, group = np.unique(np.asarray(confidence, np.float64), return_inverse=True)
    weight = np.bincount(group, np.asarray(weights, np.float64))
    mean = np.bincount(group, np.asarray(weights, np.float64) * np.asarray(accuracy, np.float64)) / weight
    blocks: list[tuple[float, float, float]] = []  # accuracy, weight, weight times confidence
    for block in zip(mean.tolist(), weight.tolist(), (weight * values).tolist(), strict=True):
        now = block
        while blocks and blocks[-1][0] >= now[0] - _ROUNDING:
            before = blocks.pop()
            total = before[1] + now[1]
            now = ((before[0] * before[1] + now[0] * now[1]) / total, total, before[2] + now[2])
        blocks.append(now)
    return Isotonic(
        confidence=tuple(place / weight for _, weight, place in blocks),
        accuracy=tuple(level for level, _, _ in blocks),
    )


def cross_fitted(
    confidence: Sequence[float],
    accuracy: Sequence[float],
    weights: Sequence[float],
    *,
    utterances: Sequence[int] | None = None,
) -> Floats:
    """Return the expected accuracy of each item by a map fitted on the other folds, (items,) float64.

    With fewer than two utterances there is nothing to fit on: it is the item's own accuracy.

    Args:
        confidence: (items,) of utterances, or of their letters.
        accuracy: (items,) share that is right.
        weights: (items,), above 0.
        utterances: (items,) number of the utterance of each, which shares a fold; None: every item is one.
    """
    values = [np.asarray(each, np.float64) for each in (confidence, accuracy, weights)]
    groups = np.arange(len(values[0])) if utterances is None else np.unique(utterances, return_inverse=True)[1]
    if not len(groups) or not groups.max():
        return values[1].copy()
    folds = groups % min(_FOLDS, int(groups.max()) + 1)
    expected = np.empty(len(folds))
    for fold in range(int(folds.max()) + 1):
        is_inside = folds == fold
        expected[is_inside] = fit_isotonic(*(each[~is_inside].tolist() for each in values))(values[0][is_inside])
    return expected


def right_letters(hypothesis: str, reference: str) -> list[bool]:
    """Say of each letter of a hypothesis whether a minimal alignment with the reference leaves it as it is.

    Examples:
        >>> right_letters("abcc", "acd")
        [True, False, True, False]
    """
    found = [False] * len(hypothesis)
    for block in Levenshtein.opcodes(hypothesis, reference):
        if block.tag == "equal":
            found[block.src_start : block.src_end] = [True] * (block.src_end - block.src_start)
    return found


def bins_of(
    expected: Sequence[float], accuracy: Sequence[float], letters: Sequence[float], *, bins: int = _BINS
) -> list[Bin]:
    """Group utterances by expected accuracy into at most `bins` groups of nearly as many utterances each."""
    columns = [np.asarray(each, np.float64) for each in (expected, accuracy, letters)]
    order = np.argsort(columns[0], kind="stable")
    return [
        Bin(
            expected=float(np.average(columns[0][part], weights=columns[2][part])),
            accuracy=float(np.average(columns[1][part], weights=columns[2][part])),
            utterances=len(part),
            letters=float(columns[2][part].sum()),
        )
        for part in np.array_split(order, min(bins, len(order)))
    ]


def calibration_error(expected: Sequence[float], accuracy: Sequence[float], letters: Sequence[float]) -> float:
    """Return the expected calibration error: the mean distance of expected and true accuracy of bins, by letters."""
    found = bins_of(expected, accuracy, letters)
    distances = [abs(each.expected - each.accuracy) for each in found]
    return float(np.average(distances, weights=[each.letters for each in found]))
