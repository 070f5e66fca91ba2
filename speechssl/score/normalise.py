"""What is done to both texts before they are compared. A report names it: figures of two normalisers do not compare.

`none`: nothing. `nfc`: Unicode NFC, runs of blanks one space. `lower`: that, in lower case. `plain`: that, and
punctuation and symbols become spaces, but for an apostrophe or hyphen between two letters, digits or marks on them;
soft hyphens and other invisible signs vanish, but for joiners between two letters; vowel points that languages leave
out in writing (Arabic, Hebrew) and Russian stress marks are removed.
"""

import re
import unicodedata
from typing import Literal, get_args

from speechssl.data.texts import ONE_FORM, lowered, without_punctuation

__all__ = ["NORMALISERS", "Normaliser", "describe_normaliser", "normalise"]

Normaliser = Literal["none", "nfc", "lower", "plain"]
NORMALISERS: tuple[str, ...] = get_args(Normaliser)

_POINTS = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640]")


def normalise(text: str, how: Normaliser, language: str | None = None) -> str:
    """Normalise one text.

    Args:
        text: of a reference or a hypothesis.
        how: of this module.
        language: two-letter code; matters for Turkish and Azerbaijani capitals and Slavic stress marks.

    Examples:
        >>> normalise("Don’t  press — the KEY!", "plain")
        "don't press the key"
    """
    if how == "none":
        return text
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if how == "nfc":
        return text
    text = unicodedata.normalize("NFC", lowered(text, language))
    if how == "lower":
        return text
    if language in ("be", "bg", "ru", "uk"):
        text = text.replace("\N{COMBINING ACUTE ACCENT}", "")
    return without_punctuation(_POINTS.sub("", text.translate(ONE_FORM)))


def describe_normaliser(how: Normaliser) -> str:
    """Say in a report's words what was done."""
    return {
        "none": "texts as they are",
        "nfc": "Unicode NFC, runs of blanks one space",
        "lower": "Unicode NFC, runs of blanks one space, lower case",
        "plain": "Unicode NFC, lower case, punctuation and symbols removed but inside words, vowel points removed",
    }[how]
