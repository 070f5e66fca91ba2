"""Reads and writes manifests as text, in our format and fairseq's; Parquet is in `data/manifest_parquet.py`.

A manifest is a tab-separated table with a header line. The columns `id path samples rate channels` are required, any of
`start file_samples channel text speaker language split decoder root` may follow. Paths are relative to a root: the
manifest's own folder, or the folder in the column `root`, relative to it, so that a corpus can move with its manifests;
`--root` and `data.root` override it. A path may be a member of an archive, `shards/x.tar:OFFSET:SIZE`, or a URL. An
utterance with `start` and `file_samples` is a part of its file; one with a `channel`, counted from 0, is that channel.
A `decoder` is the version of ffmpeg that the length and frame labels are valid for, as other versions may start the
sound at another sample. Further columns, such as an emotion, are kept as `Utterance.more`; Parquet has none.
fairseq's format has two columns: root line, then path and samples.
"""

import csv
import difflib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from speechssl.atomic import write_atomically
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.audio.storage import is_url
from speechssl.data.manifest_parquet import ParquetRows, write_parquet
from speechssl.data.utterances import Manifest, Utterance, id_of, refuse_duplicate_ids
from speechssl.errors import ManifestError
from speechssl.text.fields import lines_of

__all__ = [
    "PARQUET",
    "read_fairseq_manifest",
    "read_manifest",
    "read_side_file",
    "read_table",
    "root_from",
    "write_fairseq_manifest",
    "write_manifest",
]

PARQUET = ".parquet"  # suffix of a manifest in Parquet

_REQUIRED = ("id", "path", "samples", "rate", "channels")
_PART = ("start", "file_samples")
_CHANNEL = "channel"
_OPTIONAL = ("text", "speaker", "language", "split")
_DECODER = "decoder"
_ROOT = "root"
_KNOWN = (*_REQUIRED, *_PART, _CHANNEL, *_OPTIONAL, _DECODER, _ROOT)


def read_manifest(path: Path | str, *, root: Path | str | None = None) -> Manifest:
    """Read a manifest in our format or fairseq's; the header line tells which.

    Args:
        path: the manifest; Parquet if its name ends in `.parquet`.
        root: folder that audio paths are relative to; None for the manifest's column `root`, or else its own folder.

    Raises:
        ManifestError: the manifest is missing or empty, lacks required columns, or has a row that does not parse.
    """
    path, root = Path(path), None if root is None else Path(root)
    if path.suffix.lower() == PARQUET:
        rows = ParquetRows(path)
        return Manifest(root=root or _root_at(path.parent, rows.root), utterances=rows)
    lines = _read_lines(path)
    header = lines[0].split("\t")
    if len(header) == 1:
        return read_fairseq_manifest(path, root=root)
    missing = [name for name in _REQUIRED if name not in header]
    misspelt = [
        name for name in header if name not in _KNOWN and difflib.get_close_matches(name.lower(), _KNOWN, 1, 0.8)
    ]
    if missing or misspelt or "" in header or len(set(header)) != len(header):
        named = f"; is {misspelt[0]} one of these, misspelt?" if misspelt else ""
        raise ManifestError(
            f"{path}:1: expected the columns {' '.join(_REQUIRED)} and any of {' '.join(_KNOWN[len(_REQUIRED) :])}, "
            f"found {' '.join(header)}{named}; build the manifest again with `speechssl manifest build`"
        )
    utterances = [_parse_row(header, line, where=f"{path}:{i}") for i, line in enumerate(lines[1:], start=2)]
    if not utterances:
        raise ManifestError(f"{path}: lists no utterances; build it again from a folder that holds audio")
    refuse_duplicate_ids(utterances, where=str(path))
    folder = path.parent
    if root is None and _ROOT in header:
        column = header.index(_ROOT)
        roots = [line.split("\t")[column] for line in lines[1:]]
        if len({*roots}) == 1:
            folder = _root_at(folder, roots[0])
        else:  # several manifests concatenated
            utterances = [_below(row, each) for row, each in zip(utterances, roots, strict=True)]
    return Manifest(root=root or folder, utterances=tuple(utterances))


