"""Fish Fillets NG: the dialogs of a puzzle game, acted in Czech and in Dutch, with reverb and some effects."""

import re
from functools import partial
from pathlib import Path

from speechssl.audio.reading import read_header
from speechssl.corpus.fetch import ClipCollector, Corpus, Findings, SplitRule, Spoken, normalize_text
from speechssl.errors import AudioError, CorpusError

__all__ = ["CORPORA", "find_fillets"]

_GAME = Path("usr/share/games/fillets-ng")
_STRING = r'"((?:[^"\\]|\\.)*)"'
_DIALOG = re.compile(  # dialogId("id", "font", "English") dialogStr("translation"); each actor has a font
    rf"dialogId\(\s*{_STRING}\s*,\s*{_STRING}(?:\s*,\s*{_STRING})?\s*\)\s*dialogStr\(\s*{_STRING}"
)


def find_fillets(tree: Path, *, language: str) -> Findings:
    """List the dialogs of one language below the unpacked packages.

    The speaker is the font that a line is shown in, which is how the game tells its actors apart.

    Raises:
        CorpusError: the sounds or the scripts are missing.
    """
    sounds = sorted((tree / _GAME / "sound").glob(f"*/{language}/*.ogg"))
    if not sounds:
        raise CorpusError(
            f"{tree / _GAME / 'sound'}: no */{language}/*.ogg, which fillets-ng-data-{language} brings; unpack it too"
        )
    if not (tree / _GAME / "script").is_dir():
        raise CorpusError(f"{tree / _GAME / 'script'}: not found; unpack the package fillets-ng-data too")
    found = ClipCollector()
    for folder in sorted({sound.parent.parent for sound in sounds}):
        dialogs = _read_dialogs(tree / _GAME / "script" / folder.name, language)
        for source in sorted((folder / language).glob("*.ogg")):
            if not _is_readable(source):
                found.drop("holds no audio", f"{folder.name}/{source.stem}")
                continue
            font, text = dialogs.get(source.stem, ("unknown", None))
            spoken = Spoken(None, "not in the scripts") if text is None else normalize_text(text, language)
            path = f"audio/{language}/{folder.name}/{source.stem}.wav"  # both languages name their clips alike
            speaker = f"{language}-{font.removeprefix('font_')}"
            found.add(source, path, spoken, speaker=speaker, language=language)
    return found.findings()


def _is_readable(path: Path) -> bool:
    try:
        read_header(path)
    except AudioError:
        return False
    return True


def _read_dialogs(scripts: Path, language: str) -> dict[str, tuple[str, str]]:
    dialogs: dict[str, tuple[str, str]] = {}
    for path in sorted(scripts.glob(f"*dialogs_{language}.lua")):
        for name, font, _, text in _DIALOG.findall(path.read_text(encoding="utf-8")):
            dialogs.setdefault(name, (font, re.sub(r"\\n", " ", text).replace('\\"', '"')))
    return dialogs


def _corpus(language: str, summary: str, rule: SplitRule | None) -> Corpus:
    return Corpus(
        name=f"fillets-{language}",
        summary=summary,
        licence="GPL-2",
        packages=(f"fillets-ng-data-{language}", "fillets-ng-data"),
        find=partial(find_fillets, language=language),
        rule=rule,
    )


CORPORA = (
    _corpus("cs", "Czech, 2 main and about 24 minor actors, 104 min, some reverb", None),
    _corpus(
        "nl",
        "Dutch, 2 actors, 96 min, little above 4 kHz",
        SplitRule(minutes=(("test", 10), ("dev", 5), ("train", 10))),
    ),
)
