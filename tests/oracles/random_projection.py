"""Codes of BEST-RQ from the equations of its section 3.1, frame by frame and entry by entry."""

import math
from collections.abc import Sequence

Frame = Sequence[float]


def oracle_normalized(mel: Sequence[Frame], how: str) -> list[list[float]]:
    """Subtract each bin's mean over the utterance; divide by its standard deviation, too."""
    if how == "none":
        return [list(frame) for frame in mel]
    columns = []
    for values in zip(*mel, strict=True):
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        scale = 1 / math.sqrt(variance + 1e-5) if how == "mean_and_variance" else 1.0
        columns.append([(value - mean) * scale for value in values])
    return [list(frame) for frame in zip(*columns, strict=True)]


def oracle_stacked(mel: Sequence[Frame], size: int, *, hop: int, window: int) -> list[list[float]]:
    """Join, for each encoder frame, the log-mel frames of 25 ms around its centre, 10 ms apart."""
    number = max(1, round(hop / 160))
    stacked = []
    for frame in range(size):
        centre = frame * hop + window / 2
        joined: list[float] = []
        for place in range(number):
            wanted = centre + (place - (number - 1) / 2) * 160
            nearest = min(range(len(mel)), key=lambda m: (abs(m * 160 + 200 - wanted), -m))
            joined += mel[nearest]
        stacked.append(joined)
    return stacked


def oracle_code(frame: Frame, projection: Sequence[Frame], entries: Sequence[Frame]) -> int:
    """Return argmin over entries c of |norm(c) - norm(A x)|, norm(v) = v / |v|."""
    projected = _unit(
        [sum(x * row[i] for x, row in zip(frame, projection, strict=True)) for i in range(len(entries[0]))]
    )
    distances = [math.dist(projected, _unit(entry)) for entry in entries]
    return distances.index(min(distances))


def _unit(vector: Frame) -> list[float]:
    size = math.sqrt(sum(value * value for value in vector))
    return [value / size for value in vector]
