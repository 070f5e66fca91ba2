"""The test recordings of PocketSphinx: ten English utterances, half of them from LibriVox, for trying things out."""

import re
from pathlib import Path

from speechssl.corpus.fetch.source import ClipCollector, Corpus, Findings
from speechssl.corpus.fetch.spoken_text import normalize_text
from speechssl.errors import CorpusError
from speechssl.text.fields import lines_of

__all__ = ["POCKETSPHINX", "find_pocketsphinx"]

_DATA = Path("usr/share/pocketsphinx/test/data")
_TRANSCRIPTS = {"cards": "cards.transcription", "librivox": "transcription"}
_LINE = re.compile(r"<s>(.*)</s>\s*\((\S+)\)")


def find_pocketsphinx(tree: Path) -> Findings:
    """List the recordings below the unpacked package.

    Raises:
        CorpusError: a transcript is missing or does not parse.
    """
    found = ClipCollector()
    for folder, transcript in _TRANSCRIPTS.items():
        path = tree / _DATA / folder / transcript
        if not path.is_file():
            raise CorpusError(f"{path}: not found, expected in the package pocketsphinx-testdata; unpack it again")
        for number, line in enumerate(lines_of(path.read_text(encoding="utf-8")), start=1):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise CorpusError(f"{path}:{number}: expected `<s> words </s> (id)`, found {line!r}; unpack it again")
            text, name = match.groups()
            source = path.with_name(f"{name}.wav")
            target = f"audio/{folder}/{name}.wav"
            found.add(source, target, normalize_text(text, "en"), speaker=f"pocketsphinx-{folder}", language="en")
    return found.findings()


POCKETSPHINX = Corpus(
    name="pocketsphinx",
    summary="English, 10 utterances, 1 min, to try things out",
    licence="BSD-2-Clause",
    packages=("pocketsphinx-testdata",),
    find=find_pocketsphinx,
)
