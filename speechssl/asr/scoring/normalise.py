"""What is done to both texts before they are compared. A report names it: figures of two normalisers do not compare.

`none`: nothing. `nfc`: Unicode NFC, runs of blanks one space. `lower`: that, in lower case. `plain`: that, and
punctuation and symbols become spaces, but for signs that stand inside words (`text.words` has the rule, docs/scripts.md
what it makes of 52 languages); vowel points that languages leave out in writing (Arabic, Hebrew, not Yiddish) and
Slavic stress marks are removed.
"""

import re
import unicodedata
from typing import Literal, get_args

from speechssl.text.languages import read_language
from speechssl.text.words import lowered, without_punctuation

__all__ = ["NORMALISERS", "Normaliser", "describe_normaliser", "normalise"]

Normaliser = Literal["none", "nfc", "lower", "plain"]
NORMALISERS: tuple[str, ...] = get_args(Normaliser)

_POINTS = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640]")

_POINTS_OF = {  # where some are letters of the spelling: what is left out in writing there
    "ks": re.compile("[\u0610-\u061a\u0640]"),  # Kashmiri writes all vowels
    "yi": re.compile(
        "[\u0591-\u05b3\u05b5\u05b6\u05b9-\u05bb\u05bd\u05c1\u05c4\u05c5\u05c7\u0640]"
    ),  # not those of YIVO
}

_STRESSED = frozenset({"be", "bg", "ru", "rue", "uk"})


def normalise(text: str, how: Normaliser, language: str | None = None) -> str:
    """Normalise one text.

    Args:
        text: of a reference or a hypothesis.
        how: of this module.
        language: code, such as tr, tur or tr_TR; matters for capitals (Turkish), stress marks (Russian), vowel points
            that are spelt (Yiddish), and signs inside words (Finnish).

    Raises:
        ConfigError: the language matters, and it is no code.

    Examples:
        >>> normalise("Don’t  press — the KEY!", "plain")
        "don't press the key"
    """
    if how == "none":
        return text
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if how == "nfc":
        return text
    known = read_language(language)
    text = unicodedata.normalize("NFC", lowered(text, known))
    if how == "lower":
        return text
    if known is not None and known.is_one_of(_STRESSED):
        text = text.replace("\N{COMBINING ACUTE ACCENT}", "")
    points = _POINTS if known is None else _POINTS_OF.get(known.code, _POINTS)
    return unicodedata.normalize("NFC", without_punctuation(points.sub("", text), known))


def describe_normaliser(how: Normaliser) -> str:
    """Say in a report's words what was done."""
    return {
        "none": "texts as they are",
        "nfc": "Unicode NFC, runs of blanks one space",
        "lower": "Unicode NFC, runs of blanks one space, lower case",
        "plain": "Unicode NFC, lower case, punctuation and symbols removed but inside words, vowel points removed",
    }[how]
