"""ABX triple by triple, with each pair aligned cell by cell: shares no code with the package."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

Sequences = Sequence[np.ndarray]  # (frames, dim) each


def oracle_path_mean(costs: np.ndarray) -> float:
    """Return the mean along the cheapest path through (rows, columns) costs, found from its end."""
    rows, columns = costs.shape
    total = np.full(costs.shape, math.inf)
    for i in range(rows):
        for j in range(columns):
            ways = [total[a, b] for a, b in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if a >= 0 and b >= 0]
            total[i, j] = costs[i, j] + min(ways, default=0.0)
    i, j, length = rows - 1, columns - 1, 1
    while (i, j) != (0, 0):
        ways = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        i, j = min((way for way in ways if min(way) >= 0), key=lambda way: total[way])
        length += 1
    return total[-1, -1] / length


def oracle_angle(one: np.ndarray, other: np.ndarray) -> float:
    """Return the angle of two vectors, as a share of half a turn."""
    cosine = float(one @ other) / math.sqrt(float(one @ one)) / math.sqrt(float(other @ other))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def oracle_abx(
    sequences: Sequences,
    labels: Sequence[tuple[str, str, str, str]],
    *,
    within: bool,
    triphone: bool,
    cost: Callable[[np.ndarray, np.ndarray], float] = oracle_angle,
) -> float:
    """Return the error; labels are (phone, previous, next, speaker)."""

    def distance(x: int, y: int) -> float:
        return oracle_path_mean(np.array([[cost(a, b) for b in sequences[y]] for a in sequences[x]]))

    cells = defaultdict(list)
    for x, (phone, *around, of_x) in enumerate(labels):
        for a, (phone_a, *around_a, of_a) in enumerate(labels):
            if a == x or phone_a != phone or (of_a == of_x) != within or (triphone and around_a != around):
                continue
            for b, (phone_b, *around_b, of_b) in enumerate(labels):
                if phone_b != phone and of_b == of_a and (not triphone or around_b == around):
                    to_a, to_b = distance(x, a), distance(x, b)
                    context = tuple(around) if triphone else ()
                    cells[phone, phone_b, of_a, context, of_x].append((to_a > to_b) + 0.5 * (to_a == to_b))
    by_speaker = defaultdict(list)
    for (phone, other, speaker, *rest), errors in cells.items():
        by_speaker[phone, other, speaker if triphone else (speaker, *rest)].append(np.mean(errors))
    by_pair = defaultdict(list)
    for (phone, other, _), errors in by_speaker.items():
        by_pair[phone, other].append(np.mean(errors))
    return float(np.mean([np.mean(errors) for errors in by_pair.values()]))
