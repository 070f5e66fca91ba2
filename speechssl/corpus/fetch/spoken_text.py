"""Normalises transcripts to the words that are spoken, by one rule for all corpora.

The rule, in this order:

1. Unicode NFC, lower case, apostrophes `'` and hyphens `-` in one form each.
2. The stress marks of Russian, Belarusian and Bulgarian are removed: `+`, and the combining acute accent.
3. A text with a digit is dropped, as it does not state how the number is spoken; likewise a text with a symbol for a
   spoken word (`#`, `*`, `@`, `&`, `%`, `/`, `+`, `=`, `$` ...), or with a letter of another alphabet.
4. Punctuation inside words stays, by the rules of `text/words.py`, except apostrophes and hyphens in languages that do
   not spell words with them. All other punctuation becomes a space.
5. Runs of spaces become one, and spaces at the ends are removed. If nothing is left, there is no text.

Letters keep their diacritics, and Russian `ё` stays `ё`. Acronyms are kept as written, in lower case.
"""

import unicodedata
from dataclasses import dataclass

from speechssl.errors import ConfigError
from speechssl.text.languages import read_language
from speechssl.text.words import ONE_FORM, lowered, without_punctuation

__all__ = ["LANGUAGES", "Spoken", "normalize_text"]

_INNER_MARKS = {  # language -> which of apostrophe and hyphen are used in words
    "be": "'-",
    "bg": "-",
    "ca": "'-",
    "cs": "-",
    "da": "'-",
    "el": "'-",
    "en": "'-",
    "es": "-",
    "fr": "'-",
    "it": "'",
    "nl": "'-",
    "ro": "-",
    "ru": "-",
}
LANGUAGES = tuple(_INNER_MARKS)

_ALPHABETS = {"be": "CYRILLIC", "bg": "CYRILLIC", "el": "GREEK", "ru": "CYRILLIC"}  # all others LATIN
_SPOKEN_PUNCTUATION = "#*@&%/\\§_"


@dataclass(frozen=True)
class Spoken:
    """The words of a transcript, or the reason why it has none."""

    text: str | None
    why_not: str | None = None


def normalize_text(text: str, language: str) -> Spoken:
    """Apply the rule of this module.

    Args:
        text: a transcript as published.
        language: code; a language that is not in `LANGUAGES` keeps apostrophes and hyphens inside words and may use any
            alphabet; anything that is not a code, such as the name of a folder, is ignored.

    Examples:
        >>> normalize_text("Don't press the key!", "en").text
        "don't press the key"
        >>> normalize_text("Press 1", "en")
        Spoken(text=None, why_not='digits in the text')
    """
    try:
        known = read_language(language)
    except ConfigError:
        known = None
    text = lowered(unicodedata.normalize("NFC", text), known).translate(ONE_FORM)
    if _ALPHABETS.get(language) == "CYRILLIC":
        text = text.replace("+", "").replace("\N{COMBINING ACUTE ACCENT}", "")
    for character in text:
        if unicodedata.category(character)[0] == "N":  # Han numerals are words
            return Spoken(None, "digits in the text")
        if character in _SPOKEN_PUNCTUATION or unicodedata.category(character).startswith("S"):
            return Spoken(None, "symbols in the text")
        if character.isalpha() and not _belongs(character, language):
            return Spoken(None, "letters of another alphabet in the text")
    for mark in "'-":
        if mark not in _INNER_MARKS.get(language, "'-"):
            text = text.replace(mark, " ")
    words = unicodedata.normalize("NFC", without_punctuation(text, known))
    return Spoken(words) if words else Spoken(None, "no words in the text")


def _belongs(character: str, language: str) -> bool:
    if language not in _INNER_MARKS:
        return True
    return unicodedata.name(character, "").startswith((_ALPHABETS.get(language, "LATIN"), "MODIFIER LETTER"))
