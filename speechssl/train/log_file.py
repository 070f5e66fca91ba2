"""JSON-lines files that stay readable after a kill, a crash or a full disk: `log.jsonl` and `alarms.jsonl` of a run."""

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
    """Appends JSON objects to a file, one per line, each written completely or not at all.

    Opening the file cleans up after an interruption: it removes a half-written last line, and moves the lines after the
    step that the run resumes from to `NAME.superseded.jsonl`. The resumed run writes these steps again, so each step
    occurs once in the log; the old lines are kept because they may show why the earlier run stopped.
    """

    def __init__(self, path: Path, *, done: int) -> None:
        """Open a file for appending.

        Args:
            path: path of the file; it is created if missing, with its folder.
            done: step that the run resumes from, 0 for a new run.

        Raises:
            TrainingError: the file cannot be opened or written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut(path, done)
            self._file = path.open("ab", buffering=0)  # unbuffered: the system has a line when write() returns
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._refused(error) from error

    def write(self, row: Mapping[str, object]) -> None:
        """Append one line; non-finite metrics become null, since JSON cannot represent them.

        Raises:
            TrainingError: the line cannot be written, for example on a full disk; the file is unchanged.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        line = rest = (json.dumps(finite, allow_nan=False) + "\n").encode()
        try:
            while rest:  # on a disk that fills up, write() takes a part of the line and fails only at the next call
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
        The objects in the order of the file, with the current names of metrics, and the numbers, from 1, of lines that
        are no complete JSON: the last line may be half-written, and early versions appended the next line to such a
        line.

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
        except ValueError:  # also raised for invalid UTF-8
            broken.append(number)
            continue
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise ValueError(f'line {number}: expected an object with a whole number as "step", found {line[:60]!r}')
        rows.append({_present_name(name): value for name, value in row.items()})
    return rows, broken


def _present_name(metric: str) -> str:
    """Return the current name of a metric of an earlier version."""
    current = f"dev_{metric.removeprefix('valid_')}" if metric.startswith("valid_") else metric
    return "negative_spread" if current == "distractor_spread" else current


def _cut(path: Path, done: int) -> None:
    """Keep complete lines of steps up to `done`; move later ones to the superseded file, which is written first."""
    if not path.exists():
        return
    text = path.read_bytes()
    try:
        rows, broken = read_log_file(path)
    except ValueError as error:
        raise TrainingError(f"{path}: {error}; this is not the log of a run, name another out") from error
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
