"""Alignment of hypothesis tokens with reference tokens at the least cost.

`levenshtein` (by rapidfuzz, which jiwer uses, too) minimises the number of errors. `nist` weights a substitution 4 and
an insertion or deletion 3, like sclite, for comparable counts: it may have more errors, of other kinds.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

__all__ = ["Kind", "Method", "Step", "align"]

Kind = Literal["hit", "substitution", "deletion", "insertion"]
Method = Literal["levenshtein", "nist"]

_SUBSTITUTION, _GAP = 4, 3  # sclite's weights (SCTK, doc/sclite.htm)


class Step(NamedTuple):
    """A pair of tokens; None for the missing side of an insertion or deletion."""

    kind: Kind
    reference: str | None
    hypothesis: str | None


def align(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]], method: Method) -> list[list[Step]]:
    """Align tokens with tokens, utterance by utterance.

    Args:
        references: tokens of each utterance.
        hypotheses: as many utterances.
        method: alignment method.

    Examples:
        >>> [step.kind for step in align([["a", "b"]], [["a", "c", "d"]], "levenshtein")[0]]
        ['hit', 'insertion', 'substitution']
    """
    one = _nist if method == "nist" else _levenshtein
    return [one(*pair) for pair in zip(references, hypotheses, strict=True)]


def _levenshtein(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Step]:
    steps: list[Step] = []
    for code in Levenshtein.opcodes(reference, hypothesis):
        expected, found = reference[code.src_start : code.src_end], hypothesis[code.dest_start : code.dest_end]
        if code.tag == "delete":
            steps += [Step("deletion", token, None) for token in expected]
        elif code.tag == "insert":
            steps += [Step("insertion", None, token) for token in found]
        else:
            name: Kind = "hit" if code.tag == "equal" else "substitution"
            steps += [Step(name, *pair) for pair in zip(expected, found, strict=True)]
    return steps


def _nist(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Step]:
    ids = {token: number for number, token in enumerate({*reference, *hypothesis})}
    found = np.array([ids[token] for token in hypothesis], np.int64)
    ahead = _GAP * np.arange(len(hypothesis) + 1)
    rows = [ahead]
    for token in reference:
        above = rows[-1]
        row = above + _GAP  # a deletion
        row[1:] = np.minimum(row[1:], above[:-1] + _SUBSTITUTION * (found != ids[token]))
        rows.append(np.minimum.accumulate(row - ahead) + ahead)  # any number of insertions
    steps: list[Step] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        cost = rows[i][j]
        is_hit = bool(i and j) and reference[i - 1] == hypothesis[j - 1]
        if i and j and cost == rows[i - 1][j - 1] + (0 if is_hit else _SUBSTITUTION):
            i, j = i - 1, j - 1
            steps.append(Step("hit" if is_hit else "substitution", reference[i], hypothesis[j]))
        elif j and cost == rows[i][j - 1] + _GAP:
            j -= 1
            steps.append(Step("insertion", None, hypothesis[j]))
        else:
            i -= 1
            steps.append(Step("deletion", reference[i], None))
    return steps[::-1]
