"""Splits a corpus into train, dev and test by a stable rule, or by the committed lists of its result.

By the rule, utterances of equal normalised text stay together. Texts are sorted by their BLAKE2b hash and assigned to
the splits in order, until each split has its minutes. The result does not depend on file order, machine or seed.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl import fingerprint
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import CorpusError

__all__ = ["SplitRule", "listed_splits", "lists_digest", "published_splits", "ruled_splits", "write_lists"]

_HELD_OUT = ("dev", "test")


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Labelled minutes of each split, in the order of filling; the pool is everything but dev and test."""

    minutes: tuple[tuple[str, float], ...]  # (split, minutes); math.inf for the rest
    language: str | None = None  # only utterances of this language are assigned; None for all


def ruled_splits(utterances: Sequence[Utterance], rule: SplitRule | None) -> dict[str, list[Utterance]]:
    """Split by the rule; without one, everything is in the pool.

    Returns:
        `pool` and the splits of the rule, each in the order of `utterances`, with the split column set. An
        utterance of train is also in the pool; those of dev and test are not.
    """
    split_of: dict[str, str] = {}
    if rule is not None:
        wanted = [u for u in utterances if u.text and rule.language in (None, u.language)]
        split_of = _deal_out(wanted, rule.minutes)
    names = [split for split, _ in rule.minutes] if rule else []
    splits = {name: [u for u in utterances if split_of.get(u.id) == name] for name in names}
    splits["pool"] = [u for u in utterances if split_of.get(u.id) not in _HELD_OUT]
    return {name: [dataclasses.replace(u, split=name) for u in rows] for name, rows in splits.items()}


def published_splits(
    utterances: Iterable[Utterance], members: Mapping[str, Sequence[str]]
) -> dict[str, list[Utterance]]:
    """Split as published, given the ids of each split; an id may be in several."""
    found = {u.id: u for u in utterances}
    return {split: [dataclasses.replace(found[key], split=split) for key in ids] for split, ids in members.items()}


def listed_splits(utterances: Iterable[Utterance], folder: Path) -> dict[str, list[Utterance]]:
    """Split by the lists in `folder`, one `<split>.tsv` each.

    Raises:
        CorpusError: there are no lists, or a listed utterance is missing or has another number of samples.
    """
    found = {u.id: u for u in utterances}
    splits = {}
    for path in _lists(folder):
        listed = read_manifest(path).utterances
        different = [u for u in listed if _samples(found.get(u.id)) != u.num_samples]
        if different:
            named = ", ".join(f"{u.id} ({_contrast(u, found.get(u.id))})" for u in different[:3])
            raise CorpusError(
                f"{path}: {len(different)} of {len(listed)} listed utterances are not in the prepared corpus: {named}; "
                "prepare the package version the lists were made from, or leave out --splits to split again"
            )
        splits[path.stem] = [dataclasses.replace(found[u.id], split=path.stem) for u in listed]
    return splits


def write_lists(manifests: Mapping[str, Path], folder: Path) -> None:
    """Write the split lists of a prepared corpus for publication, without texts and speakers.

    Args:
        manifests: split -> manifest, from `prepare_corpus`.
        folder: folder of the lists, one `<split>.tsv` each.
    """
    for split, path in manifests.items():
        rows = read_manifest(path).utterances
        bare = [dataclasses.replace(u, text=None, speaker=None, language=None, split=None) for u in rows]
        write_manifest(folder / f"{split}.tsv", bare)


def lists_digest(folder: Path) -> str:
    """Hash the names and contents of the lists in `folder`, to detect changes.

    Raises:
        CorpusError: there are no lists.
    """
    parts = (path.name.encode() + b"\0" + path.read_bytes() + b"\0" for path in _lists(folder))
    return fingerprint.of_parts(parts, fingerprint.LONG)


def _deal_out(utterances: Sequence[Utterance], minutes: Sequence[tuple[str, float]]) -> dict[str, str]:
    by_text: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        by_text.setdefault(utterance.text or "", []).append(utterance)
    split_of: dict[str, str] = {}
    remaining = iter(sorted(by_text, key=_order))
    for split, wanted in minutes:
        filled_s = 0.0
        while filled_s < wanted * 60 and (text := next(remaining, None)) is not None:
            split_of |= {u.id: split for u in by_text[text]}
            filled_s += math.fsum(u.duration_s for u in by_text[text])
    return split_of


def _order(text: str) -> str:
    return fingerprint.of_parts([text.encode()], fingerprint.LONG)


def _lists(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.tsv"))
    if not paths:
        raise CorpusError(f"{folder}: no split lists, expected files such as train.tsv; name a folder of manifests/")
    return paths


def _samples(utterance: Utterance | None) -> int | None:
    return utterance.num_samples if utterance else None


def _contrast(listed: Utterance, found: Utterance | None) -> str:
    return f"{found.num_samples} samples, listed {listed.num_samples}" if found else "missing"
