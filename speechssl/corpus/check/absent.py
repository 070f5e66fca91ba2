"""Reports missing audio files, and finds the folder that a manifest's paths are probably relative to."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from speechssl.audio.storage import is_url
from speechssl.corpus.check.checking import Report
from speechssl.data.utterances import Manifest, Utterance

__all__ = ["absent_rows", "describe_absent", "likely_root"]

_NAMED = 3
_SIBLINGS = 1000  # most folders searched beside each candidate


def absent_rows(report: Report) -> dict[int, list[Utterance]]:
    """Return the utterances with missing files by index of the manifest, if more than one is missing."""
    unreadable = {(finding.manifest, finding.id) for finding in report.findings if finding.name == "unreadable"}
    found: dict[int, list[Utterance]] = {}
    for checked in report.rows:
        manifest, row = report.manifests[checked.manifest], checked.row
        is_gone = checked.key in unreadable and not is_url(row.path) and not Path(manifest.place(row).path).exists()
        if is_gone:
            found.setdefault(checked.manifest, []).append(row)
    return {number: rows for number, rows in found.items() if len(rows) > 1}


def describe_absent(manifest: Manifest, name: str, rows: list[Utterance]) -> str:
    """Describe in one line how many files are missing, where they were expected, and how to fix it."""
    named = ", ".join(row.path for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
    root = likely_root(manifest, Path(name).parent, rows[0])
    if root is not None:
        cure = f"{rows[0].path} is in {root}: name it with --root {root} (in stages: data.root={root})"
    elif len(rows) == len(manifest.utterances):
        cure = "name the folder that the paths start from with --root (in stages: data.root=...)"
    else:
        cure = "the others exist: copy these again, or remove their rows with --fix"
    return f"no such file: {len(rows)} of {len(manifest.utterances)} below {manifest.root}: {named}; {cure}"


def likely_root(manifest: Manifest, folder: Path, row: Utterance) -> Path | None:
    """Return a folder near the manifest, its root or the working directory in which the file of `row` exists, or None.

    Args:
        manifest: the manifest, whose root does not hold the file.
        folder: folder of the manifest.
        row: one of its utterances, not at a URL.
    """
    for candidate in _candidates(folder, manifest.root):
        if Path(Manifest(root=candidate, utterances=()).place(row).path).is_file():
            return candidate
    return None


def _candidates(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the working directory, the manifest's folder, its root, their parents, then the folders in each."""
    near = [Path(), folder, *folder.absolute().parents[:2], root, *root.absolute().parents[:2]]
    yield from near
    for base in dict.fromkeys(near):
        try:
            with os.scandir(base) as entries:
                folders = sorted(each.path for each in islice(entries, _SIBLINGS) if each.is_dir())
        except OSError:
            continue
        yield from map(Path, folders)
