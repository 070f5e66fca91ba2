"""Who speaks, from where a recording lies: its folder's name, or what a pattern finds in its path."""

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ConfigError, ManifestError

__all__ = ["FOLDER", "speakers_from"]

FOLDER = "folder"


def speakers_from(rule: str, names: Sequence[str], root: Path) -> list[str]:
    """Return the speaker of each recording.

    Args:
        rule: `folder` for the name of the folder that a recording lies in, or a regular expression, searched in its
            path, of which the group `speaker`, or else the first, is the speaker.
        names: paths below `root`, with forward slashes and suffix; in an archive, the member's behind the archive's.
        root: folder that holds all; it is the speaker's where every recording lies in it and none below.

    Raises:
        ConfigError: no regular expression, or one without a group.
        ManifestError: recordings in whose path nothing is found.

    Examples:
        >>> speakers_from("folder", ["anna/1.wav", "hall/bert/1.wav"], Path("speech"))
        ['anna', 'bert']
        >>> speakers_from(r"(\\w+)_\\d+[.]wav$", ["x/anna_1.wav"], Path("speech"))
        ['anna']
    """
    found = _of_folders(names, root) if rule == FOLDER else _of_pattern(rule, names)
    missing = [name for name, speaker in zip(names, found, strict=True) if not speaker]
    if missing:
        what = f"lie in {root} itself, in no speaker's folder" if rule == FOLDER else f"have no speaker by {rule!r}"
        raise ManifestError(
            f"--speaker-from {rule}: {len(missing)} of {len(names)} recordings {what}: {', '.join(missing[:3])}; "
            "move or leave them out, or give a pattern that fits all, as '^([^/]+)/' for the first folder"
        )
    return [speaker for speaker in found if speaker]


def _of_folders(names: Sequence[str], root: Path) -> list[str | None]:
    folders = [posixpath.basename(posixpath.dirname(name)) for name in names]
    return [name or None for name in folders] if any(folders) else [root.resolve().name or None] * len(names)


def _of_pattern(rule: str, names: Sequence[str]) -> list[str | None]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ConfigError(
            f"--speaker-from {rule}: no regular expression ({error}); correct it, or say folder"
        ) from error
    if not pattern.groups:
        raise ConfigError(
            f"--speaker-from {rule}: has no group that would be the speaker; put it in parentheses, as in '(\\w+)_', "
            "or say folder"
        )
    group: str | int = "speaker" if "speaker" in pattern.groupindex else 1
    searched = [pattern.search(name) for name in names]
    return [match[group] if match else None for match in searched]
