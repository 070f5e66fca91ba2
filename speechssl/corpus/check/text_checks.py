"""Checks transcripts: letters of another script, and texts too long or too short for their audio.

Scripts are Unicode's, from fontTools; unicodedata has only the names of characters, whose first word is often but not
always the script (exceptions: the long vowel mark of kana, Arabic digits, Han).
"""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from fontTools import unicodedata as scripts  # type: ignore[import-untyped]

from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.errors import ConfigError

__all__ = ["count_letters", "foreign_letters", "normal_text", "script_codes", "unusual_rates"]

_SHARED = {"Zyyy", "Zinh", "Zzzz"}  # codes: common, inherited from the previous letter, unknown


def script_codes(names: Sequence[str]) -> frozenset[str]:
    """Convert names of scripts (Cyrillic, or Cyrl) to Unicode's codes.

    Raises:
        ConfigError: no script has such a name.
    """
    codes = set()
    for name in names:
        known = {code.lower(): code for code in scripts.Scripts.NAMES} | {
            full.replace("_", " ").lower(): code for code, full in scripts.Scripts.NAMES.items()
        }
        code = known.get(name.replace("_", " ").lower())
        if code is None:
            raise ConfigError(f"no script is called {name!r}; expected a Unicode name such as Latin, Cyrillic or Han")
        codes.add(code)
    return frozenset(codes)


def foreign_letters(text: str, codes: frozenset[str]) -> str:
    """Return the characters of `text` that belong to scripts other than `codes`, each once, in order.

    Examples:
        >>> foreign_letters("pусский 7!", script_codes(["Cyrillic"]))
        'p'
    """
    return "".join(dict.fromkeys(c for c in text if scripts.script(c) not in _SHARED | codes))


def normal_text(text: str) -> str:
    """Normalise a text for comparison: letters and digits in lower case, one space between words.

    Examples:
        >>> normal_text("Ja,  wohl!")
        'ja wohl'
    """
    kept = "".join(c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in text.casefold())
    return " ".join(unicodedata.normalize("NFC", kept).split())


def count_letters(text: str) -> int:
    """Count letters and digits, excluding marks, spaces and punctuation."""
    return sum(c.isalnum() for c in text)


def unusual_rates(
    letters: Sequence[int], durations_s: Sequence[float], languages: Sequence[str | None], config: CheckConfig
) -> Iterator[tuple[int, float, float, float]]:
    """Find texts whose characters per second are far from the median of their language.

    The spread is the median absolute deviation of the logarithm, which is robust to outliers; it is at least 0.1, so
    that slow sentences of evenly read speech are not reported.

    Args:
        letters: number of characters of each text.
        durations_s: seconds from the first to the last sound of each text's audio.
        languages: language of each text.
        config: thresholds.

    Yields:
        The index, its distance from the median in spreads, its characters per second and the median's.
    """
    groups: dict[str | None, list[int]] = defaultdict(list)
    for index, (count, duration_s, language) in enumerate(zip(letters, durations_s, languages, strict=True)):
        if count and duration_s >= config.text_rate_min_s:
            groups[language].append(index)
    for members in groups.values():
        if len(members) < config.text_rate_texts:
            continue
        rates = np.log([letters[i] / durations_s[i] for i in members])
        middle = float(np.median(rates))
        spread = max(0.1, 1.4826 * float(np.median(np.abs(rates - middle))))
        for index, rate in zip(members, rates, strict=True):
            if abs(rate - middle) > config.text_rate_z * spread:
                yield index, float(rate - middle) / spread, math.exp(rate), math.exp(middle)
