"""Word rules by script and language: case, and the punctuation that belongs to words.

The text policy, scoring and the readers of corpora share these rules. Letters, marks and digits belong to words;
punctuation and symbols separate words, with these exceptions:

- an apostrophe or hyphen between two letters, digits or marks belongs to the word, in one form each, `'` and `-`. A
  dash is not a hyphen: it separates words. The Hebrew maqaf and the Armenian hyphen are hyphens.
- the Catalan dot between two Latin letters; in Catalan it may be typed `.` between two l.
- Hebrew gershayim `"` between two letters, geresh `'` also after the last if it does not close a quotation.
- Armenian marks over a vowel are removed, and the letters around them join. So are tatweel, soft hyphens, variation
  selectors and other invisible characters, except one joiner between two letters of a script that it shapes (Arabic,
  Indian).
- modifier letters that Unicode classifies as symbols: tone letters, the raised colon.
- by language: the colon (Finnish, Swedish, Sami, Mohawk), the letter that Hawaiian or Uzbek write as an apostrophe, and
  apostrophes at the ends of words (Maltese, Navajo, Hausa); clicks typed `!` and `|` (Nama, !Xoo).
"""

import re
import unicodedata
from collections.abc import Sequence

from speechssl.text.languages import Language

__all__ = ["ONE_FORM", "lacks_blanks", "lowered", "raised", "without_punctuation"]

# for str.translate: one form of each sign inside words
ONE_FORM = str.maketrans(
    dict.fromkeys("’‘‛ʼ`´＇｀′᾽᾿\u055a\u05f3", "'")
    | dict.fromkeys("‐‑\u05be\u058a\u1806\ufe63\uff0d", "-")
    | {"\u05f4": '"', "‧": "·", "ŀ": "l·", "Ŀ": "L·"}
)

_DOTTED_I = frozenset(
    {"az", "crh", "gag", "kaa-Latn", "kk-Latn", "tly", "tr", "tt-Latn"}
)  # the capital of i has its dot
_OTHER_SCRIPT = ("Arab", "Cyrl")  # az-Cyrl has no Latin i of its own
_COLON = frozenset({"fi", "fit", "fkv", "se", "sma", "smj", "smn", "sms", "sv"} | {"cay", "moh", "one", "ono", "see"})
_OKINA = frozenset({"haw", "rar", "sm", "to", "ty"})  # a glottal stop before or between vowels
_FINAL = frozenset({"apw", "cak", "kek", "lkt", "mam", "mt", "nv", "quc", "so", "tzh", "tzo", "yua"})  # ends in one
_CLICKS = frozenset({"gwj", "hnh", "huc", "ktz", "naq", "ngh", "nmn", "xam"})

# scripts without blanks between words: Han and kana, and those that UAX 14 breaks by dictionaries (class SA), with
# Tibetan, Balinese and Javanese
_HAN = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_BY_DICTIONARY = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf\U00011700-\U0001174f"
)
_UNPARTED = (  # letters and marks per blank above which blanks do not separate words: at least twice a usual word
    (re.compile(f"[{_HAN}]+"), 4),
    (re.compile(f"[{_BY_DICTIONARY}]+"), 10),
)
_HEBREW = "\u0591-\u05f2"
_LATIN = "a-zA-Z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u036f\u1d00-\u1dff\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff"
_SHAPED = (  # ranges of letters that a joiner may shape
    "\u0600-\u109f\u1780-\u18af\u1900-\u1cff\ua800-\uab2f\uabc0-\uabff\ufb50-\ufdff\ufe70-\ufefe"
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f"
)
_GREEK = "\u0370-\u03ff\u1f00-\u1fff"
_OLD_JOINED = (  # letters written with a joiner before they had a code point
    *zip(("ണ്\u200d", "ന്\u200d", "ര്\u200d", "ല്\u200d", "ള്\u200d", "ക്\u200d"), "ൺൻർൽൾൿ", strict=True),
    ("ত্\u200d", "ৎ"),
)
_VANISH = "\u055b\u055c\u055e\u0640\u07fa\u034f" + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_MODIFIERS = (  # category Sk, but letters in UAX 29 (ALetter)
    *(range(0x2C2, 0x2C6), range(0x2D2, 0x2D8), range(0x2DE, 0x2E0), range(0x2E5, 0x2EC), range(0x2ED, 0x2EE)),
    *(range(0x2EF, 0x300), range(0xA708, 0xA717), range(0xA720, 0xA722), range(0xA789, 0xA78B), range(0xAB5B, 0xAB5C)),
)
_IN = r"""[^\s'"·:-]"""  # characters of words, after the first pass
_EDGE = re.compile(rf"(?<!{_IN})['-]|['-](?!{_IN})")
_EDGE_KEEPING_FINAL = re.compile(rf"(?<!{_IN})['-]|-(?!{_IN})")
_EDGE_BUT_HEBREW = re.compile(rf"(?<!{_IN})['-]|-(?!{_IN})|(?<![{_HEBREW}])'(?!{_IN})")
_QUOTED = re.compile(rf"(?<!{_IN})'(?={_IN})((?:[^']|(?<={_IN})'(?={_IN}))*)(?<={_IN})'(?!{_IN})")
_NO_GERSHAYIM = re.compile(rf'(?<![{_HEBREW}])"|"(?![{_HEBREW}])')
_NO_DOT = re.compile(rf"(?<![{_LATIN}])·|·(?![{_LATIN}])")
_NO_COLON = re.compile(rf"(?<!{_IN}):|:(?!{_IN})|:(?=\d)")
_FINAL_GERESH = re.compile(rf"[{_HEBREW}]'(?!{_IN})")
_JOINER = re.compile("[\u200c\u200d]+")
_INNER_JOINER = re.compile(rf"(?<=[{_SHAPED}])([\u200c\u200d])[\u200c\u200d]*(?=[{_SHAPED}])")
_FINAL_SIGMA = re.compile(rf"(?<=[{_GREEK}])σ(?![{_GREEK}'])")
_INNER_SIGMA = re.compile(rf"ς(?=[{_GREEK}])")


