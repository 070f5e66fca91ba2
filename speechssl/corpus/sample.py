"""Samples a part of a manifest of given hours, shared among languages with an exponent.

XLS-R (arXiv:2111.09296, section 3.1) samples language l with a probability proportional to (hours of l) ** alpha:
alpha = 1 keeps the proportions, smaller values favour small languages, 0 makes them equal. Here nothing is repeated: a
language with less than its share is taken whole, and the others share the rest by the same rule.
"""

import math
from collections.abc import Mapping, Sequence

from speechssl.corpus.hashing import place_of
from speechssl.data.utterances import Utterance
from speechssl.errors import ManifestError

__all__ = ["hours_by_language", "quotas", "sample"]


def sample(utterances: Sequence[Utterance], hours: float, *, alpha: float = 1.0, seed: int = 0) -> list[Utterance]:
    """Sample about `hours` of audio without repetition.

    Within a language utterances are taken in the order of the hash of seed and id: a larger sample contains a smaller
    one of the same shares. A language's hours are met to within half an utterance.

    Returns:
        The utterances sampled, in order.

    Raises:
        ManifestError: hours exceed what there is, or hours or alpha are out of range.
    """
    wanted = quotas(hours_by_language(utterances), hours, alpha)
    drawn: set[str] = set()
    filled = dict.fromkeys(wanted, 0.0)
    for utterance in sorted(utterances, key=lambda row: (place_of(row.id, str(seed)), row.id)):
        language = utterance.language or ""
        if filled[language] + utterance.duration_s / 2 <= wanted[language] * 3600 * (1 + 1e-9):
            filled[language] += utterance.duration_s
            drawn.add(utterance.id)
        else:
            filled[language] = math.inf  # full: adding a shorter one later would bias against long ones
    return [utterance for utterance in utterances if utterance.id in drawn]


def quotas(hours_of: Mapping[str, float], hours: float, alpha: float) -> dict[str, float]:
    """Share `hours` among languages in proportion to hours ** `alpha`, at most the hours of each.

    Raises:
        ManifestError: hours exceed what there is, or hours or alpha are out of range.

    Examples:
        >>> quotas({"en": 100.0, "nl": 25.0}, 15.0, alpha=0.5)
        {'en': 10.0, 'nl': 5.0}
        >>> quotas({"en": 100.0, "nl": 1.0}, 15.0, alpha=0.0)
        {'en': 14.0, 'nl': 1.0}
    """
    total = math.fsum(hours_of.values())
    if not 0 < hours <= total * (1 + 1e-9):
        raise ManifestError(f"hours: expected more than 0 and at most the {total:.4g} there are, found {hours:g}")
    if not 0 <= alpha <= 1:
        raise ManifestError(f"alpha: expected 0 (languages equal) to 1 (as they are), found {alpha:g}")
    quota: dict[str, float] = {}
    while len(quota) < len(hours_of):
        weights = {name: of**alpha for name, of in hours_of.items() if name not in quota}
        left = hours - math.fsum(quota.values())
        shares = {name: left * weight / math.fsum(weights.values()) for name, weight in weights.items()}
        short = {name: hours_of[name] for name, share in shares.items() if share >= hours_of[name]}
        quota |= short or shares
    return {name: quota[name] for name in hours_of}


def hours_by_language(utterances: Sequence[Utterance]) -> dict[str, float]:
    """Return the hours of every language; those of utterances without one are under ''."""
    seconds: dict[str, list[float]] = {}
    for utterance in utterances:
        seconds.setdefault(utterance.language or "", []).append(utterance.duration_s)
    return {language: math.fsum(durations) / 3600 for language, durations in seconds.items()}
