"""Locates the bytes of an audio file: a local file, a member of an uncompressed archive, or a URL.

A member of an archive is written `shards/x.tar:OFFSET:SIZE`, in bytes, as in fairseq and fairseq2, so that a reader
needs neither the index nor the format of the archive. fsspec opens URLs, with any of its file systems.
"""

import io
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from speechssl.errors import AudioError

__all__ = ["Place", "is_url"]

_MEMBER = re.compile(r"(?P<path>.+\.(?:tar|zip)):(?P<offset>\d{1,18}):(?P<size>\d{1,18})", re.IGNORECASE | re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_FETCHED_WHOLE = 2**24  # bytes; a longer file at a URL is read in parts


@dataclass(frozen=True)
class Place:
    """A file, or a range of bytes in it."""

    path: str  # path or URL
    offset: int = 0
    size: int | None = None  # bytes; None: the whole file

    @classmethod
    def parse(cls, written: str, root: Path) -> "Place":
        """Return the place that a manifest writes as `written`.

        Args:
            written: a path or URL; for a member of an archive with `:OFFSET:SIZE` appended.
            root: folder that relative paths start from.

        Examples:
            >>> Place.parse("shards/0.tar:512:9000", Path("/data"))
            Place(path='/data/shards/0.tar', offset=512, size=9000)
            >>> Place.parse("s3://bucket/a.flac", Path("/data"))
            Place(path='s3://bucket/a.flac', offset=0, size=None)
        """
        member = _MEMBER.fullmatch(written)
        path = member["path"] if member else written
        path = path if is_url(path) else str(root / path)
        return cls(path, int(member["offset"]), int(member["size"])) if member else cls(path)

    def __str__(self) -> str:
        """Return the place as a manifest writes it."""
        return self.path if self.size is None else f"{self.path}:{self.offset}:{self.size}"

    @property
    def is_plain_file(self) -> bool:
        """Whether this is a whole local file, which libraries open by name."""
        return self.size is None and not is_url(self.path)

    def open(self) -> BinaryIO:
        """Open the bytes for reading; the result is seekable.

        Raises:
            AudioError: the file does not exist, ends before the bytes wanted, or cannot be fetched.
        """
        if is_url(self.path):
            return self._fetch()
        try:
            file = Path(self.path).open("rb")  # noqa: SIM115 - handed to the caller
            if self.size is None:
                return file
            with file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise AudioError(
                f"{self}: cannot be opened ({error.strerror}); correct the manifest or its root"
            ) from error
        return self._checked(content)

    def opened(self) -> AbstractContextManager[BinaryIO | None]:
        """Open the bytes as a context manager; it yields None for a local file, which libraries open by name."""
        return nullcontext() if self.is_plain_file else self.open()

    def _fetch(self) -> BinaryIO:
        try:
            import fsspec  # optional: the extra `remote`
        except ImportError as error:
            raise AudioError(f"{self}: a URL needs fsspec: `pip install 'speechssl[remote]'`") from error
        try:
            files, path = fsspec.url_to_fs(self.path)
            if self.size is not None:
                return self._checked(files.cat_file(path, start=self.offset, end=self.offset + self.size))
            file = files.open(path, "rb")
            if (getattr(file, "size", None) or 0) > _FETCHED_WHOLE:
                return cast(BinaryIO, file)
            with file:
                return io.BytesIO(file.read())
        except AudioError:
            raise
        except Exception as error:  # each file system raises its own errors
            said = str(error) or type(error).__name__
            raise AudioError(f"{self}: cannot be fetched ({said}); correct the URL, or try again") from error

    def _checked(self, content: bytes) -> BinaryIO:
        if len(content) != self.size:
            raise AudioError(
                f"{self}: the archive ends after {len(content)} of {self.size} bytes; copy it again, or relist it"
            )
        return io.BytesIO(content)


def is_url(written: str) -> bool:
    """Return whether a manifest's path is a URL."""
    return _URL.match(written) is not None