def root_from(folder: Path, manifest: Manifest) -> str:
    """Return the value of the column `root` for a manifest that is written to `folder`.

    Returns:
        The path from `folder` to the root: relative, so that both can move together, or absolute if they share no
        folder but `/`. Empty if `folder` is the root, all audio is at URLs, or the first file does not exist: then the
        root is the folder of the manifest.
    """
    here, there = os.path.realpath(folder), os.path.realpath(manifest.root)
    first = next((row for row in manifest.utterances if not is_url(row.path)), None)
    if here == there or first is None or not Path(manifest.place(first).path).exists():
        return ""
    return there if os.path.commonpath([here, there]) == os.sep else Path(os.path.relpath(there, here)).as_posix()


def write_manifest(path: Path, utterances: Iterable[Utterance], *, root: str = "") -> None:
    """Write a manifest atomically; its suffix decides between text and Parquet.

    Text omits optional columns that are empty in every row.

    Args:
        path: the file to write.
        utterances: the rows.
        root: value of the column `root`, from `root_from`; empty for none.
    """
    if path.suffix.lower() == PARQUET:
        write_parquet(path, utterances, root=root)
        return
    rows = list(utterances)
    optional = [name for name in (*_OPTIONAL, _DECODER) if any(getattr(row, name) is not None for row in rows)]
    part = _PART if any(row.file_samples is not None for row in rows) else ()
    channel = (_CHANNEL,) if any(row.channel is not None for row in rows) else ()
    more = list(dict.fromkeys(name for row in rows for name, _ in row.more))
    lines = ["\t".join([*_REQUIRED, *part, *channel, *optional, *([_ROOT] if root else []), *more])]
    for row in rows:
        cells = [row.id, row.path, str(row.num_samples), str(row.sample_rate), str(row.channels)]
        if part:
            cells += ["", ""] if row.file_samples is None else [str(row.start), str(row.file_samples)]
        if channel:
            cells.append("" if row.channel is None else str(row.channel))
        cells += [getattr(row, name) or "" for name in optional] + ([root] if root else [])
        cells += [dict(row.more).get(name, "") for name in more]
        if any(control in cell for cell in cells for control in "\t\n\r"):
            raise ManifestError(f"{row.path!r}: its path or text holds a tab or line break; rename the file")
        lines.append("\t".join(cells))
    write_atomically(path, "\n".join(lines) + "\n")


def read_fairseq_manifest(path: Path, *, root: Path | None = None) -> Manifest:
    """Read fairseq's format: the root on the first line, then `path<TAB>samples`; audio is 16 kHz mono."""
    lines = _read_lines(path)
    utterances = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != 2 or not cells[1].isdecimal() or len(cells[1]) > 18:
            raise ManifestError(
                f"{path}:{number}: expected `path<TAB>samples` (fairseq's form), found {len(cells)} columns: {line!r}; "
                "rename files whose paths hold a tab"
            )
        utterances.append(
            Utterance(
                id=id_of(cells[0]),
                path=cells[0],
                num_samples=int(cells[1]),
                sample_rate=SAMPLE_RATE,
                channels=1,
            )
        )
    if not utterances:
        raise ManifestError(f"{path}: lists no utterances; build it again from a folder that holds audio")
    refuse_duplicate_ids(utterances, where=str(path))
    return Manifest(root=root or Path(lines[0]), utterances=tuple(utterances))


def write_fairseq_manifest(path: Path, manifest: Manifest) -> None:
    """Write fairseq's format, which has neither ids nor rates: every file must be 16 kHz."""
    for utterance in manifest.utterances:
        if utterance.sample_rate != SAMPLE_RATE:
            raise ManifestError(
                f"{utterance.path}: audio is {utterance.sample_rate} Hz; fairseq's manifest has no column for the rate "
                "and fairseq refuses it: resample the audio to 16000 Hz first"
            )
        if utterance.file_samples is not None or is_url(utterance.path):
            raise ManifestError(
                f"{utterance.id}: is a part of a file, or at a URL; fairseq's manifest lists whole files: write one"
            )
        if utterance.channel is not None:
            raise ManifestError(
                f"{utterance.id}: is one channel of {utterance.path}; fairseq's manifest lists whole files: write the "
                "channel to a file of its own"
            )
    rows = [f"{utterance.path}\t{utterance.num_samples}" for utterance in manifest.utterances]
    write_atomically(path, "\n".join([str(manifest.root.resolve()), *rows]) + "\n")


