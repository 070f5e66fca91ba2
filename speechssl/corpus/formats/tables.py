"""Imports and exports tables with a header line and any column names: comma-separated (`.csv`) or tab-separated.

A part of a recording has `start` (its first sample) and `file_samples` beside its `samples`, as in a manifest, or, in
imported tables, `start_s` and either `end_s` or `duration_s`, in seconds.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechssl.atomic import write_atomically
from speechssl.audio.reading import Segment
from speechssl.corpus.entries import Entry, account, text_lines
from speechssl.data.utterances import Manifest
from speechssl.errors import ManifestError

__all__ = ["read_table", "table_entries", "write_table"]

_PART = ("start", "file_samples")
_COLUMNS = ("id", "path", "samples", "rate", "channels", *_PART, "channel", "text", "speaker", "language", "split")
_SECONDS = ("start_s", "end_s", "duration_s")  # columns that are read but not written


def read_table(
    path: Path, columns: Mapping[str, str], usual: Mapping[str, Sequence[str]] | None = None
) -> tuple[list[Entry], list[str]]:
    """Read a table.

    Args:
        path: the file.
        columns: ours -> theirs, for columns with other names.
        usual: ours -> usual names in the format; the first one present is used.

    Returns:
        The entries, and a note on the columns that were used and those that were not.

    Raises:
        ManifestError: a column is unknown or missing, there is no path, or a row has too few or too many cells.
    """
    text = "".join(f"{line}\n" for _, line in text_lines(path))
    is_csv = path.suffix.lower() == ".csv"
    reader = csv.reader(
        io.StringIO(text),
        delimiter="," if is_csv else "\t",
        quoting=csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE,
    )
    try:
        header = list(next(reader, []))
        rows = [(f"{path}:{reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        raise ManifestError(f"{path}:{reader.line_num}: no table ({error})") from error
    return table_entries(path, header, rows, columns, usual)


def table_entries(
    path: Path,
    header: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    columns: Mapping[str, str],
    usual: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[Entry], list[str]]:
    """Convert the rows of a table, each with its location, to entries; otherwise as `read_table`."""
    found = {ours: next((name for name in names if name in header), names[0]) for ours, names in (usual or {}).items()}
    theirs = _named({**found, **columns}, _COLUMNS + _SECONDS)
    missing = [name for ours, name in theirs.items() if name not in header and (ours in columns or ours == "path")]
    if missing:
        raise ManifestError(
            f"{path}:1: no column {', '.join(missing)}, found {', '.join(header)!r:.200}; say which is which with "
            "--columns path=THEIRS,text=THEIRS"
        )
    entries = []
    for where, values in rows:
        if len(values) != len(header):
            raise ManifestError(f"{where}: expected {len(header)} cells, as many as the first line names")
        row = dict(zip(header, values, strict=True))
        cells = {ours: row[name] for ours, name in theirs.items() if row.get(name)}
        part = _part(cells, where)
        entries.append(
            Entry(
                where=where,
                path=cells.get("path", ""),
                num_samples=_number(cells, "samples" if part is None else "file_samples", where),
                part=part,
                start_s=_seconds(cells, "start_s", where),
                end_s=_seconds(cells, "end_s", where),
                duration_s=_seconds(cells, "duration_s", where),
                channel=_number(cells, "channel", where),
                sample_rate=_number(cells, "rate", where),
                id=cells.get("id"),
                text=cells.get("text"),
                speaker=cells.get("speaker"),
                language=cells.get("language"),
                split=cells.get("split"),
            )
        )
    taken = {ours: name for ours, name in theirs.items() if name in header}
    return entries, [account(path, taken, [name for name in header if name not in theirs.values()])]


def write_table(path: Path, manifest: Manifest, columns: Mapping[str, str]) -> None:
    """Write a table with all columns in use, renamed as in `columns` (ours -> theirs).

    Raises:
        ManifestError: a column is unknown, or two columns have the same name.
    """
    theirs = _named(columns, _COLUMNS)
    rows = []
    for row in manifest.utterances:
        numbers = [str(row.num_samples), str(row.sample_rate), str(row.channels)]
        part = [None, None] if row.file_samples is None else [str(row.start), str(row.file_samples)]
        channel = None if row.channel is None else str(row.channel)
        rows.append([row.id, row.path, *numbers, *part, channel, row.text, row.speaker, row.language, row.split])
    filled = [i for i in range(len(_COLUMNS)) if any(row[i] is not None for row in rows)]
    cells = [[theirs[_COLUMNS[i]] for i in filled], *([row[i] or "" for i in filled] for row in rows)]
    if path.suffix.lower() == ".csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(cells)
        write_atomically(path, out.getvalue())
        return
    if any(control in cell for line in cells for cell in line for control in "\t\n\r"):
        raise ManifestError(f"{path}: a cell holds a tab or line break; write a .csv, or remove it")
    write_atomically(path, "".join("\t".join(line) + "\n" for line in cells))


def _named(columns: Mapping[str, str], known: tuple[str, ...]) -> dict[str, str]:
    """Return the name of each of our columns in the table."""
    unknown = [name for name in columns if name not in known]
    theirs = {name: columns.get(name, name) for name in known}
    taken = set(columns.values())
    theirs = {ours: name for ours, name in theirs.items() if ours in columns or name not in taken}
    if unknown or len(taken) < len(columns):
        raise ManifestError(f"columns: expected some of {', '.join(known)}, each =THEIRS, found {dict(columns)}")
    return theirs


def _part(cells: Mapping[str, str], where: str) -> Segment | None:
    """Return the part if it is stated in samples, as in a manifest."""
    found = [name for name in _PART if name in cells]
    if not found:
        return None
    if len(found) < len(_PART) or "samples" not in cells:
        raise ManifestError(
            f"{where}: {found[0]} counts samples, as in a manifest, where samples, start and file_samples go together; "
            "of a table in seconds say which column is which with --columns start_s=THEIRS,end_s=THEIRS"
        )
    start, length = _number(cells, "start", where), _number(cells, "samples", where)
    assert start is not None
    assert length is not None
    return Segment(start, length)


def _seconds(cells: Mapping[str, str], name: str, where: str) -> float | None:
    if name not in cells:
        return None
    if name == "end_s" and "start_s" not in cells:
        raise ManifestError(f"{where}: an end without a start; name the column with --columns start_s=THEIRS")
    try:
        return float(cells[name])
    except ValueError as error:
        raise ManifestError(f"{where}: {name} is {cells[name]!r}, expected seconds") from error


def _number(cells: Mapping[str, str], name: str, where: str) -> int | None:
    if name not in cells:
        return None
    if not cells[name].isdecimal() or len(cells[name]) > 18:
        raise ManifestError(f"{where}: {name} is {cells[name]!r}, expected a whole number")
    return int(cells[name])
