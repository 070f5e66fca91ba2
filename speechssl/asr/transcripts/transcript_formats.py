"""Transcripts as files: tables, JSON lines, TRN and CTM for scoring, SRT for subtitles, TextGrid for Praat."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from speechssl.asr.transcripts.timed import Timed, Transcript
from speechssl.atomic import write_atomically
from speechssl.errors import ConfigError
from speechssl.text.fields import escape_id

__all__ = ["SUFFIXES", "check_ids", "write_transcripts"]

_LINE_S, _LINE_LETTERS = 6.0, 80  # most seconds and letters of a subtitle
_PAUSE_S = 1.0  # pause that ends a subtitle
_CONTROLS = "\t\n\r"  # characters that cells of a table cannot hold


def check_ids(out: Path, ids: Sequence[str]) -> None:
    """Check, before any text is computed, that a file can be written with these ids.

    Raises:
        ConfigError: the suffix is unknown, an id cannot be a file name, or an id in a table holds a tab or line break.
    """
    suffix = out.suffix.lower()
    if suffix not in (*_OF_ALL, *_OF_ONE):
        raise ConfigError(f"{out}: expected a name that ends in one of {', '.join(SUFFIXES)}")
    for key in ids:
        if suffix == ".tsv" and any(control in key for control in _CONTROLS):
            raise ConfigError(f"{key!r}: has a tab or line break in id or text; write .jsonl, which holds any")
        if suffix in _OF_ONE and len(ids) > 1 and (key in ("", ".", "..") or "/" in key or "\0" in key):
            raise ConfigError(f"{key!r}: cannot be the name of a file; write .ctm or .jsonl, which hold any id")


def write_transcripts(out: Path, transcripts: Sequence[Transcript]) -> list[Path]:
    """Write transcripts atomically, in the format of the suffix.

    `.tsv`, `.jsonl`, `.trn` and `.ctm` hold all utterances. `.srt` and `.TextGrid` hold one: for several, `out`
    without its suffix becomes a folder with a file for each id. Characters that would end an id in TRN and CTM are
    escaped (`escape_id`), and unescaped by our readers.

    Raises:
        ConfigError: as in `check_ids`, or a text in a table holds a tab or line break.
    """
    check_ids(out, [each.id for each in transcripts])
    suffix = out.suffix.lower()
    if suffix in _OF_ALL:
        write_atomically(out, _OF_ALL[suffix](transcripts))
        return [out]
    if len(transcripts) == 1:
        write_atomically(out, _OF_ONE[suffix](transcripts[0]))
        return [out]
    written = []
    for each in transcripts:
        written.append(out.with_suffix("") / f"{each.id}{out.suffix}")
        write_atomically(written[-1], _OF_ONE[suffix](each))
    return written


def _tsv(transcripts: Sequence[Transcript]) -> str:
    for each in transcripts:
        if any(control in each.text for control in _CONTROLS):
            raise ConfigError(f"{each.id!r}: has a tab or line break in id or text; write .jsonl, which holds any")
    if any(each.shift is not None for each in transcripts):
        rows = (f"{each.id}\t{each.text}\t{each.shift or ''}\n" for each in transcripts)
        return "".join(["id\ttext\tshift\n", *rows])
    return "".join(["id\ttext\n", *(f"{each.id}\t{each.text}\n" for each in transcripts)])


def _jsonl(transcripts: Sequence[Transcript]) -> str:
    return "".join(json.dumps(_object(each), ensure_ascii=False) + "\n" for each in transcripts)


def _object(each: Transcript) -> dict[str, object]:
    found: dict[str, object] = {"id": each.id, "text": each.text, "duration": round(each.duration_s, 3)}
    if each.path is not None:
        found |= {"path": each.path, "start": round(each.start_s, 3)}
    if each.shift is not None:
        found["shift"] = each.shift
    if each.confidence is not None:
        found["confidence"] = round(each.confidence, 4)
    for name, timed in (("words", each.words), ("letters", each.letters)):
        if timed:
            found[name] = [
                {
                    "text": one.text,
                    "start": round(one.start_s, 3),
                    "end": round(one.end_s, 3),
                    "confidence": round(one.confidence, 4),
                }
                for one in timed
            ]
    if each.alternatives:
        found["alternatives"] = [{"text": text, "score": round(score, 4)} for text, score in each.alternatives]
    return found


def _trn(transcripts: Sequence[Transcript]) -> str:
    return "".join(f"{each.text} ({escape_id(each.id, '()')})\n" for each in transcripts)


def _ctm(transcripts: Sequence[Transcript]) -> str:
    """Return NIST's CTM: `utterance channel start duration word confidence`; `;;` begins a comment."""
    rows = [f";; shift {shift}\n" for shift in dict.fromkeys(each.shift for each in transcripts) if shift is not None]
    for each in transcripts:
        name = escape_id(each.id, ";" if each.id.startswith(";;") else "")
        for word in each.words or each.letters:
            length_s = word.end_s - word.start_s
            rows.append(f"{name} 1 {word.start_s:.3f} {length_s:.3f} {word.text} {word.confidence:.4f}\n")
    return "".join(rows)


