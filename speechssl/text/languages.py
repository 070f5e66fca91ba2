"""Parses language codes in any usual form: tr, TUR, tr_TR, tr-Latn, azj-script_latin; unknown codes are refused.

The registry is IANA's (BCP 47), from the package langcodes, which is imported only if a language is given.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from speechssl.errors import ConfigError, PackageError

__all__ = ["Language", "is_code_like", "read_language"]

_NO_LANGUAGE = frozenset({"", "und", "mul", "zxx", "mis", "unknown", "none"})  # the first four are ISO 639's own
_SCRIPTS = {  # names of scripts in MMS, after `-script_`
    "arabic": "Arab",
    "bengali": "Beng",
    "cyrillic": "Cyrl",
    "devanagari": "Deva",
    "ethiopic": "Ethi",
    "greek": "Grek",
    "gujarati": "Gujr",
    "gurmukhi": "Guru",
    "hebrew": "Hebr",
    "khmer": "Khmr",
    "latin": "Latn",
    "mongolian": "Mong",
    "simplified": "Hans",
    "tamil": "Taml",
    "telugu": "Telu",
    "thai": "Thai",
    "tifinagh": "Tfng",
    "traditional": "Hant",
}


_SINCE_2021 = frozenset(  # codes of ISO 639-3 that are newer than the registry of langcodes 3.5
    re.findall(
        "[a-z]+",
        "ajs bpc cls cnq cxh dsk dsz dyr egm eud gov hnm ikh imt isv izm lgo lgs lqr lsc lsw luh lvl nww nzr oak oie "
        "phj pze pzh rib rnb rrm rsk rsn rsw sjc tok tvi ugh uly uon vjk vsn wdt wtb wyn xdq xhm ycr ykh ynb zcd "
        "zem zlu",
    )
)


@dataclass(frozen=True)
class Language:
    """A language, and its script if the code states one."""

    code: str  # ISO 639, two letters if possible; that of the macrolanguage, as az for azj
    script: str | None = None  # ISO 15924: Latn

    def is_one_of(self, codes: frozenset[str]) -> bool:
        """Return whether a set holds the code, alone or with the script: kk, or kk-Latn."""
        return self.code in codes or f"{self.code}-{self.script}" in codes


@lru_cache(maxsize=512)
def read_language(code: str | None) -> Language | None:
    """Parse a code of ISO 639-1, 639-3, BCP 47, a locale or MMS.

    Args:
        code: code from a recipe or a manifest; case is ignored, `_` is `-`.

    Returns:
        None for no code, or one for an unknown language or several: und, mul, zxx, mis, unknown.

    Raises:
        ConfigError: the code is unknown.
        PackageError: langcodes is not installed.

    Examples:
        >>> read_language("TR_tr.UTF-8"), read_language("azj-script_latin")
        (Language(code='tr', script=None), Language(code='az', script='Latn'))
        >>> read_language("und") is None
        True
    """
    wanted = (code or "").strip().lower()
    if wanted in _NO_LANGUAGE:
        return None
    try:
        import langcodes
    except ImportError as error:
        raise PackageError(
            f"the language {code!r} is given, but langcodes, which is needed for it, is not installed: "
            "pip install langcodes"
        ) from error
    tag, script = _as_tag(wanted)
    try:
        found = langcodes.Language.get(tag)
        is_known = found.language in _SINCE_2021 or langcodes.Language.make(language=found.language).is_valid()
        if script is None or not is_known:
            raise ValueError(tag)
        family = langcodes.standardize_tag(found.language or "und", macro=True)
    except ValueError as error:
        raise ConfigError(
            f"{code!r} is not a language code; expected one of ISO 639 such as tr or tur, a tag or locale that begins "
            "with one such as tr-Latn, tr_TR, azj-script_latin, or und if the language is unknown"
        ) from error
    language = langcodes.Language.get(family).language or "und"
    return None if language in _NO_LANGUAGE else Language(language, found.script or script or None)


def is_code_like(word: str) -> bool:
    """Return whether a word that is not a language code looks like one, as `xx_YY` but not `English`.

    Examples:
        >>> is_code_like("xx"), is_code_like("qqx-Latn"), is_code_like("English"), is_code_like("Old Norse")
        (True, True, False, False)
    """
    return re.fullmatch(r"[A-Za-z]{2,3}([-_@.].*)?", word.strip()) is not None


def _as_tag(code: str) -> tuple[str, str | None]:
    """Split a code in lower case into tag and script; '' for no script, None if it is unknown."""
    if mms := re.fullmatch(r"([a-z]{2,3})-(script|dialect)_(.+)", code):
        return mms[1], _SCRIPTS.get(mms[3]) if mms[2] == "script" else ""
    tag, _, modifier = code.partition("@")
    return tag.partition(".")[0], _SCRIPTS.get(modifier, "")
