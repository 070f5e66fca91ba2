"""Compares files: finds duplicates within a manifest, and leaks of audio, texts or speakers between manifests.

Manifests are given in the order train, dev, test: a leak is reported in the earlier one, so that removing it leaves the
later one unchanged. Within a manifest the first of several copies is kept.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speechssl.corpus.check.findings import Finding
from speechssl.corpus.check.measure import Measured
from speechssl.corpus.check.sound_print import similar_pairs
from speechssl.corpus.check.text_checks import normal_text
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.utterances import Utterance

__all__ = ["Checked", "findings_across"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One row of one manifest, and the measurements of its file; None if its worker crashed."""

    manifest: int
    row: Utterance
    measured: Measured | None

    @property
    def key(self) -> tuple[int, str]:
        """Unique key of the row."""
        return self.manifest, self.row.id


def findings_across(rows: Sequence[Checked], names: Sequence[str], config: CheckConfig) -> list[Finding]:
    """Compare all rows of all manifests.

    Args:
        rows: all rows, in order.
        names: names of the manifests, for messages.
        config: what counts as a copy.

    Returns:
        At most one finding of each kind per row, which names the other row.
    """
    same = _same_audio(rows)
    found = [_pair_finding("duplicate", "leaked_audio", a, b, names, "has the same samples as") for a, b in same]
    found += _similar(rows, {a.key for a, _ in same}, names, config)
    found += [
        _pair_finding("leaked_text", "leaked_text", a, b, names, "has the same text as") for a, b in _same_text(rows)
    ]
    return [*found, *_same_speaker(rows, names)]


def _same_audio(rows: Sequence[Checked]) -> list[tuple[Checked, Checked]]:
    groups: dict[bytes, list[Checked]] = defaultdict(list)
    for checked in rows:
        if checked.measured and checked.measured.num_samples and checked.measured.peak > 0:
            groups[checked.measured.digest].append(checked)
    return [pair for group in groups.values() if len(group) > 1 for pair in _blamed(group)]


def _same_text(rows: Sequence[Checked]) -> list[tuple[Checked, Checked]]:
    groups: dict[str, list[Checked]] = defaultdict(list)
    for checked in rows:
        text = normal_text(checked.row.text or "")
        if text:
            groups[text].append(checked)
    groups_across = (group for group in groups.values() if group[0].manifest != group[-1].manifest)
    return [(a, b) for group in groups_across for a, b in _blamed(group) if a.manifest != b.manifest]


def _blamed(group: Sequence[Checked]) -> Iterator[tuple[Checked, Checked]]:
    """Pair each row that may be removed with the one to keep: the first of the last manifest in the group."""
    last = group[-1].manifest
    to_keep = next(checked for checked in group if checked.manifest == last)
    for checked in group:
        if checked is not to_keep:
            yield checked, to_keep


def _similar(
    rows: Sequence[Checked], known: set[tuple[int, str]], names: Sequence[str], config: CheckConfig
) -> Iterator[Finding]:
    """Find copies by fingerprint; `known` are the rows that have an identical copy."""
    printed = [
        (checked, checked.measured.fingerprint)
        for checked in rows
        if checked.measured and checked.measured.fingerprint and checked.key not in known
    ]
    prints = [bits for _, bits in printed]
    pairs = similar_pairs(prints, bits=config.duplicate_bits, duration=config.duplicate_duration)
    blamed: set[tuple[int, str]] = set()
    for i, j, differ in pairs:
        a, b = printed[i][0], printed[j][0]
        if a.manifest == b.manifest:
            a, b = b, a
        if a.key not in blamed:
            blamed.add(a.key)
            verb = f"sounds like a copy ({100 * differ:.0f} % of the fingerprint's bits differ) of"
            yield _pair_finding("similar", "leaked_similar", a, b, names, verb, value=differ)


def _same_speaker(rows: Sequence[Checked], names: Sequence[str]) -> Iterator[Finding]:
    by_speaker: dict[str, dict[int, list[Checked]]] = defaultdict(lambda: defaultdict(list))
    for checked in rows:
        if checked.row.speaker:
            by_speaker[checked.row.speaker][checked.manifest].append(checked)
    for speaker, parts in by_speaker.items():
        if len(parts) > 1:
            counts = ", ".join(f"{len(part)} in {names[manifest]}" for manifest, part in sorted(parts.items()))
            first = parts[min(parts)][0]
            message = f"speaker {speaker} is in several manifests: {counts}; {first.row.id} is the first"
            yield Finding(
                manifest=first.manifest, id=first.row.id, name="leaked_speaker", value=len(parts), message=message
            )


def _pair_finding(
    within: str, between: str, a: Checked, b: Checked, names: Sequence[str], verb: str, *, value: float | None = None
) -> Finding:
    """Report `a` as a copy of `b`; if their texts differ, one of them is wrong."""
    other = f"{b.row.id} of {names[b.manifest]}" if a.manifest != b.manifest else b.row.id
    texts = {normal_text(row.text) for row in (a.row, b.row) if row.text}
    message = f"{verb} {other}" + (", which has another text" if len(texts) > 1 else "")
    name = between if a.manifest != b.manifest else within
    return Finding(manifest=a.manifest, id=a.row.id, name=name, value=value, message=message)
