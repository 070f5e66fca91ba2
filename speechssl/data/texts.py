"""What is done to texts before a model learns them: a policy that the model keeps, so that all texts are read alike.

Unicode NFC and single spaces always; the rest as the recipe says. Scoring has its own normalisers (`score.normalise`),
which both sides of a comparison go through; this is what a model is taught to write.
"""

import re
import unicodedata
from typing import Literal

from speechssl.config import configuration
from speechssl.errors import ConfigError

__all__ = ["ONE_FORM", "TextConfig", "digits_in", "lowered", "without_punctuation"]

# for str.translate: one apostrophe and one hyphen
ONE_FORM = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'") | dict.fromkeys("‐‑–—", "-"))
_JOINERS = "\u200c\u200d"  # shape letters of Persian and of Indian scripts
_DOTTED_I = ("az", "tr")  # languages in which the capital of i has its dot


@configuration
class TextConfig:
    """The policy. The defaults leave texts as they are, but for NFC and blanks."""

    replace: tuple[tuple[str, str], ...] = ()  # what is written for what, in this order, before all else
    case: Literal["keep", "lower", "upper"] = "keep"
    punctuation: Literal["keep", "remove"] = "keep"  # remove: but an apostrophe or a hyphen inside a word
    digits: Literal["keep", "refuse"] = "keep"  # refuse: nothing says how a number is spoken
    language: str | None = None  # two letters; matters for the capitals of Turkish and Azerbaijani

    def __post_init__(self) -> None:
        if any(not old for old, _ in self.replace):
            raise ConfigError("text.replace: expected pairs of what to replace and by what, found nothing to replace")

    def apply(self, text: str) -> str:
        """Return the text that the model is to write; digits are not looked at.

        Examples:
            >>> TextConfig(case="lower", punctuation="remove").apply("Don’t  press — the KEY!")
            "don't press the key"
            >>> TextConfig(replace=(("ё", "е"),)).apply("ёлка")
            'елка'
        """
        text = unicodedata.normalize("NFC", text)
        for old, new in self.replace:
            text = text.replace(unicodedata.normalize("NFC", old), new)
        text = self._cased(text)
        if self.punctuation == "remove":
            text = without_punctuation(text.translate(ONE_FORM))
        return " ".join(unicodedata.normalize("NFC", text).split())

    def refuses(self, text: str) -> bool:
        """Whether a text holds digits that the policy refuses."""
        return self.digits == "refuse" and bool(digits_in(text))

    def describe(self) -> str:
        """Say in a report's words what is done."""
        done = ["Unicode NFC, single spaces"]
        done += [f"{len(self.replace)} replacements"] if self.replace else []
        done += [f"{self.case} case"] if self.case != "keep" else []
        done += ["punctuation and symbols removed but inside words"] if self.punctuation == "remove" else []
        done += ["digits refused"] if self.digits == "refuse" else []
        return ", ".join(done)

    def _cased(self, text: str) -> str:
        if self.case == "lower":
            return lowered(text, self.language)
        if self.case == "upper":
            return (text.replace("i", "İ") if self.language in _DOTTED_I else text).upper()
        return text


def digits_in(text: str) -> str:
    """Return the digits and other numerals of a text, each once; Han numerals are words.

    Examples:
        >>> digits_in("7 of ٣, 77"), digits_in("三")
        ('7٣', '')
    """
    return "".join(c for c in dict.fromkeys(text) if unicodedata.category(c)[0] == "N")


def is_inner(text: str, index: int, signs: str = "'-") -> bool:
    """Whether one of the signs stands at `index`, between two letters, digits or marks on them.

    Examples:
        >>> text = "'tis o'clock"
        >>> is_inner(text, 0), is_inner(text, 6)
        (False, True)
    """
    if text[index] not in signs or not 0 < index < len(text) - 1:
        return False
    return all(unicodedata.category(text[near])[0] in "LMN" for near in (index - 1, index + 1))


def lowered(text: str, language: str | None) -> str:
    """Return a text in lower case, by the rules of the language of two letters."""
    if language in _DOTTED_I:
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


def without_punctuation(text: str) -> str:
    """Turn punctuation and symbols into spaces; an apostrophe or hyphen inside a word stays.

    Invisible marks, the soft hyphen say, vanish but for joiners between two letters.
    """
    if text.replace(" ", "").isalnum():  # most texts, at a tenth of the time
        return text
    text = "".join(c for i, c in enumerate(text) if unicodedata.category(c) != "Cf" or is_inner(text, i, _JOINERS))
    kept = (
        c if unicodedata.category(c)[0] in "LMN" or c in _JOINERS or is_inner(text, i) else " "
        for i, c in enumerate(text)
    )
    return re.sub(r"\s+", " ", "".join(kept)).strip()
