"""Join manifests into one, under the folder that all their audio shares."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from speechssl.data.manifest import Manifest
from speechssl.errors import ManifestError

__all__ = ["merge"]


def merge(manifests: Sequence[Manifest], *, prefixes: Sequence[str] = (), root: Path | None = None) -> Manifest:
    """Join manifests in their order.

    Args:
        manifests: one or more.
        prefixes: put before the ids, one for each manifest; empty to keep the ids.
        root: folder that the paths of the result are relative to; None for the deepest one that holds all roots.

    Raises:
        ManifestError: not as many prefixes as manifests, an id or a file that occurs twice, audio outside of `root`.
    """
    if prefixes and len(prefixes) != len(manifests):
        raise ManifestError(f"expected a prefix for each of {len(manifests)} manifests, found {len(prefixes)}")
    folders = [manifest.root.resolve() for manifest in manifests]
    base = root.resolve() if root is not None else Path(os.path.commonpath(folders))
    utterances = []
    for manifest, folder, prefix in zip(manifests, folders, prefixes or [""] * len(manifests), strict=True):
        for utterance in manifest.utterances:
            path = Path(os.path.normpath(folder / utterance.path))
            if not path.is_relative_to(base):
                raise ManifestError(f"{path}: lies outside of {base}; name a folder that holds all audio with --root")
            relative = path.relative_to(base).as_posix()
            utterances.append(dataclasses.replace(utterance, id=f"{prefix}{utterance.id}", path=relative))
    for name, values in (
        ("id", [utterance.id for utterance in utterances]),
        ("file", [utterance.path for utterance in utterances]),
    ):
        repeated = _repeated(values)
        if repeated:
            raise ManifestError(
                f"{len(repeated)} occur twice as {name}: {', '.join(repeated[:3])}; "
                + ("tell the ids apart with --prefix" if name == "id" else "merge manifests of different audio")
            )
    return Manifest(root=base, utterances=tuple(utterances))


def _repeated(values: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for value in values:
        if value in seen:
            repeated[value] = None
        seen.add(value)
    return list(repeated)
