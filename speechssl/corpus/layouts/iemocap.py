"""IEMOCAP (Busso et al. 2008): emotions of acted dialogues in five sessions of two speakers each.

`SessionN/sentences/wav/DIALOGUE/TURN.wav` is a turn, `SessionN/dialog/EmoEvaluation/DIALOGUE.txt` has the emotion of
each, `SessionN/dialog/transcriptions/DIALOGUE.txt`, where present, the words. No splits are published: one session
is left out for testing, the column `fold`. The name of a dialogue, `Ses01F_impro01`, names who wore the markers;
who speaks is told by the turn, `Ses01F_impro01_M003`, and is the column `speaker`: `Ses01M`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from speechssl.corpus.entries import Entry, text_lines
from speechssl.corpus.fetch.spoken_text import normalize_text
from speechssl.corpus.layouts.listing import Account, Listing, child_with
from speechssl.errors import CorpusError

__all__ = ["find_iemocap"]

_FOUR = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}  # emotion -> class of SUPERB
_LAYOUT = "Session1 to Session5, each with sentences/wav and dialog/EmoEvaluation"
_SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
_LINE = re.compile(
    r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\t(?P<turn>\S+)\t(?P<emotion>\w+)\t\[(?P<scales>[^]]*)\]\s*"
)
_TURN = re.compile(r"(?P<session>Ses0[1-5])[FM]_(?P<act>impro|script)\w*_(?P<speaker>[FM])\w*")
_SCALES = ("valence", "activation", "dominance")


def find_iemocap(source: Path) -> Listing:
    """List all turns that have an emotion; the labels `four` are empty outside of SUPERB's four classes.

    Args:
        source: folder with the five sessions, or one above it; ids are the names of the turns.

    Raises:
        CorpusError: a session or its labels are missing, a line does not parse, or a class of the four is empty.
    """
    root = child_with(source, (_SESSIONS[0],), layout=_LAYOUT)
    account = Account()
    entries: list[Entry] = []
    answers: dict[str, dict[str, str]] = {}
    for number, session in enumerate(_SESSIONS, start=1):
        labels = dict(_labels(root / session / "dialog/EmoEvaluation"))
        texts = dict(_texts(root / session / "dialog/transcriptions"))
        audio = {path.stem: path for path in sorted((root / session / "sentences/wav").glob("*/[!.]*.wav"))}
        if not audio:
            raise CorpusError(f"{root / session}: expected {_LAYOUT}, found no sentences/wav/*/*.wav; unpack it again")
        account.add("left out, without an emotion in EmoEvaluation", sorted(audio.keys() - labels.keys()))
        account.add("left out, with an emotion, without audio", sorted(labels.keys() - audio.keys()))
        for turn in sorted(audio.keys() & labels.keys()):
            match = _TURN.fullmatch(turn)
            if match is None or match["session"] != f"Ses0{number}":
                account.add(f"left out, named unlike a turn of {session}", [turn])
                continue
            emotion, scales = labels[turn]
            spoken = normalize_text(texts[turn], "en") if turn in texts else None
            if texts and (spoken is None or spoken.text is None):
                account.add(f"without text, {spoken.why_not if spoken else 'no transcription'}", [turn])
            entries.append(
                Entry(
                    where=str(audio[turn]),
                    path=audio[turn].relative_to(root).as_posix(),
                    id=turn,
                    text=spoken.text if spoken else None,
                    speaker=match["session"] + match["speaker"],
                    language="en",
                )
            )
            answers[turn] = {
                "emotion": emotion,
                "four": _FOUR.get(emotion, ""),
                "fold": str(number),
                "act": "improvised" if match["act"] == "impro" else "scripted",
                **scales,
            }
    empty = sorted({*_FOUR.values()} - {label["four"] for label in answers.values()})
    if empty:
        raise CorpusError(f"{root}: no turn has the emotion {', '.join(empty)}, expected some of each; unpack it again")
    account.add("without one of the four emotions", [key for key, label in answers.items() if not label["four"]])
    return Listing(root=root, entries=entries, answers=answers, notes=account.notes())


def _labels(folder: Path) -> Iterator[tuple[str, tuple[str, dict[str, str]]]]:
    """Yield the turn, its emotion and the three scales; the raters' own lines are skipped."""
    tables = sorted(folder.glob("[!.]*.txt"))  # macOS left files such as `._Ses01F_impro01.txt` in the archive
    if not tables:
        raise CorpusError(f"{folder}: expected DIALOGUE.txt with the emotions, found none; unpack the archive again")
    for path in tables:
        for where, line in text_lines(path):
            if not re.match(r"\[\d", line):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise CorpusError(f"{where}: expected `[START - END] TURN EMOTION [V, A, D]`, found {line[:60]!r}")
            values = [value.strip() for value in match["scales"].split(",")]
            if len(values) != len(_SCALES):
                raise CorpusError(f"{where}: expected valence, activation and dominance, found {match['scales']!r}")
            yield match["turn"], (match["emotion"], dict(zip(_SCALES, values, strict=True)))


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the turn and its words from lines `TURN [START-END]: words`; other lines are remarks."""
    for path in sorted(folder.glob("[!.]*.txt")):
        for _, line in text_lines(path):
            match = re.fullmatch(r"(\S+) \[[\d.]+-[\d.]+\]: ?(.*)", line)
            if match is not None:
                yield match[1], match[2]
