"""festvox-ru: one Russian man reads prose, with texts and hand-checked phone labels (sources of a Festival voice)."""

import re
from pathlib import Path

from speechssl.corpus.fetch.source import ClipCollector, Corpus, Findings
from speechssl.corpus.fetch.splits import SplitRule
from speechssl.corpus.fetch.spoken_text import normalize_text
from speechssl.errors import CorpusError
from speechssl.text.fields import fields_of, lines_of

__all__ = ["FESTVOX_RU", "find_festvox_ru", "read_phone_labels"]

_VOICE = Path("usr/share/festival/voices/russian/msu_ru_nsh_clunits")
_PROMPT = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')


def find_festvox_ru(tree: Path) -> Findings:
    """List the recordings below an unpacked package.

    Raises:
        CorpusError: the prompts are missing or do not parse, or a recording is missing.
    """
    prompts = tree / _VOICE / "etc/txt.done.data"
    if not prompts.is_file():
        raise CorpusError(f"{prompts}: not found, expected the prompts of the package festvox-ru; unpack it again")
    found = ClipCollector()
    for number, line in enumerate(lines_of(prompts.read_text(encoding="utf-8")), start=1):
        match = _PROMPT.fullmatch(line.strip())
        if match is None:
            raise CorpusError(f'{prompts}:{number}: expected `( id "text" )`, found {line!r}; unpack the package again')
        name, prompt = match.groups()
        source = tree / _VOICE / f"wav/{name}.wav"
        if not source.is_file():
            raise CorpusError(f"{source}: not found, but {prompts}:{number} names it; unpack the package again")
        found.add(source, f"audio/{name}.wav", normalize_text(prompt, "ru"), speaker="msu_ru_nsh", language="ru")
    return found.findings()


def read_phone_labels(tree: Path) -> dict[str, str]:
    """Read the phone alignment of each recording.

    Returns:
        For each id, `end:phone end:phone ...`: end of the phone in seconds, then its name (`pau` is silence). The
        first phone starts at 0, each other at the end of the previous one.

    Raises:
        CorpusError: a label file has a line that is not `end number phone`.
    """
    alignments = {}
    for path in sorted((tree / _VOICE / "lab").glob("*.lab")):
        phones = []
        for line in lines_of(path.read_text(encoding="utf-8")):
            cells = fields_of(line)
            if not cells or cells == ["#"]:
                continue
            if len(cells) != 3 or not cells[0].replace(".", "", 1).isdecimal():
                raise CorpusError(f"{path}: expected `end number phone`, found {line!r}; unpack the package again")
            phones.append(f"{float(cells[0]):g}:{cells[2]}")
        alignments[path.stem] = " ".join(phones)
    return alignments


FESTVOX_RU = Corpus(
    name="festvox-ru",
    summary="Russian, 1 man, read prose, 100 min, phone labels",
    licence="BSD-like",
    packages=("festvox-ru",),
    find=find_festvox_ru,
    rule=SplitRule(minutes=(("test", 13), ("dev", 6), ("train", 10))),
    alignments=read_phone_labels,
)
