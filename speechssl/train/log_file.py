"""A file of JSON lines that a kill, a crash or a full disk leaves readable: `log.jsonl` and `alarms.jsonl` of a run."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from speechssl.atomic import write_atomically
from speechssl.errors import TrainingError

__all__ = ["LogFile", "read_log_file"]


class LogFile:
    """Appends JSON objects to a file, each a line that is there whole or not at all.

    Opening cuts what an interruption left: a half-written last line, and the lines later than the step that the run
    resumes from. Those are moved to `NAME.superseded.jsonl` beside it: the resumed run writes their steps again, and a
    log in which each step stands once can be read by any tool without knowing of interruptions; but they are not
    thrown away, because they may be all that tells why the run before broke off.
    """

    def __init__(self, path: Path, *, done: int) -> None:
        """Open a file for appending.

        Args:
            path: created when missing, with its folder.
            done: step that the run goes on from, 0 for a new one.

        Raises:
            TrainingError: it cannot be opened or written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut(path, done)
            self._file = path.open("ab", buffering=0)  # no buffer: a line is with the system when write() returns
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._refused(error) from error

    def write(self, row: Mapping[str, object]) -> None:
        """Append one line; metrics that are not finite, which JSON does not have, become null.

        Raises:
            TrainingError: the line cannot be written, as on a full disk; the file stays as it was before.
        """
        finite = {key: value if _is_finite(value) else None for key, value in row.items()}
        line = rest = (json.dumps(finite, allow_nan=False) + "\n").encode()
        try:
            while rest:  # a disk that fills up takes a part, and refuses only the next write
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise self._refused(error) from error
        self._size += len(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _refused(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"{self.path}: cannot be written ({error.strerror}); make room, or give the right to write, and run the "
            "same command again: training goes on from the last checkpoint"
        )


def read_log_file(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Read the lines of a log, also while it is being written.

    Returns:
        the objects, in the file's order, metrics under their present names, and the numbers of lines, from 1, that are
        no whole JSON: the last one may be half-written, and versions before `superseded` files ran the next line into
        such a one.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is JSON, but no object with a whole number as "step".
    """
    rows: list[dict[str, Any]] = []
    broken: list[int] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:  # also bytes that are no text
            broken.append(number)
            continue
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise ValueError(f'line {number}: expected an object with a whole number as "step", found {line[:60]!r}')
        rows.append({_present_name(name): value for name, value in row.items()})
    return rows, broken


def _present_name(metric: str) -> str:
    """Return what a metric of an earlier version is called now."""
    current = f"dev_{metric.removeprefix('valid_')}" if metric.startswith("valid_") else metric
    return "negative_spread" if current == "distractor_spread" else current


def _cut(path: Path, done: int) -> None:
    """Keep the whole lines of steps up to `done`; move later ones to the superseded, which is written first."""
    if not path.exists():
        return
    text = path.read_bytes()
    try:
        rows, broken = read_log_file(path)
    except ValueError as error:
        raise TrainingError(f"{path}: {error}; this is no log of a run, name another out") from error
    kept = [row for row in rows if row["step"] <= done]
    later = [row for row in rows if row["step"] > done]
    if later:
        with path.with_suffix(".superseded.jsonl").open("a", encoding="utf-8") as file:
            file.write(_lines(later))
            file.flush()
            os.fsync(file.fileno())
    if later or broken or (text and not text.endswith(b"\n")):
        write_atomically(path, _lines(kept))


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
