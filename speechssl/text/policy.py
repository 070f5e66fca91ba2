"""What is done to texts before a model learns them: a policy that the model keeps, so that all texts are read alike.

Unicode NFC and single spaces always; the rest as the recipe says. Scoring has its own normalisers (`score.normalise`),
which both sides of a comparison go through; this is what a model is taught to write.
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
    """The policy. The defaults leave texts as they are, but for NFC and blanks."""

    replace: tuple[tuple[str, str], ...] = ()  # what is written for what, in this order, before all else
    case: Literal["keep", "lower", "upper"] = "keep"
    punctuation: Literal["keep", "remove"] = "keep"  # remove: but what stands inside words, see data.words
    digits: Literal["keep", "refuse"] = "keep"  # refuse: nothing says how a number is spoken
    language: str | None = None  # code, such as tr, tur or tr_TR; matters for capitals and marks, see data.words

    def __post_init__(self) -> None:
        if any(not old for old, _ in self.replace):
            raise ConfigError("text.replace: expected pairs of what to replace and by what, found nothing to replace")
        try:
            read_language(self.language)
        except ConfigError as error:
            raise ConfigError(f"text.language: {error}; a run begun with it goes on with null") from error

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
        language = read_language(self.language)
        if self.case != "keep":
            text = lowered(text, language) if self.case == "lower" else raised(text, language)
        if self.punctuation == "remove":
            text = without_punctuation(text, language)
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


def with_known_language(values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Take out of what was saved a `text.language` that is the code of no language; once any word was taken for one.

    It had no rules then, and has none now, so what was saved with it means the same without.

    Args:
        values: of `config.json` or `model.json`.

    Returns:
        The values, and what to tell if they were changed.

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
        note = f"text.language: {error}; what was saved with it goes on without rules of a language, as it was made"
        return {**values, "text": {**text, "language": None}}, note
    return dict(values), None


def digits_in(text: str) -> str:
    """Return the digits and other numerals of a text, each once; Han numerals are words.

    Examples:
        >>> digits_in("7 of ٣, 77"), digits_in("三")
        ('7٣', '')
    """
    return "".join(c for c in dict.fromkeys(text) if unicodedata.category(c)[0] == "N")
