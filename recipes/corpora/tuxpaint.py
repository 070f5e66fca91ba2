"""Tux Paint's stamps: picture descriptions in nine languages, one volunteer each, recorded at home."""

import re
from pathlib import Path

from speechssl.audio.reading import read_header
from speechssl.corpus.fetch import ClipCollector, Corpus, Findings, Spoken, normalize_text
from speechssl.errors import CorpusError
from speechssl.text.fields import lines_of

__all__ = ["CORPORA", "find_tuxpaint"]

_STAMPS = Path("usr/share/tuxpaint/stamps")
_LANGUAGES = ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")  # those with enough recordings
_RECORDING = re.compile(r"(?P<stamp>.+)_desc(?:_(?P<language>[a-z]{2}(?:_[A-Z]{2})?))?")
_NO_TEXT = "no text in its language"
_UNCHECKED = (_NO_TEXT, "digits in the text")  # nothing to compare the recording with
_CHARACTERS_PER_SECOND = (3, 26)  # outside, the text is not what was recorded


def find_tuxpaint(tree: Path) -> Findings:
    """List the descriptions below the unpacked package, without those whose text cannot be what is said.

    Raises:
        CorpusError: there are no recordings.
    """
    found = ClipCollector()
    sources = sorted((tree / _STAMPS).rglob("*_desc*.ogg"))
    if not sources:
        raise CorpusError(f"{tree / _STAMPS}: no *_desc_*.ogg, which tuxpaint-stamps-default brings; unpack it again")
    for source in sources:
        name = source.relative_to(tree / _STAMPS).as_posix()
        match = _RECORDING.fullmatch(source.stem.removesuffix(".ogg"))
        language = match["language"] if match else None
        if match is None or language not in _LANGUAGES:
            found.drop("another language, with few recordings", name)
            continue
        spoken = _text(source.with_name(f"{match['stamp']}.txt"), language)
        if spoken.why_not in _UNCHECKED:
            found.drop(spoken.why_not, name)
        elif spoken.text is not None and not _is_plausible(spoken.text, source):
            found.drop("fewer than 3 or more than 26 characters a second", name)
        else:
            place = source.parent.relative_to(tree / _STAMPS).as_posix()
            path = f"audio/{language}/{place}/{match['stamp']}.wav"
            found.add(source, path, spoken, speaker=f"tuxpaint-{language}", language=language)
    return found.findings()


def _text(path: Path, language: str) -> Spoken:
    prefix = f"{language}.utf8="
    if path.is_file():
        for line in lines_of(path.read_text(encoding="utf-8", errors="replace")):
            if line.startswith(prefix):
                return normalize_text(line.removeprefix(prefix), language)
    return Spoken(None, _NO_TEXT)


def _is_plausible(text: str, source: Path) -> bool:
    low, high = _CHARACTERS_PER_SECOND
    return low <= len(text) / read_header(source).duration_s <= high


CORPORA = (
    Corpus(
        name="tuxpaint",
        summary="be bg ca da el es fr ro ru, about 1 volunteer each, recorded at home, about 2 h",
        licence="GPL-2",
        packages=("tuxpaint-stamps-default",),
        find=find_tuxpaint,
    ),
)
