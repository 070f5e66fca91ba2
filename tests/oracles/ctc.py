"""CTC by enumeration of every path, and greedy decoding with itertools."""

import itertools
import math
from collections.abc import Sequence


def oracle_collapse(path: Sequence[int]) -> list[int]:
    """Merge repeats, then remove blanks (token 0)."""
    return [token for token, _ in itertools.groupby(path) if token != 0]


def oracle_required_frames(target: Sequence[int]) -> int:
    """Return the length of the shortest path that collapses to the target."""
    alphabet = sorted({0, *target})
    for frames in itertools.count():
        if any(oracle_collapse(path) == list(target) for path in itertools.product(alphabet, repeat=frames)):
            return frames
    raise AssertionError


def oracle_ctc_loss(log_probs: Sequence[Sequence[float]], target: Sequence[int]) -> float:
    """Return the negative log-probability of all paths that collapse to the target, 0 if there are none."""
    vocabulary = range(len(log_probs[0]))
    paths = itertools.product(vocabulary, repeat=len(log_probs))
    chances = [
        math.exp(sum(row[token] for row, token in zip(log_probs, path, strict=True)))
        for path in paths
        if oracle_collapse(path) == list(target)
    ]
    return -math.log(sum(chances)) if chances else 0.0
