"""Atomic writes of files and folders: written under a temporary name beside the target, then renamed.

If a process is killed while writing, the old file is unchanged, and `.NAME.NUMBER.tmp` is left behind.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Draft", "atomic", "write_atomically"]

_LONGEST = 50  # characters of the name in a temporary name, so that it fits into 255 bytes with four bytes for each


class Draft:
    """A file or folder under a unique temporary name until it is complete."""

    def __init__(self, path: Path) -> None:
        """Choose a name beside `path`, in the same file system; creates the parent folder only."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.temporary = path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(4)}.tmp")

    def publish(self) -> None:
        """Rename it to its final name; a file replaces an existing file, a folder only an empty folder."""
        self.temporary.replace(self.path)

    def drop(self) -> None:
        """Remove it if it exists under its temporary name."""
        if self.temporary.is_dir() and not self.temporary.is_symlink():
            shutil.rmtree(self.temporary, ignore_errors=True)
        else:
            self.temporary.unlink(missing_ok=True)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a new file or folder, which is renamed to `path` at the end of the block.

    After an error the temporary file is removed, and `path` is unchanged. An `OSError` without a file name (a full
    disk) or with the temporary name gets the name of `path`.
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
    """Write a file, text in UTF-8, so that readers see the old or the new content, never a part."""
    with atomic(path) as temporary:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            temporary.write_text(content, encoding="utf-8")
