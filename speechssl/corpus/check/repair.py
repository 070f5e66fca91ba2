"""Writes cleaned manifests without the rows that have errors, and lists what was removed or corrected, and why."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from speechssl.atomic import write_atomically
from speechssl.corpus.check.across_files import Checked
from speechssl.corpus.check.checking import Report
from speechssl.corpus.check.findings import FINDINGS, Finding
from speechssl.data.manifest import root_from, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ConfigError, ManifestError
from speechssl.text.fields import cells_as_line

__all__ = ["Repaired", "describe_repaired", "write_repaired"]

_COLUMNS = ("id", "path", "change", "finding", "message")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repaired:
    """One manifest that was written."""

    path: Path
    root: Path  # root of its audio, that of the manifest that was checked
    changes: Path  # list of what was removed or corrected
    kept: int
    removed: int
    corrected: int


def write_repaired(out: Path, report: Report, *, remove: Collection[str] = ()) -> list[Repaired]:
    """Write the manifests without the rows that have errors; change no audio, overwrite no manifest.

    A row whose only error is that it disagrees with its file (`header`) is corrected instead.

    Args:
        out: the manifest to write; for a report on several, a folder for manifests of the same names.
        report: result of `check_manifests`.
        remove: names of warnings whose rows are removed as well.

    Raises:
        ConfigError: `remove` holds an unknown name.
        ManifestError: a manifest that was checked would be overwritten, or nothing would be left.
    """
    unknown = set(remove) - set(FINDINGS)
    if unknown:
        raise ConfigError(f"no finding is called {min(unknown)}; expected one of {', '.join(FINDINGS)}")
    places = [out] if len(report.names) == 1 else [out / Path(name).name for name in report.names]
    for path in places:
        if len(set(places)) < len(places) or any(path.resolve() == Path(name).resolve() for name in report.names):
            raise ManifestError(f"{path}: would overwrite a manifest that was checked, or another; name another place")
    by_row: dict[tuple[int, str], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        if finding.severity == "error" or finding.name in remove:
            by_row[finding.manifest, finding.id].append(finding)
    roots = [manifest.root for manifest in report.manifests]
    parts = [[checked for checked in report.rows if checked.manifest == i] for i in range(len(places))]
    return [_write(path, root, part, by_row) for path, root, part in zip(places, roots, parts, strict=True)]


def describe_repaired(written: Repaired) -> str:
    """Describe how many rows were kept, removed and corrected, and where they are listed."""
    counts = f"{written.kept} utterances kept, {written.removed} removed, {written.corrected} corrected"
    return f"{written.path}: {counts}; why: {written.changes}"


def _write(path: Path, root: Path, rows: list[Checked], by_row: dict[tuple[int, str], list[Finding]]) -> Repaired:
    kept: list[Utterance] = []
    lines, removed, corrected = ["\t".join(_COLUMNS)], 0, 0
    for checked in rows:
        found = by_row.get(checked.key, [])
        can_correct = all(finding.name == "header" for finding in found) and _fits(checked)
        if can_correct:
            kept.append(_corrected(checked) if found else checked.row)
        removed += not can_correct
        corrected += can_correct and bool(found)
        lines += _lines(checked, "corrected" if can_correct else "removed", found)
    if not kept:
        raise ManifestError(f"{path}: no row would be left; look at the findings before removing anything")
    changes = path.with_suffix(".removed.tsv")
    write_manifest(path, kept, root=root_from(path.parent, Manifest(root=root, utterances=kept)))
    write_atomically(changes, "\n".join(lines) + "\n")
    return Repaired(path=path, root=root, changes=changes, kept=len(kept), removed=removed, corrected=corrected)


def _fits(checked: Checked) -> bool:
    """Return whether the row's part of its file is still valid: same rate, and not shifted by another ffmpeg."""
    header, row = checked.measured.header if checked.measured else None, checked.row
    if row.file_samples is None or header is None:
        return True
    is_moved = header.decoder is not None and header.num_samples != row.file_samples
    return header.sample_rate == row.sample_rate and not is_moved


def _corrected(checked: Checked) -> Utterance:
    assert checked.measured is not None and checked.measured.header is not None  # otherwise there is another error
    header, row = checked.measured.header, checked.row
    if row.channel is not None and row.channel >= header.channels:
        row = dataclasses.replace(row, channel=None)
    if row.file_samples is not None:
        return dataclasses.replace(row, file_samples=header.num_samples, channels=header.channels)
    return dataclasses.replace(
        row,
        num_samples=header.num_samples,
        sample_rate=header.sample_rate,
        channels=header.channels,
        decoder=header.decoder,
    )


def _lines(checked: Checked, change: str, found: list[Finding]) -> Iterator[str]:
    for finding in found:
        cells = (checked.row.id, checked.row.path, change, finding.name, finding.message)
        yield cells_as_line(cells)
