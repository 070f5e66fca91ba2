"""Files and folders that are there whole or not at all: written beside their place, then renamed into it.

Where a process is killed while it writes, the old file is as it was, and `.NAME.NUMBER.tmp` is left behind.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Draft", "atomic", "write_atomically"]

_LONGEST = 50  # signs of the name that a temporary name begins with: 255 bytes hold them, each of four


class Draft:
    """A file or folder under a temporary name, which no other process or thread uses, until it is whole."""

    def __init__(self, path: Path) -> None:
        """Choose a name beside `path`, in the same file system; the folder is made, nothing is written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.temporary = path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(4)}.tmp")

    def publish(self) -> None:
        """Give it its name: a file takes the place of the one that is there, a folder that of an empty one alone."""
        self.temporary.replace(self.path)

    def drop(self) -> None:
        """Remove it, if it is there and has no name yet."""
        if self.temporary.is_dir() and not self.temporary.is_symlink():
            shutil.rmtree(self.temporary, ignore_errors=True)
        else:
            self.temporary.unlink(missing_ok=True)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path, to be written to as a file or made a folder, that is renamed to `path` in the end.

    After an error what was written is removed, and `path` is as it was. An `OSError` that names no file, as of a full
    disk, or names the temporary one, names `path`.
    """
    draft = Draft(path)
    try:
        yield draft.temporary
        draft.publish()
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(draft.temporary)):
            error.filename = str(path)
        raise
    finally:
        draft.drop()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, of text in UTF-8, so that a reader finds the old one or the new one, never half of it."""
    with atomic(path) as temporary:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            temporary.write_text(content, encoding="utf-8")