def _srt(transcript: Transcript) -> str:
    blocks, place = [], 0
    for number, words in enumerate(_subtitles(transcript.words), start=1):
        times = f"{_clock(words[0].start_s)} --> {_clock(words[-1].end_s)}"
        line, place = _written(words, transcript.text, place)
        blocks.append(f"{number}\n{times}\n{line}\n")
    return "\n".join(blocks)


def _written(words: Sequence[Timed], text: str, place: int) -> tuple[str, int]:
    """Return the part of a text, from a position on, that holds the words; and the position after it.

    Words that the text does not contain, such as those of phones, are joined by spaces.
    """
    first, end = None, place
    for word in words:
        found = text.find(word.text, end)
        if found < 0:
            return " ".join(word.text for word in words), place
        first, end = found if first is None else first, found + len(word.text)
    return text[first:end], end


def _subtitles(words: Sequence[Timed]) -> list[list[Timed]]:
    blocks: list[list[Timed]] = []
    for word in words:
        if blocks:
            block = blocks[-1]
            letters = sum(len(each.text) + 1 for each in block) + len(word.text)
            is_near = word.start_s - block[-1].end_s < _PAUSE_S
            if is_near and letters <= _LINE_LETTERS and word.end_s - block[0].start_s <= _LINE_S:
                block.append(word)
                continue
        blocks.append([word])
    return blocks


def _clock(seconds: float) -> str:
    """Format a time for SRT.

    Examples:
        >>> _clock(3725.0426)
        '01:02:05,043'
    """
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


def _textgrid(transcript: Transcript) -> str:
    """Return Praat's long text format, with a tier of words and, if there are any, one of letters."""
    tiers = [("words", transcript.words), *([("letters", transcript.letters)] if transcript.letters else [])]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {transcript.duration_s:.6f}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, timed) in enumerate(tiers, start=1):
        filled = _with_gaps(timed, transcript.duration_s)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {transcript.duration_s:.6f}"]
        lines.append(f"        intervals: size = {len(filled)}")
        for place, (start_s, end_s, text) in enumerate(filled, start=1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start_s:.6f}"]
            lines += [f"            xmax = {end_s:.6f}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def _with_gaps(timed: Sequence[Timed], duration_s: float) -> list[tuple[float, float, str]]:
    """Return intervals without gaps, as Praat requires; those between words have no text."""
    filled: list[tuple[float, float, str]] = []
    now_s = 0.0
    for each in timed:
        end_s = min(each.end_s, duration_s)
        if each.start_s > now_s:
            filled.append((now_s, each.start_s, ""))
        filled.append((max(now_s, each.start_s), end_s, each.text))
        now_s = end_s
    if now_s < duration_s or not filled:
        filled.append((now_s, duration_s, ""))
    return filled


_OF_ALL: dict[str, Callable[[Sequence[Transcript]], str]] = {".tsv": _tsv, ".jsonl": _jsonl, ".trn": _trn, ".ctm": _ctm}
_OF_ONE: dict[str, Callable[[Transcript], str]] = {".srt": _srt, ".textgrid": _textgrid}
SUFFIXES = (*_OF_ALL, ".srt", ".TextGrid")
