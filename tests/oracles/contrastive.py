"""Equation 3 of wav2vec 2.0, pair by pair, and the perplexity of code usage from its definition."""

import math
from collections.abc import Sequence


def oracle_cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors."""
    norms = math.sqrt(math.fsum(x * x for x in one)) * math.sqrt(math.fsum(x * x for x in other))
    return math.fsum(x * y for x, y in zip(one, other, strict=True)) / norms


def oracle_contrastive_logits(
    context: Sequence[Sequence[float]],
    targets: Sequence[Sequence[float]],
    codes: Sequence[Sequence[int]],
    negatives: Sequence[Sequence[int]],
    temperature: float,
) -> list[list[float]]:
    """Compare each frame with its target, then with each negative; one that equals the target cannot be chosen."""
    rows = []
    for frame, chosen in enumerate(negatives):
        row = [oracle_cosine(context[frame], targets[frame]) / temperature]
        for other in chosen:
            if other < 0 or codes[other] == codes[frame]:
                row.append(-math.inf)
            else:
                row.append(oracle_cosine(context[frame], targets[other]) / temperature)
        rows.append(row)
    return rows


def oracle_like_loudness(loudness: Sequence[float], frame: int, neighbours: int) -> set[int]:
    """Return the frames of one utterance that a frame's negatives come from: next softer ones, then next louder ones.

    Args:
        loudness: loudness of each masked frame of the utterance.
        frame: the frame.
        neighbours: number of frames wanted.
    """
    order = sorted(range(len(loudness)), key=lambda each: (loudness[each], each))
    place = order.index(frame)
    softer, louder = order[:place], order[place + 1 :]
    chosen: list[int] = []
    while len(chosen) < neighbours and (softer or louder):
        wants_softer = sum(order.index(each) < place for each in chosen) < neighbours // 2
        if softer and (wants_softer or not louder or len(chosen) + len(louder) < neighbours):
            chosen.append(softer.pop())
        else:
            chosen.append(louder.pop(0))
    return set(chosen)


def oracle_cross_entropy(logits: Sequence[float], target: int) -> float:
    """Return the negative log-probability of the target."""
    return math.log(math.fsum(math.exp(logit - logits[target]) for logit in logits))


def oracle_perplexity(probabilities: Sequence[float]) -> float:
    """Return the exponential of the entropy."""
    return math.exp(-math.fsum(p * math.log(p) for p in probabilities if p > 0))
