"""Normalisation of both texts before scoring; reports name it, because scores of two normalisers are not comparable.

`none`: no change. `nfc`: Unicode NFC, runs of white space become one space. `lower`: also lower case. `plain`: also
punctuation and symbols become spaces, except signs inside words (rule in `text.words`, results for 52 languages in
docs/scripts.md); vowel points that are usually not written (Arabic, Hebrew, not Yiddish) and Slavic stress marks are
removed.
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

_POINTS_OF = {  # points to remove in languages that spell with some of them
    "ks": re.compile("[\u0610-\u061a\u0640]"),  # Kashmiri writes all vowels
    "yi": re.compile(
        "[\u0591-\u05b3\u05b5\u05b6\u05b9-\u05bb\u05bd\u05c1\u05c4\u05c5\u05c7\u0640]"
    ),  # not those of YIVO
}

_STRESSED = frozenset({"be", "bg", "ru", "rue", "uk"})


def normalise(text: str, how: Normaliser, language: str | None = None) -> str:
    """Normalise one text.

    Args:
        text: a reference or a hypothesis.
        how: the normaliser.
        language: code, such as tr, tur or tr_TR; affects capitals (Turkish), stress marks (Russian), vowel points
            that are spelt (Yiddish), and signs inside words (Finnish).

    Raises:
        ConfigError: the normaliser depends on the language, and the code is invalid.

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
    """Return the description of a normaliser for reports."""
    return {
        "none": "texts as they are",
        "nfc": "Unicode NFC, runs of blanks one space",
        "lower": "Unicode NFC, runs of blanks one space, lower case",
        "plain": "Unicode NFC, lower case, punctuation and symbols removed but inside words, vowel points removed",
    }[how]