class _Signs(dict[int, str | None]):
    """Table for str.translate of the first pass, filled as characters occur."""

    def __missing__(self, code: int) -> str | None:
        self[code] = found = _first(chr(code))
        return found


def _first(character: str) -> str | None:
    """Map a character that may belong to words to its one form, removed ones to None, all others to a space."""
    if character in _VANISH:
        return None
    if character in "\u200c\u200d" or ord(character) in ONE_FORM:
        return str(ONE_FORM.get(ord(character), character))
    category = unicodedata.category(character)
    if category == "Cf":
        return None
    is_letter = category[0] in "LMN" or any(ord(character) in part for part in _MODIFIERS)
    return character if is_letter or character in "'\"·:-" else " "


_SIGNS = _Signs()


def lowered(text: str, language: Language | None) -> str:
    """Return a text in lower case, by the rules of its language."""
    if _has_dotted_i(language):
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


def raised(text: str, language: Language | None) -> str:
    """Return a text in upper case, by the rules of its language."""
    return (text.replace("i", "İ") if _has_dotted_i(language) else text).upper()


def without_punctuation(text: str, language: Language | None = None) -> str:
    """Replace punctuation and symbols by spaces, except those that belong to words by the rules of this module.

    Examples:
        >>> without_punctuation("col·legi—that’s ‘it’…")
        "col·legi that's it"
        >>> without_punctuation("EU:ssa"), without_punctuation("EU:ssa", Language("fi"))
        ('EU ssa', 'EU:ssa')
    """
    if language is not None and language.is_one_of(_CLICKS):
        text = _with_clicks(text)
    if language is not None and language.code == "ca":
        text = re.sub(r"(?i)(?<=l)\.(?=l)", "·", text)
    if "\u200d" in text:
        for old, new in _OLD_JOINED:
            text = text.replace(old, new)
    text = text.translate(_SIGNS)
    if not text.replace(" ", "").isalnum():  # most texts are
        text = _with_inner_signs(text, language)
    if "σ" in text or "ς" in text:
        text = _INNER_SIGMA.sub("σ", _FINAL_SIGMA.sub("ς", text))
    return " ".join(text.split())


def lacks_blanks(texts: Sequence[str]) -> list[int]:
    """Return the indices of texts in scripts without blanks between words; none if the texts are segmented.

    Examples:
        >>> lacks_blanks(["ผมไปตลาดครับ", "we go", "今天天气很好 一起去吧"])
        [0, 2]
        >>> lacks_blanks(["今天 天气 很 好", "오늘은 날씨가 좋아요"])
        []
    """
    found: list[int] = []
    for letters, most in _UNPARTED:
        places, blanks, count = [], 0, 0
        for place, text in enumerate(texts):
            if text.isascii():
                continue
            inner, of_script = len(text.split()) - 1, sum(map(len, letters.findall(text)))
            if 2 * of_script > len(text) - inner:
                places.append(place)
                blanks += inner
                count += of_script
        found += places if blanks * most < count else []
    return sorted(found)


def _with_inner_signs(text: str, language: Language | None) -> str:
    """Keep signs only where they belong to words."""
    if "\u200c" in text or "\u200d" in text:
        marked = _INNER_JOINER.sub(lambda m: "\ue000" if m[1] == "\u200c" else "\ue001", text)
        text = _JOINER.sub("", marked).replace("\ue000", "\u200c").replace("\ue001", "\u200d")
    if '"' in text or "''" in text:
        text = _NO_GERSHAYIM.sub(" ", re.sub(rf"(?<=[{_HEBREW}])''(?=[{_HEBREW}])", '"', text))
    if "·" in text:
        text = _NO_DOT.sub(" ", text)
    if ":" in text:
        colon = language is not None and language.is_one_of(_COLON)
        text = _NO_COLON.sub(" ", text) if colon else text.replace(":", " ")
    if "'" in text or "-" in text:
        text = _with_apostrophes(text, language)
    return text


def _with_apostrophes(text: str, language: Language | None) -> str:
    if language is not None and language.is_one_of(_OKINA):
        text = re.sub(rf"'+(?={_IN})", "ʻ", text)
    elif language is not None and language.code == "uz" and language.script in (None, "Latn"):
        text = re.sub("(?<=[oOgG])'", "ʻ", text)
    elif language is not None and language.code == "ha":
        text = re.sub(rf"(?<!{_IN})'(?=[yY])", "\ue002", text)
    if language is not None and language.is_one_of(_FINAL):
        text = _EDGE_KEEPING_FINAL.sub(" ", _QUOTED.sub(r" \1 ", text))
    elif _FINAL_GERESH.search(text):
        text = _EDGE_BUT_HEBREW.sub(" ", _QUOTED.sub(r" \1 ", text))
    else:
        text = _EDGE.sub(" ", text)
    return text.replace("\ue002", "'")


def _with_clicks(text: str) -> str:
    """Replace typed clicks before a letter (! | || and the not-equal sign) by click letters."""
    for typed, letter in (("||", "ǁ"), ("|", "ǀ"), ("!", "ǃ"), ("≠", "ǂ")):
        text = re.sub(rf"{re.escape(typed)}(?=[^\W\d_]|['’])", letter, text)
    return text


def _has_dotted_i(language: Language | None) -> bool:
    return language is not None and language.is_one_of(_DOTTED_I) and language.script not in _OTHER_SCRIPT
