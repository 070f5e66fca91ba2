"""What a published folder lists: utterances, labels, trials and alignments, and what was left out and why."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from speechssl.corpus.entries import Entry, Progress, as_manifest
from speechssl.data.utterances import Manifest
from speechssl.errors import CorpusError

__all__ = ["Account", "Listed", "Listing", "Trial", "child_with", "manifest_of"]

_NAMED = 3  # names given of those left out


class Trial(NamedTuple):
    """A question of speaker verification: do two utterances have one speaker?"""

    is_same: bool
    enrolled: str  # id
    tested: str  # id


class Account:
    """Collects what was left out, or is missing of an utterance, by reason."""

    def __init__(self) -> None:
        """Start empty."""
        self._names: dict[str, list[str]] = {}

    def add(self, why: str, names: Iterable[str]) -> None:
        """Add names under a reason; none is no entry."""
        for name in names:
            self._names.setdefault(why, []).append(name)

    def notes(self) -> list[str]:
        """Return one line a reason: `2 left out, no audio: a, b`."""
        return [
            f"{len(names)} {why}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
            for why, names in self._names.items()
        ]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A published folder, before the headers are read."""

    root: Path  # folder that the paths are relative to
    entries: Sequence[Entry]  # each with an id
    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # id -> column -> label, "" for none
    trials: Mapping[str, Sequence[Trial]] = field(default_factory=dict)  # name of the published list -> its trials
    alignments: Mapping[str, str] = field(default_factory=dict)  # id -> `end:phone ...`, ends in seconds
    notes: Sequence[str] = ()  # what was left out, and what else has to be known


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A published folder as a manifest, with all that is no column of one; as in `Listing`."""

    manifest: Manifest
    answers: Mapping[str, Mapping[str, str]]
    trials: Mapping[str, Sequence[Trial]]
    alignments: Mapping[str, str]
    notes: Sequence[str]


def child_with(source: Path, names: Sequence[str], *, layout: str) -> Path:
    """Return the folder that holds all of `names`: the source, a child of it, or a child's child.

    Args:
        source: the user's folder.
        names: files or folders that the layout has.
        layout: what the layout holds, for the message.

    Raises:
        CorpusError: the source is no folder, none of these holds them, or several do.
    """
    if not source.is_dir():
        raise CorpusError(f"{source}: no such folder; name the one that holds {layout}")
    for depth in ("", "*/", "*/*/"):
        places = [source] if not depth else sorted(path for path in source.glob(depth) if path.is_dir())
        found = [place for place in places if all((place / name).exists() for name in names)]
        if len(found) > 1:
            raise CorpusError(f"{source}: {' and '.join(path.name for path in found[:3])} hold {layout}; name one")
        if found:
            return found[0]
    missing = [name for name in names if not (source / name).exists()]
    raise CorpusError(f"{source}: expected {layout}, found no {' and no '.join(missing)}; name the folder that has it")


def manifest_of(listing: Listing, *, progress: Progress) -> Manifest:
    """Read all headers; paths may be reached by links that leave the root, which is then the folder that holds all.

    Raises:
        ManifestError: there are no entries, or two have one id.
        AudioError: a file cannot be read.
    """
    root = os.path.realpath(listing.root)
    real = {each.path: os.path.realpath(listing.root / each.path) for each in listing.entries}
    if all(path.startswith(root + os.sep) for path in real.values()):
        return as_manifest(listing.entries, listing.root, progress=progress)
    shared = os.path.commonpath([*real.values(), root])
    moved = [replace(each, path=os.path.relpath(real[each.path], shared)) for each in listing.entries]
    return as_manifest(moved, Path(shared), progress=progress)
