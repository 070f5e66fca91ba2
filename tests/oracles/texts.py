"""Texts and their scores from log-probabilities, by enumeration of every path."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence


def oracle_texts(log_probs: Sequence[Sequence[float]], tokens: Sequence[str], *, add: bool) -> dict[str, float]:
    """Return the sum (or the largest) of the probabilities of all paths to each text, as logarithms.

    Token 0 is the blank, `|` is between words; boundaries at the ends and doubled ones say nothing.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for path in itertools.product(range(len(tokens)), repeat=len(log_probs)):
        letters = "".join(tokens[token] for token, _ in itertools.groupby(path) if token != 0)
        text = " ".join(letters.replace("|", " ").split())
        found[text].append(sum(row[token] for row, token in zip(log_probs, path, strict=True)))
    return {text: math.log(sum(map(math.exp, all))) if add else max(all) for text, all in found.items()}
