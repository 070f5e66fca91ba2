"""Measures of confidence, calibration and loops, straight from their definitions."""

import math
from collections.abc import Sequence


def oracle_path_score(log_probs: Sequence[Sequence[float]], path: Sequence[int]) -> float:
    """Return the mean log-probability of the tokens of a path, one a frame."""
    return sum(row[token] for row, token in zip(log_probs, path, strict=True)) / len(path)


def oracle_certainty(log_probs: Sequence[Sequence[float]]) -> float:
    """Return 1 minus the mean entropy, relative to the highest one, of frames where the blank (0) is not the best."""
    spoken = [row for row in log_probs if max(range(len(row)), key=row.__getitem__) != 0]
    if not spoken:
        return 0.0
    entropies = [-sum(math.exp(value) * value for value in row) / math.log(len(row)) for row in spoken]
    return 1 - sum(entropies) / len(entropies)


def oracle_longest_loop(text: str, longest_unit: int) -> int:
    """Return the length of the longest part that is a unit three times or more, the last time perhaps cut off."""
    best = 0
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            part = text[start:end]
            for size in range(1, longest_unit + 1):
                repeated = part[:size] * (len(part) // size + 1)
                if len(part) >= 3 * size and repeated[: len(part)] == part:
                    best = max(best, len(part))
    return best


def oracle_isotonic(accuracy: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the rising sequence with the least weighted squared error: the min-max formula of isotonic regression."""

    def mean(first: int, last: int) -> float:
        part = range(first, last + 1)
        return sum(accuracy[i] * weights[i] for i in part) / sum(weights[i] for i in part)

    count = len(accuracy)
    return [max(min(mean(first, last) for last in range(i, count)) for first in range(i + 1)) for i in range(count)]


def oracle_risk_area(confidence: Sequence[float], errors: Sequence[float], letters: Sequence[float]) -> float:
    """Return the mean CER of the surest utterance, the surest two, ...; all confidences differ."""
    order = sorted(range(len(confidence)), key=lambda i: -confidence[i])
    rates = [
        sum(errors[i] for i in order[:number]) / sum(letters[i] for i in order[:number])
        for number in range(1, len(order) + 1)
    ]
    return sum(rates) / len(rates)
