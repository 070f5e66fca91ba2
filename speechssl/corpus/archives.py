"""Lists tar and zip archives: offset and size of the members stored without compression. Unpacks nothing.

Python's tarfile and zipfile read the tables of contents (the Python packages of libarchive give no offsets). Faults
that they ignore are detected here: bytes after the end, a damaged header, overlapping members.
"""

import io
import posixpath
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

__all__ = ["ARCHIVE_SUFFIXES", "COMPRESSED_SUFFIXES", "Member", "members"]

ARCHIVE_SUFFIXES = (".tar", ".zip")
COMPRESSED_SUFFIXES = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4"),
    *(".7z", ".rar"),
)

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_LOCAL = struct.Struct("<4s4xH16xHH")  # local header of a zip: signature, method, lengths of name and extra field
_MAX_HEADER = 2**20  # most bytes of an extended header of a tar; a path takes some hundred
_MAX_TARGET = 4096  # most bytes of the target of a link
_BLOCK = 512  # bytes in a block of a tar


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive, or a fault of the archive."""

    name: str  # path in the archive, without leading ./; "" for a fault of the archive as a whole
    offset: int = 0  # offset of its first byte in the archive
    size: int = 0  # bytes
    problem: str | None = None  # why it cannot be read in place, and what to do
    target: str | None = None  # target of a link, as written


def members(file: BinaryIO) -> Iterator[Member]:
    """List an archive; folders are left out, links to files in it are resolved.

    Args:
        file: a tar or zip, seekable; its position may be changed between two members.

    Yields:
        Every file; other members and faults come as a `Member` with a problem. A file without a problem lies within
        the archive. Links come last.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(6)
    file.seek(0)
    packed = [kind for magic, kind in _MAGIC.items() if start.startswith(magic)]
    if packed:
        yield Member("", problem=f"is compressed with {packed[0]}, so it cannot be read in place; decompress it")
        return
    found = _zip_members(file) if start.startswith(b"PK") else _tar_members(file, size)
    files: dict[str, Member] = {}
    links = []
    while True:
        try:
            member = next(found, None)
        except Exception as error:  # damage makes the libraries raise errors of any kind
            said = str(error) or type(error).__name__
            yield Member("", problem=f"is damaged or truncated ({said}); copy it again")
            break
        if member is None:
            break
        member = _checked(member, size)
        if member.target is not None:
            links.append(member)
            continue
        if member.problem is None:
            files[member.name] = member
        yield member
    for link in links:
        target = files.get(link.target or "") if link.problem is None else None
        problem = link.problem or f"a link to {link.target!r}, which is no file of the archive; pack the file itself"
        yield replace(target, name=link.name) if target else replace(link, problem=problem)


def _checked(member: Member, size: int) -> Member:
    """Return the member with a clean name, and with a problem if its name or position is unsafe."""
    name = "/".join(part for part in member.name.split("/") if part not in ("", "."))
    problem = member.problem
    if member.name.startswith("/") or ".." in name.split("/"):
        problem = "a path that leads out of the archive; pack it again with paths relative to a folder"
    elif any(control in name for control in "\t\n\r\0"):
        problem = "a tab or line break in its path; rename it"
    elif not name.isascii() and any("\ud800" <= sign <= "\udfff" for sign in name):
        problem = "a path that is not UTF-8; rename it"
    elif problem is None and member.target is None and not 0 <= member.offset <= member.offset + member.size <= size:
        problem = f"ends at byte {member.offset + member.size} of {size}; the archive was truncated: copy it again"
    return replace(member, name=name, problem=problem)