def read_side_file(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of optional manifest columns, keyed by `id` or `path`.

    Returns:
        Columns by id, or by path.

    Raises:
        ManifestError: the file cannot be read, has no column `id` or `path`, an unknown column, or a key twice.
    """
    table = read_table(path, ("id", "path"), _OPTIONAL)
    return {key: {name: row[name] for name in _OPTIONAL if name in row} for key, row in table.items()}


def read_table(path: Path, keys: Sequence[str], known: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Read a table with a header line: comma-separated for `.csv`, else tab-separated without quoting.

    Args:
        path: the table, in UTF-8.
        keys: candidates for the key column; the first one present is used.
        known: other columns that are allowed; empty for any, at least one.

    Returns:
        The other columns by key.

    Raises:
        ManifestError: the file cannot be read, columns are missing or unknown, a row has too few or too many cells, or
            a key occurs twice.
    """
    is_csv = path.suffix.lower() == ".csv"
    try:
        content = io.StringIO(path.read_text(encoding="utf-8-sig"))
        reader = csv.DictReader(
            content, delimiter="," if is_csv else "\t", quoting=csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE
        )
        names = list(reader.fieldnames or ())
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); name a table in UTF-8") from error
    key = next((name for name in keys if name in names), None)
    if key is None or not {*names} <= {*(known or names), *keys} or len(names) < (1 if known else 2):
        others = f"any of {' '.join(known)}" if known else "others"
        raise ManifestError(
            f"{path}:1: expected a column {' or '.join(f'`{name}`' for name in keys)} and {others}, "
            f"found {' '.join(names) or 'nothing'}"
        )
    table: dict[str, dict[str, str]] = {}
    for line, row in rows:
        if None in row or None in row.values():
            raise ManifestError(f"{path}:{line}: expected {len(names)} columns, as many as the first line names")
        if row[key] in table:
            raise ManifestError(f"{path}:{line}: {row[key]} occurs twice; keep one of its rows")
        table[row[key]] = {name: row[name] for name in names if name != key}
    return table


def _read_lines(path: Path) -> list[str]:
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest ({error.strerror}); name an existing file") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if not lines:
        raise ManifestError(f"{path}: empty; build it again with `speechssl manifest build`")
    return lines


def _parse_row(header: list[str], line: str, *, where: str) -> Utterance:
    cells = line.split("\t")
    if len(cells) != len(header):
        raise ManifestError(
            f"{where}: expected {len(header)} columns, found {len(cells)}: {line!r}; remove tabs inside paths and texts"
        )
    row = dict(zip(header, cells, strict=True))
    for name in ("samples", "rate", "channels"):
        if not row[name].isdecimal() or len(row[name]) > 18 or int(row[name]) == 0:
            raise ManifestError(f"{where}: {name} is {row[name]!r}, expected a positive whole number")
    part = [row[name] for name in _PART if row.get(name)]
    if part and (len(part) != len(_PART) or not all(cell.isdecimal() and len(cell) <= 18 for cell in part)):
        raise ManifestError(f"{where}: expected both {' and '.join(_PART)} in samples, or neither; found {part}")
    start, file_samples = (int(part[0]), int(part[1])) if part else (0, None)
    if file_samples is not None and start + int(row["samples"]) > file_samples:
        raise ManifestError(
            f"{where}: starts at sample {start} and has {row['samples']}, of a file of {file_samples}; correct them"
        )
    channel = row.get(_CHANNEL) or None
    if channel is not None and (not channel.isdecimal() or len(channel) > 18 or int(channel) >= int(row["channels"])):
        raise ManifestError(
            f"{where}: channel is {channel!r} of {row['channels']}, expected a number counted from 0, or nothing"
        )
    return Utterance(
        id=row["id"],
        path=row["path"],
        num_samples=int(row["samples"]),
        sample_rate=int(row["rate"]),
        channels=int(row["channels"]),
        start=start,
        file_samples=file_samples,
        channel=None if channel is None else int(channel),
        **{name: row[name] for name in (*_OPTIONAL, _DECODER) if row.get(name)},
        more=tuple((name, cell) for name, cell in row.items() if cell and name not in _KNOWN),
    )


def _root_at(folder: Path, said: str) -> Path:
    """Return the root that a manifest in `folder` names; `..` is resolved unless a symbolic link is involved."""
    root = folder / said
    return Path(os.path.normpath(root)) if os.path.realpath(folder) == os.path.abspath(folder) else root  # noqa: PTH100


def _below(row: Utterance, root: str) -> Utterance:
    return row if is_url(row.path) else replace(row, path=(Path(root) / row.path).as_posix())
