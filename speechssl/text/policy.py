"""The text policy: how training texts are normalised. It is stored in the model, so that all texts are treated alike.

Unicode NFC and single spaces always apply; the rest is configured. Scoring has its own normalisers
(`asr/scoring/normalise.py`) for both sides of a comparison; this policy defines what a model learns to write.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.text.languages import read_language
from speechssl.text.words import lowered, raised, without_punctuation

__all__ = ["TextConfig", "digits_in", "with_known_language"]


@configuration
class TextConfig:
    """The policy; the defaults change only Unicode form and spaces."""

    replace: tuple[tuple[str, str], ...] = ()  # pairs (old, new), replaced in this order, before anything else
    case: Literal["keep", "lower", "upper"] = "keep"
    punctuation: Literal["keep", "remove"] = "keep"  # remove: except inside words, see text/words.py
    digits: Literal["keep", "refuse"] = "keep"  # refuse: texts do not state how a number is spoken
    language: str | None = None  # code, such as tr, tur or tr_TR; affects case and marks, see text/words.py

    def __post_init__(self) -> None:
        if any(not old for old, _ in self.replace):
            raise ConfigError("text.replace: expected pairs of what to replace and by what, found nothing to replace")
        try:
            read_language(self.language)
        except ConfigError as error:
            raise ConfigError(f"text.language: {error}; a run started with it continues with null") from error

    def apply(self, text: str) -> str:
        """Normalise a text; digits are not checked.

        Examples:
            >>> TextConfig(case="lower", punctuation="remove").apply("Don’t  press — the KEY!")
            "don't press the key"
            >>> TextConfig(replace=(("ё", "е"),)).apply("ёлка")
            'елка'
        """
        text = unicodedata.normalize("NFC", text)
        for old, new in self.replace:
            text = text.replace(unicodedata.normalize("NFC", old), new)
        language = read_language(self.language)
        if self.case != "keep":
            text = lowered(text, language) if self.case == "lower" else raised(text, language)
        if self.punctuation == "remove":
            text = without_punctuation(text, language)
        return " ".join(unicodedata.normalize("NFC", text).split())

    def refuses(self, text: str) -> bool:
        """Return whether a text holds digits that the policy refuses."""
        return self.digits == "refuse" and bool(digits_in(text))

    def describe(self) -> str:
        """Describe the policy for a report."""
        done = ["Unicode NFC, single spaces"]
        done += [f"{len(self.replace)} replacements"] if self.replace else []
        done += [f"{self.case} case"] if self.case != "keep" else []
        done += ["punctuation and symbols removed but inside words"] if self.punctuation == "remove" else []
        done += ["digits refused"] if self.digits == "refuse" else []
        return ", ".join(done)


def with_known_language(values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Remove an unknown `text.language` from saved values, as older versions accepted any word.

    Such a word had no effect, so the saved values mean the same without it.

    Args:
        values: contents of `config.json` or `model.json`.

    Returns:
        The values, and a note if they were changed.

    Examples:
        >>> with_known_language({"text": {"language": "Klingonish"}})[0]
        {'text': {'language': None}}
    """
    text = values.get("text")
    if not isinstance(text, Mapping) or not isinstance(text.get("language"), str):
        return dict(values), None
    try:
        read_language(text["language"])
    except ConfigError as error:
        note = f"text.language: {error}; what was saved with it is used without language rules, as it was made"
        return {**values, "text": {**text, "language": None}}, note
    return dict(values), None


def digits_in(text: str) -> str:
    """Return the digits and other numerals of a text, each once; Han numerals are words.

    Examples:
        >>> digits_in("7 of ٣, 77"), digits_in("三")
        ('7٣', '')
    """
    return "".join(c for c in dict.fromkeys(text) if unicodedata.category(c)[0] == "N")
