"""Span masks drawn row by row as section 4.2 of wav2vec 2.0 says, with numpy."""

import numpy as np


def oracle_spans(count: int, start_prob: float, span: int, min_spans: int, random: np.random.Generator) -> np.ndarray:
    """Return (count,) bool: starts drawn without replacement among the positions where a span fits."""
    num_spans = max(min_spans, int(start_prob * count + random.random()))
    is_masked = np.zeros(count, dtype=bool)
    for start in random.choice(count - span + 1, min(num_spans, count - span + 1), replace=False):
        is_masked[start : start + span] = True
    return is_masked


def oracle_runs(is_masked: list[bool]) -> list[int]:
    """Return the lengths of the runs of True."""
    return [len(run) for run in "".join("x" if one else " " for one in is_masked).split()]
