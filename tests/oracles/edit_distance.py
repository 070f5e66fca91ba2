"""Levenshtein distance straight from its definition."""

from collections.abc import Sequence


def oracle_edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return the least number of substitutions, deletions and insertions."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    substitution = oracle_edit_distance(reference[1:], hypothesis[1:]) + (reference[0] != hypothesis[0])
    deletion = oracle_edit_distance(reference[1:], hypothesis) + 1
    insertion = oracle_edit_distance(reference, hypothesis[1:]) + 1
    return min(substitution, deletion, insertion)
