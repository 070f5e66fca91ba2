"""Instance norm, nearest entries and moving averages of data2vec and DinoSR, number by number."""

import math
from collections.abc import Sequence

Vector = Sequence[float]


def oracle_normalized(frames: Sequence[Vector], epsilon: float = 1e-5) -> list[list[float]]:
    """Take the mean over time off each channel, and divide by the standard deviation."""
    columns = []
    for channel in zip(*frames, strict=True):
        mean = math.fsum(channel) / len(channel)
        variance = math.fsum((x - mean) ** 2 for x in channel) / len(channel)
        columns.append([(x - mean) / math.sqrt(variance + epsilon) for x in channel])
    return [list(row) for row in zip(*columns, strict=True)]


def oracle_nearest(frame: Vector, entries: Sequence[Vector]) -> int:
    """Return the entry with the smallest squared distance, the first of equal ones."""
    distances = [math.fsum((x - y) ** 2 for x, y in zip(frame, entry, strict=True)) for entry in entries]
    return distances.index(min(distances))


def oracle_moved(
    entries: Sequence[Vector], usage: Vector, frames: Sequence[Vector], decay: float
) -> tuple[list[list[float]], list[float]]:
    """Return entries and usage after one update: moving averages of sums and counts, and their quotient."""
    moved, counts = [], []
    chosen = [oracle_nearest(frame, entries) for frame in frames]
    for number, (entry, used) in enumerate(zip(entries, usage, strict=True)):
        own = [frame for frame, code in zip(frames, chosen, strict=True) if code == number]
        count = decay * used + (1 - decay) * len(own)
        sums = [decay * used * x + (1 - decay) * math.fsum(f[i] for f in own) for i, x in enumerate(entry)]
        moved.append([x / count for x in sums])
        counts.append(count)
    return moved, counts
