"""Filters the utterances of a manifest by its columns, and counts those left out."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from speechssl.data.utterances import Utterance
from speechssl.errors import ManifestError

__all__ = ["Wanted", "choose", "read_ids"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Conditions on an utterance; None for no condition."""

    min_s: float | None = None
    max_s: float | None = None
    languages: Collection[str] | None = None
    speakers: Collection[str] | None = None
    splits: Collection[str] | None = None
    has_text: bool | None = None
    ids: Collection[str] | None = None
    not_ids: Collection[str] | None = None

    def why_not(self, utterance: Utterance) -> str | None:
        """Return the first condition that `utterance` fails; None if it meets all."""
        if self.min_s is not None and utterance.duration_s < self.min_s:
            return f"shorter than {self.min_s:g} s"
        if self.max_s is not None and utterance.duration_s > self.max_s:
            return f"longer than {self.max_s:g} s"
        for name, allowed in (("language", self.languages), ("speaker", self.speakers), ("split", self.splits)):
            if allowed is not None and getattr(utterance, name) not in allowed:
                return f"another {name}, or none"
        if self.has_text is not None and bool(utterance.text) != self.has_text:
            return "no text" if self.has_text else "has a text"
        if self.ids is not None and utterance.id not in self.ids:
            return "not among the ids"
        if self.not_ids is not None and utterance.id in self.not_ids:
            return "among the ids to leave out"
        return None


def choose(utterances: Iterable[Utterance], wanted: Wanted) -> tuple[list[Utterance], Counter[str]]:
    """Return the utterances that are wanted, in order, and the number left out by reason.

    Raises:
        ManifestError: a requested id is missing, or nothing is left.
    """
    rows = list(utterances)
    absent = sorted(set(wanted.ids or ()) - {row.id for row in rows})
    if absent:
        raise ManifestError(
            f"{len(absent)} of the ids asked for are not in the manifest: {', '.join(absent[:3])}; "
            "take them from its first column"
        )
    reasons = [wanted.why_not(row) for row in rows]
    kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    left_out = Counter(reason for reason in reasons if reason is not None)
    if not kept:
        found = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ManifestError(f"no utterance is left of {len(rows)}: {found}; relax the conditions")
    return kept, left_out


def read_ids(path: Path) -> frozenset[str]:
    """Read ids: one per line, or the column `id` of a tab-separated table such as a manifest.

    Raises:
        ManifestError: the file cannot be read, is empty, or an id is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); name a UTF-8 file with an id a line") from error
    header = lines[0].split("\t")
    if "id" in header:
        cells = [line.split("\t") for line in lines[1:]]
        column = header.index("id")
        ids = [row[column] if len(row) > column else "" for row in cells]
    else:
        ids = lines
    if not ids or not all(ids) or any("\t" in key for key in ids):
        raise ManifestError(f"{path}: expected an id a line, or a table with a column `id`, and no empty ones")
    return frozenset(ids)
