"""Reads lists of verification trials, with or without scores, as toolkits write them.

| by | lines |
|---|---|
| VoxCeleb | `1 path path`, 0 for two speakers |
| Kaldi | `utterance utterance target`, or `nontarget` |
| scores of SpeechBrain | `utterance utterance 1 0.53` |
| scores of WeSpeaker | `utterance utterance 0.53 target` |
| Kaldi's `compute-eer` | `0.53 target` |
| tables | comma- or tab-separated, with a header line that names the columns |

Without a header, the column of labels is the one that holds labels, and the column of scores the last one of numbers.
Names may hold blanks where tabs or commas separate columns.
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.atomic import write_atomically
from speechssl.errors import ManifestError
from speechssl.text.fields import cells_as_line, cells_of, lines_of, sign_of

__all__ = ["TrialList", "read_trials", "write_trials"]

_WORDS = {
    **dict.fromkeys(("target", "tgt", "true", "same"), True),
    **dict.fromkeys(("nontarget", "non-target", "imposter", "impostor", "imp", "false", "different"), False),
}
_DIGITS = {"1": True, "0": False}
_LABELS = _WORDS | _DIGITS
_HEADERS = {  # names of columns by role, without blanks, `-` and `_`
    "first": re.compile(
        r"(first|(enrol|enroll|enrolment|enrollment)(id|path|file|wav|utt)?|model(id)?|(id|utt|utterance|path|file|wav|audio)1)"
    ),
    "second": re.compile(r"(second|test(id|path|file|wav|utt)?|segment(id)?|(id|utt|utterance|path|file|wav|audio)2)"),
    "label": re.compile(r"(label|target|istarget|targettype|key|same|samespeaker)"),
    "score": re.compile(r"(score|llr|similarity|cosine)"),
}
_EXPECTED = (
    "expected `1 path path`, `utterance utterance target`, either with a score, or a table whose first line names the "
    "columns first, second and label"
)

Row = tuple[int, list[str]]  # line number, cells


@dataclass(frozen=True, kw_only=True)
class TrialList:
    """Trials of a file, as columns."""

    path: Path
    first: tuple[str, ...]  # names of utterances; empty if the file holds scores and labels alone
    second: tuple[str, ...]
    is_target: NDArray[np.bool_]  # (trials,)
    scores: NDArray[np.float64] | None  # (trials,)
    lines: tuple[int, ...]  # line of each trial


def read_trials(path: Path) -> TrialList:
    """Read trials of any of the forms above.

    Raises:
        ManifestError: the file cannot be read, is of no such form, or has a line of another form, a label that is none,
            or a score that is not a number.
    """
    rows = _read_rows(path)
    columns = _named_columns(rows)
    rows = rows[1:] if columns else rows
    if not rows:
        raise ManifestError(f"{path}: holds no trials; {_EXPECTED}")
    columns = columns or _found_columns(rows, path)
    width = len(rows[0][1])
    targets, scores = list[bool](), list[float]()
    for line, cells in rows:
        if len(cells) != width:
            raise ManifestError(
                f"{path}:{line}: expected {width} columns, as before, found {len(cells)}; separate columns by tabs if "
                "names hold blanks"
            )
        label = cells[columns["label"]]
        if label.lower() not in _LABELS:
            raise ManifestError(f"{path}:{line}: expected target or nontarget, or 1 or 0, found {label!r}; correct it")
        targets.append(_LABELS[label.lower()])
        if "score" in columns:
            scores.append(_number(cells[columns["score"]], where=f"{path}:{line}"))
    names = [
        tuple(cells[columns[side]] for _, cells in rows) if side in columns else () for side in ("first", "second")
    ]
    return TrialList(
        path=path,
        first=names[0],
        second=names[1],
        is_target=np.array(targets),
        scores=np.array(scores) if "score" in columns else None,
        lines=tuple(line for line, _ in rows),
    )


def write_trials(
    path: Path,
    first: Sequence[str],
    second: Sequence[str],
    is_target: Sequence[bool] | NDArray[np.bool_],
    scores: Sequence[float] | NDArray[np.float64] | None = None,
) -> None:
    """Write trials as a table with the columns first, second, label and, if given, score; `read_trials` reads it."""
    cells = [first, second, ["target" if each else "nontarget" for each in is_target]]
    cells += [] if scores is None else [[f"{score:.9g}" for score in scores]]
    header = ("first", "second", "label", "score")[: len(cells)]
    lines = [header, *zip(*cells, strict=True)]
    write_atomically(path, "".join(f"{cells_as_line(line)}\n" for line in lines))


def _read_rows(path: Path) -> list[Row]:
    try:
        lines = lines_of(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the trials ({error.strerror}); name an existing file") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not filled:
        raise ManifestError(f"{path}: holds no trials; {_EXPECTED}")
    first = filled[0][1].strip(" ")
    sign = sign_of(first, is_csv=path.suffix.lower() == ".csv" or not re.search(r"[ \t]", first))
    if sign == "|" or (sign == "\t" and len(first.split("\t")) == 2 and " " in first):
        sign = None
    try:
        return [(number, [cell.strip() for cell in cells_of(line, sign)]) for number, line in filled]
    except csv.Error as error:
        raise ManifestError(f"{path}: cannot be read as a table ({error}); correct its quotes") from error


def _named_columns(rows: Sequence[Row]) -> dict[str, int] | None:
    """Return the columns by role if the first row is a header."""
    names = [re.sub(r"[-_ ]", "", cell.lower()) for cell in rows[0][1]]
    found = {
        role: next((i for i, name in enumerate(names) if known.fullmatch(name)), -1) for role, known in _HEADERS.items()
    }
    columns = {role: index for role, index in found.items() if index >= 0}
    if "label" not in columns or not ({"first", "second"} <= {*columns} or "score" in columns):
        return None
    column = columns["label"]
    after = rows[1][1] if len(rows) > 1 else []
    if names[column] in _WORDS and len(after) > column and after[column].lower() in _WORDS:
        return None  # a trial of utterances named such as utt1 and utt2
    return columns


def _found_columns(rows: Sequence[Row], path: Path) -> dict[str, int]:
    """Return the columns by role of rows without header, by what most rows hold there."""
    line, cells = rows[0]
    table = [each for _, each in rows if len(each) == len(cells)]
    columns = range(len(cells))
    counts = [
        (sum(each[column].lower() in _LABELS for each in table), sum(each[column].lower() in _WORDS for each in table))
        for column in columns
    ]
    label = max(columns, key=lambda column: (*counts[column], -column))
    if not 2 <= len(cells) <= 4 or 2 * counts[label][0] <= len(table):
        raise ManifestError(f"{path}:{line}: {_EXPECTED}, found {' '.join(cells)!r:.200}")
    rest = [column for column in columns if column != label]
    found = {"label": label}
    if len(rest) != 2:
        numeric = [column for column in rest if 2 * sum(_is_number(each[column]) for each in table) > len(table)]
        if not numeric:
            raise ManifestError(f"{path}:{line}: expected a column of scores, found {' '.join(cells)!r:.200}")
        found["score"] = numeric[-1]
        rest.remove(numeric[-1])
    if rest:
        found |= {"first": rest[0], "second": rest[1]}
    return found


def _number(cell: str, *, where: str) -> float:
    """Read a score, which may be infinite."""
    if not _is_number(cell) or math.isnan(float(cell)):
        raise ManifestError(f"{where}: the score is {cell!r}, expected a number; correct what computes it")
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
