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


def oracle_fairseq_spans(
    counts: list[int], start_prob: float, span: int, min_spans: int, random: np.random.Generator, *, padded: bool
) -> list[np.ndarray]:
    """Return for each row (count,) bool, as fairseq 0.12.2 draws a batch.

    Starts are drawn from one place fewer than there are, or, where that is not enough for all spans, from one more
    than there are spans; what reaches beyond the row is cut. Then positions are freed, one by one, of all rows but the
    least masked. Without padding the number of spans is rounded once.
    """
    shared = random.random()
    rows = []
    for count in counts:
        num_spans = max(min_spans, int(start_prob * count + (random.random() if padded else shared)))
        places = count - span if count - span > num_spans else num_spans + 1
        is_masked = np.zeros(count, dtype=bool)
        for start in random.choice(places, num_spans, replace=False):
            is_masked[start : start + span] = True
        rows.append(is_masked)
    fewest = min(row.sum() for row in rows)
    for row in rows:
        while row.sum() > fewest:
            row[random.choice(np.flatnonzero(row))] = False
    return rows
