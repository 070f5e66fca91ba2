"""Merges manifests into one, with paths relative to a common folder."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from speechssl.audio.storage import is_url
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError

__all__ = ["merge"]


def merge(manifests: Sequence[Manifest], *, prefixes: Sequence[str] = (), root: Path | None = None) -> Manifest:
    """Merge manifests in order.

    Args:
        manifests: one or more.
        prefixes: prefixes of the ids, one per manifest; empty to keep the ids.
        root: root of the result; None for the deepest folder that holds all roots.

    Raises:
        ManifestError: the number of prefixes is wrong, an id, file or part occurs twice, two manifests overlap in their
            audio, or audio lies outside of `root`.
    """
    if prefixes and len(prefixes) != len(manifests):
        raise ManifestError(f"expected a prefix for each of {len(manifests)} manifests, found {len(prefixes)}")
    folders = [manifest.root.resolve() for manifest in manifests]
    base = root.resolve() if root is not None else Path(os.path.commonpath(folders))
    utterances = []
    for manifest, folder, prefix in zip(manifests, folders, prefixes or [""] * len(manifests), strict=True):
        for utterance in manifest.utterances:
            if is_url(utterance.path):
                utterances.append(dataclasses.replace(utterance, id=f"{prefix}{utterance.id}"))
                continue
            path = Path(os.path.normpath(folder / utterance.path))
            if not path.is_relative_to(base):
                raise ManifestError(f"{path}: lies outside of {base}; name a folder that holds all audio with --root")
            relative = path.relative_to(base).as_posix()
            utterances.append(dataclasses.replace(utterance, id=f"{prefix}{utterance.id}", path=relative))
    for name, values in (
        ("id", [utterance.id for utterance in utterances]),
        ("file", [_part_of_file(utterance) for utterance in utterances]),
    ):
        repeated = _repeated(values)
        if repeated:
            raise ManifestError(
                f"{len(repeated)} occur twice as {name}: {', '.join(repeated[:3])}; "
                + ("tell the ids apart with --prefix" if name == "id" else "merge manifests of different audio")
            )
    _refuse_overlaps(utterances, [index for index, each in enumerate(manifests) for _ in each.utterances])
    return Manifest(root=base, utterances=tuple(utterances))


def _part_of_file(utterance: Utterance) -> str:
    name = utterance.path if utterance.channel is None else f"{utterance.path} (channel {utterance.channel})"
    if utterance.file_samples is None:
        return name
    return f"{name} (samples {utterance.start} to {utterance.start + utterance.num_samples})"


def _refuse_overlaps(utterances: Sequence[Utterance], manifest_of: Sequence[int]) -> None:
    """Raise if two manifests list the same samples. Within a manifest it is allowed: speakers may overlap."""
    of_file: dict[str, list[tuple[Utterance, int]]] = {}
    shared = {utterance.path for utterance in utterances if utterance.segment is not None}
    for row, index in zip(utterances, manifest_of, strict=True):
        if row.path in shared:
            of_file.setdefault(row.path, []).append((row, index))
    for path, parts in of_file.items():
        reached: dict[tuple[int, int | None], tuple[int, str]] = {}  # manifest, channel -> latest end, and its id
        for row, index in sorted(parts, key=lambda part: (part[0].start, part[0].num_samples, part[1], part[0].id)):
            start, end, key = row.start, row.start + row.num_samples, row.id
            others = [
                other
                for (number, channel), (until, other) in reached.items()
                if number != index and until > start and (None in (channel, row.channel) or channel == row.channel)
            ]
            if others:
                raise ManifestError(
                    f"{path}: {key} of one manifest and {others[0]} of another hold the same samples; merge manifests "
                    "of different audio"
                )
            place = (index, row.channel)
            reached[place] = max(reached.get(place, (0, "")), (end, key))


def _repeated(values: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for value in values:
        if value in seen:
            repeated[value] = None
        seen.add(value)
    return list(repeated)