def _tar_members(file: BinaryIO, size: int) -> Iterator[Member]:
    end = -1
    with tarfile.TarFile(fileobj=_Guarded(file), encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[arg-type]
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps every member
            if tar.offset <= end:
                raise tarfile.ReadError(f"a member of negative size at byte {end}")
            end = tar.offset
            if info.issparse():
                problem = "stored with its holes left out (sparse); pack it again without --sparse"
                yield Member(info.name, problem=problem)
            elif info.isreg():
                yield Member(info.name, info.offset_data, info.size)
            elif info.issym():
                yield Member(info.name, target=_join(posixpath.dirname(info.name), info.linkname))
            elif info.islnk():
                yield Member(info.name, target=_join("", info.linkname))
            elif not info.isdir():
                yield Member(info.name, problem=f"not a file, but tar's type {info.type!r}; pack the file itself")
        yield from _tar_end(file, tar.offset, size)


def _tar_end(file: BinaryIO, offset: int, size: int) -> Iterator[Member]:
    """Yield a problem unless only the end mark, blocks of zeros, follows the last member.

    tarfile stops silently at anything that is not a header.
    """
    file.seek(offset)
    first = file.read(_BLOCK)
    if any(first):
        yield Member("", problem=f"is damaged at byte {offset}, and what follows cannot be listed; copy it again")
    elif len(first) < _BLOCK:
        yield Member("", problem=f"ends at byte {size} without an end mark, so it may be truncated; copy it again")
    elif size % _BLOCK:
        yield Member("", problem=f"has {size} bytes, no multiple of {_BLOCK}: some were lost or added; copy it again")
    while chunk := file.read(2**20):
        if any(first) or not any(chunk):
            continue
        behind = file.tell() - len(chunk.lstrip(b"\0"))
        problem = f"has other bytes after its end, from byte {behind} on; if archives were concatenated, separate them"
        yield Member("", problem=problem)
        return


def _zip_members(file: BinaryIO) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        table = archive.start_dir
    end = 0
    for info in infos:
        yield from _unlisted(file, end, info.header_offset)
        file.seek(info.header_offset)
        local = file.read(_LOCAL.size)
        if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
            yield Member(info.filename, problem="not where the archive's table says; the archive is damaged: copy it")
            continue
        _, method, *lengths = _LOCAL.unpack(local)
        offset = info.header_offset + _LOCAL.size + sum(lengths)  # the lengths in the central directory may differ
        overlaps, end = info.header_offset < end, max(end, offset + info.compress_size)
        if info.is_dir():
            continue
        if overlaps:
            yield Member(info.filename, problem="overlaps the previous member; no tool does this: get it elsewhere")
        elif info.flag_bits & 1:
            yield Member(info.filename, problem="encrypted; unpack it")
        elif info.compress_type or method or info.compress_size != info.file_size:
            yield Member(info.filename, problem="compressed, so it cannot be read in place; pack with `zip -0`")
        elif stat.S_ISLNK(info.external_attr >> 16):
            file.seek(offset)
            written = file.read(min(info.file_size, _MAX_TARGET)).decode("utf-8", "surrogateescape")
            yield Member(info.filename, target=_join(posixpath.dirname(info.filename), written))
        else:
            yield Member(info.filename, offset, info.file_size)
    yield from _unlisted(file, end, table)


def _unlisted(file: BinaryIO, start: int, end: int) -> Iterator[Member]:
    """Yield a problem if a member lies between two that the table lists: zipfile trusts a damaged table."""
    if end - start < _LOCAL.size:
        return
    file.seek(start)
    at = file.read(min(end - start, _LOCAL.size + 24)).find(b"PK\x03\x04")  # after a data descriptor, if there is one
    if at >= 0:
        yield Member("", problem=f"has a member at byte {start + at} that its table does not list; copy it again")


def _join(folder: str, link: str) -> str:
    """Return the path of a link's target in the archive; it matches no member if it leads out."""
    path = posixpath.normpath(posixpath.join(folder, link))
    return path.removeprefix("./")


class _Guarded:
    """A file that refuses large reads, which only a false header requests: tarfile trusts headers."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes at byte {self.tell()}")
        return self.file.read(size)
