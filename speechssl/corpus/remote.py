"""Lists audio and archives at URLs with fsspec, and reads headers without fetching whole files.

fsspec reads s3, gs, hf, http and twenty more (smart_open cannot list, cloudpathlib stores copies of whole files).
"""

import io
import json
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from speechssl.audio.reading import AudioHeader, read_header
from speechssl.audio.storage import Place
from speechssl.errors import AudioError, ManifestError

__all__ = ["RemoteFile", "header_at_url", "list_url", "open_url", "path_in_url", "stamp_at_url"]

_BLOCK = 2**18  # bytes fetched at once: fewer cost more requests, more are never read
_KEPT_BLOCKS = 4
_TRIES = 3
_STAMPS = (
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "created",
    "etag",
    "ETag",
    "Content-MD5",
)


def list_url(url: str) -> Iterator[tuple[str, str, str | None]]:
    """List every file below a folder at a URL.

    A file comes as its URL, its path below the folder, and a stamp that changes with its content (None: request it).

    Args:
        url: the folder; over http, which has no listings, its index page is read.

    Raises:
        ManifestError: fsspec is missing, or the folder cannot be listed.
    """
    files, path = _files_at(url)
    base = path.rstrip("/") + "/"
    try:
        infos = _crawl(files, base) if _is_http(url) else files.find(path, detail=True).values()
        for info in infos:
            name = info["name"]
            if name.startswith(base):
                below = unquote(name[len(base) :].partition("?")[0]) if _is_http(url) else name[len(base) :]
                yield files.unstrip_protocol(name), below, _stamp(info)
    except Exception as error:  # each file system raises its own errors
        raise ManifestError(
            f"{url}: cannot be listed ({_said(error)}); correct the URL, or list files in a .txt"
        ) from error


def path_in_url(url: str) -> str:
    """Return the path of a URL as a file name: without the query, and with %20 decoded."""
    parts = urlsplit(url)
    path = parts.path if _is_http(url) else url.partition("://")[2]
    return unquote(path) if _is_http(url) else path


def stamp_at_url(url: str) -> str:
    """Request the stamp of a file that the listing lacks; "" if the server has none either."""
    try:
        files, path = _files_at(url)
        return _stamp(files.info(path)) or ""
    except Exception:  # reading the file will report the error
        return ""


def open_url(url: str) -> "RemoteFile":
    """Open a file at a URL; only what is read is fetched.

    Raises:
        AudioError: the file does not exist, or cannot be reached.
    """
    try:
        files, path = _files_at(url)
        size = files.info(path).get("size")
        return RemoteFile(url, files, path, size)
    except ManifestError as error:
        raise AudioError(str(error)) from error
    except Exception as error:  # each file system raises its own errors
        raise AudioError(f"{url}: cannot be opened ({_said(error)}); correct the URL, or try again") from error


def header_at_url(url: str, file: "RemoteFile", offset: int = 0, size: int | None = None) -> AudioHeader:
    """Read the header of a file at a URL, or of a member of an archive there, without fetching the rest.

    Raises:
        AudioError: the file cannot be fetched, or is not audio.
    """
    try:
        return read_header(_Lent(url, offset, size, lender=file))
    except AudioError:
        if file.error is not None:  # libsndfile only reports that reading ended
            raise file.error from None
        raise


class RemoteFile(io.RawIOBase):
    """A seekable file at a URL, fetched in blocks as they are read. Not thread-safe."""

    def __init__(self, url: str, files: Any, path: str, size: int | None) -> None:
        """Open a file.

        Args:
            url: URL, for messages.
            files: fsspec's file system.
            path: path in it.
            size: bytes; None if the server does not state it: then the file is fetched whole.
        """
        self.url, self.files, self.path = url, files, path
        self.error: AudioError | None = None
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._whole = None if size is not None else self._fetch(None, None)
        self.size = len(self._whole) if self._whole is not None else cast(int, size)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, and return the new position."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer, up to the end of the file; return the number of bytes."""
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view) and self._position < self.size:
            number, first = divmod(self._position, _BLOCK)
            part = self._block(number)[first : first + len(view) - filled]
            if not part:
                break
            view[filled : filled + len(part)] = part
            filled += len(part)
            self._position += len(part)
        return filled

    def _block(self, number: int) -> bytes:
        start, end = number * _BLOCK, min((number + 1) * _BLOCK, self.size)
        if self._whole is not None:
            return self._whole[start:end]
        if number not in self._blocks:
            found = self._fetch(start, end)
            if len(found) > end - start:  # the server ignored the range and sent the whole file
                self._whole = found
                return found[start:end]
            self._blocks[number] = found
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, start: int | None, end: int | None) -> bytes:
        for tries_left in reversed(range(_TRIES)):
            try:
                return cast(bytes, self.files.cat_file(self.path, start=start, end=end))
            except Exception as error:  # each file system raises its own errors
                if tries_left == 0 or isinstance(error, FileNotFoundError | PermissionError):
                    said = f"{self.url}: cannot be fetched ({_said(error)}); correct the URL, or try again"
                    self.error = AudioError(said)
                    raise self.error from error
                time.sleep(0.2)
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class _Lent(Place):
    """A place whose file is already open."""

    lender: RemoteFile = field(kw_only=True, compare=False)

    def open(self) -> BinaryIO:
        return cast(BinaryIO, _Window(self.lender, self.offset, self.lender.size if self.size is None else self.size))


class _Window(io.RawIOBase):
    """A range of bytes of a file, as a file. Closing it leaves the underlying file open."""

    def __init__(self, file: RemoteFile, offset: int, size: int) -> None:
        self.file, self.offset, self.size, self.position = file, offset, size, 0

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence])
        return self.position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.size - self.position)]
        self.file.seek(self.offset + self.position)
        try:
            count = self.file.readinto(view)
        except AudioError:  # stored in `file.error`, as libsndfile does not pass exceptions on
            return 0
        self.position += count
        return count


def _files_at(url: str) -> tuple[Any, str]:
    try:
        import fsspec  # optional: the extra `remote`
    except ImportError as error:
        raise ManifestError(f"{url}: a URL needs fsspec: `pip install 'speechssl[remote]'`") from error
    try:
        return cast(tuple[Any, str], fsspec.url_to_fs(url))
    except (ImportError, ValueError) as error:  # s3fs or similar is missing, or the protocol is unknown
        raise ManifestError(f"{url}: {error}; `pip install 'speechssl[remote]'`, or correct the URL") from error


def _crawl(files: Any, base: str) -> Iterator[dict[str, Any]]:
    """Follow the links of index pages to folders below, each once."""
    seen, folders = {base}, [base]
    while folders:
        entries = files.ls(folders.pop(), detail=True)
        for info in sorted(entries, key=lambda info: info["name"]):
            name = info["name"].partition("#")[0]
            is_order = "?" in name and name.partition("?")[0].endswith("/")  # the same page in another order
            if name in seen or is_order or not name.startswith(base) or "/../" in unquote(name):
                continue
            seen.add(name)
            if name.endswith("/"):
                folders.append(name)
            else:
                yield {**info, "name": name}


def _stamp(info: dict[str, Any]) -> str | None:
    found = {key: str(info[key]) for key in _STAMPS if info.get(key)}
    return json.dumps([info.get("size"), found], sort_keys=True) if found else None


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
