"""The commit of the running source code, if it is a checkout of this project."""

import subprocess
from pathlib import Path

__all__ = ["source_commit"]


def source_commit() -> str | None:
    """Return the commit of the sources, with a + if they were changed; None for an installed wheel.

    A wheel may be installed inside another project's checkout; so git has to list this file.
    """
    here = Path(__file__)
    try:
        _git(here, "ls-files", "--error-unmatch", here.name)
        return _git(here, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(beside: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=beside.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()
