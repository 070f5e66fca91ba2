"""Which tokens are taken for which: the errors of alignments counted by pair, the most frequent first."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from speechssl.scoring.alignment import Kind, Step

__all__ = ["Confusion", "confusions"]


class Confusion(NamedTuple):
    """A token of the reference and what was written for it; None where one side has nothing."""

    kind: Kind
    reference: str | None
    hypothesis: str | None
    times: int
    of: int | None  # occurrences of the reference's token; None for an insertion


def confusions(alignments: Iterable[Sequence[Step]], *, most: int) -> list[Confusion]:
    """Count the errors of alignments.

    Args:
        alignments: steps of each utterance, of words or of characters.
        most: how many pairs to return.

    Examples:
        >>> from speechssl.scoring.alignment import align
        >>> confusions(align(["banana"], ["bonona"], "levenshtein"), most=1)
        [Confusion(kind='substitution', reference='a', hypothesis='o', times=2, of=3)]
    """
    errors: Counter[Step] = Counter()
    occurrences: Counter[str] = Counter()
    for steps in alignments:
        for step in steps:
            if step.reference is not None:
                occurrences[step.reference] += 1
            if step.kind != "hit":
                errors[step] += 1
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0].reference or "", item[0].hypothesis or ""))
    return [
        Confusion(*step, times=times, of=None if step.reference is None else occurrences[step.reference])
        for step, times in ranked[:most]
    ]
