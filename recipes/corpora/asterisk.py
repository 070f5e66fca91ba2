"""Asterisk's telephone prompts: five languages in wideband G.722 with texts, and older narrowband prompt sets.

`#`, `*`, numbers and brackets in a text stand for words that nobody wrote down: such prompts keep their audio and have
no text. One exception: in English a digit that stands alone is the name of a key (`press 1`), and is spelled out. What
is not speech (silences, beeps, tones, monkeys) is dropped.
"""

import gzip
import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from speechssl.corpus.fetch import ClipCollector, Corpus, Findings, SplitRule, Spoken, normalize_text
from speechssl.errors import CorpusError
from speechssl.text.fields import lines_of

__all__ = ["CORPORA", "find_asterisk", "find_asterisk_prompts"]

_SOUNDS = Path("usr/share/asterisk/sounds")
_NOT_SPEECH = re.compile(r"(.*/)?(silence/.*|beep[^/]*|[^/]*tone|confbridge-(join|leave)|tt-monkeys)")
_ONLY_BRACKETS = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
_SYMBOL_NAMED = re.compile(r"\[[^\w\]]*\]")  # `dash [-]`: the bracket shows the symbol, the word is spoken
_LOST_LETTER = re.compile(r"(?<=\s)\?|\?(?=\s+[^\W\d_A-Z])")  # `la chiamata non pu? essere`
_LONE_DIGIT = re.compile(r"(?<![\w.])\d(?!\w|\.\d)")  # neither `3D` nor `28.8`
_ENGLISH_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LICENCES = {"en": "CC-BY-SA-3.0", "es": "CC-BY-SA-3.0", "fr": "CC-BY-SA-3.0", "it": "CC-BY-3.0", "ru": "CC-BY-3.0"}
_SPEAKERS = {
    "en": "US English, 1 woman, 24 min",
    "es": "Mexican Spanish, 1 woman, 29 min, accents partly missing in the texts",
    "fr": "Canadian French, 1 woman, 24 min",
    "it": "Italian, 1 man, 22 min",
    "ru": "Russian, 1 woman, 23 min",
}
_RULE = SplitRule(minutes=(("train", 10), ("dev", 4), ("test", math.inf)), language="en")


def find_asterisk(tree: Path, *, languages: tuple[str, ...]) -> Findings:
    """List the wideband prompts of some languages below the unpacked packages.

    Raises:
        CorpusError: a language's sounds or texts are missing.
    """
    found = ClipCollector()
    for language in languages:
        voice = _voice(tree, language)
        texts = _read_texts(tree, language)
        for source in sorted(voice.rglob("*.g722")):
            key = source.relative_to(voice).with_suffix("").as_posix()
            text = texts.get(key, texts.get(key.lower()))
            if why := _why_dropped(source, key, text):
                found.drop(why, f"{language}/{key}")
            else:
                path = f"audio/{language}/{key}.wav"
                found.add(source, path, _spoken(text, language), speaker=voice.name, language=language)
    return found.findings()


def find_asterisk_prompts(tree: Path) -> Findings:
    """List the narrowband prompts, none of which has a text.

    Raises:
        CorpusError: a package's sounds are missing.
    """
    found = ClipCollector()
    for language, speaker, source in _narrowband(tree):
        key = source.relative_to(tree / _SOUNDS).with_suffix("").as_posix()
        if why := _why_dropped(source, key, text=None):
            found.drop(why, f"{speaker}/{key}")
        else:
            path = f"audio/{speaker}/{key}.wav"
            found.add(source, path, Spoken(None, "no texts published"), speaker=speaker, language=language)
    return found.findings()


def _voice(tree: Path, language: str) -> Path:
    voices = [path for path in sorted((tree / _SOUNDS).glob(f"{language}_*")) if any(path.rglob("*.g722"))]
    if not voices:
        raise CorpusError(
            f"{tree / _SOUNDS}: no folder {language}_* with .g722 files, which asterisk-core-sounds-{language}-g722 "
            "brings; unpack that package too"
        )
    return voices[0]


def _read_texts(tree: Path, language: str) -> dict[str, str]:
    path = tree / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    if not path.is_file():
        raise CorpusError(f"{path}: not found; unpack the package asterisk-core-sounds-{language} too")
    texts: dict[str, str] = {}
    for line in lines_of(gzip.decompress(path.read_bytes()).decode("utf-8-sig")):
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            texts.setdefault(key.strip(), text.strip())
    return {key.lower(): text for key, text in texts.items()} | texts


def _why_dropped(source: Path, key: str, text: str | None) -> str | None:
    if source.stat().st_size == 0:
        return "empty file"
    if _NOT_SPEECH.fullmatch(key) or (text and _ONLY_BRACKETS.fullmatch(text)):
        return "no speech"
    return None


def _spoken(text: str | None, language: str) -> Spoken:
    if text is None:
        return Spoken(None, "not in the list of texts")
    text = _SYMBOL_NAMED.sub(" ", text)
    if re.search(r"[\[\]()<>]", text):
        return Spoken(None, "brackets in the text")
    if language == "it" and _LOST_LETTER.search(text):
        return Spoken(None, "a letter is lost in the text")
    if language == "en":
        text = _LONE_DIGIT.sub(lambda digit: _ENGLISH_DIGITS[int(digit[0])], text)
    return normalize_text(text, language)


def _narrowband(tree: Path) -> Iterator[tuple[str, str, Path]]:
    sounds = tree / _SOUNDS
    menardi = sorted((sounds / "it_IT_f_Menardi").rglob("*.wav"))
    armelle = sorted((sounds / "fr").rglob("*.gsm"))
    colombian = sorted((sounds / "es").rglob("*.gsm"))
    for package, found in (("it-menardi-wav", menardi), ("fr-armelle", armelle), ("es-co", colombian)):
        if not found:
            raise CorpusError(f"{sounds}: no sounds of asterisk-prompt-{package}; unpack that package too")
        speaker = package.removesuffix("-wav")
        yield from ((package[:2], speaker, path) for path in found)


def _packages(*languages: str) -> tuple[str, ...]:
    return tuple(f"asterisk-core-sounds-{name}{kind}" for name in languages for kind in ("-g722", ""))


CORPORA = (
    *(
        Corpus(
            name=f"asterisk-{language}",
            summary=f"{_SPEAKERS[language]}, telephone prompts",
            licence=_LICENCES[language],
            packages=_packages(language),
            find=partial(find_asterisk, languages=(language,)),
            rule=_RULE if language == "en" else None,
        )
        for language in _LICENCES
    ),
    Corpus(
        name="asterisk",
        summary="the five asterisk-* corpora in one pool, 123 min; labelled splits in English",
        licence="CC-BY-SA-3.0 (en, es, fr), CC-BY-3.0 (it, ru)",
        packages=_packages(*_LICENCES),
        find=partial(find_asterisk, languages=tuple(_LICENCES)),
        rule=_RULE,
    ),
    Corpus(
        name="asterisk-prompts",
        summary="Italian, French, Spanish, 3 voices, 50 min, no texts, NARROWBAND (8 kHz)",
        licence="CC-BY-SA-3.0 (it; names the makers visibly), BSD-like (fr), GPL-2 (es)",
        packages=("asterisk-prompt-it-menardi-wav", "asterisk-prompt-fr-armelle", "asterisk-prompt-es-co"),
        find=find_asterisk_prompts,
    ),
)
