"""What lies where in tar and zip archives: offset and size of the members stored as they are. Unpacks nothing.

Python's tarfile and zipfile read the tables of contents (weighed: libarchive, whose Python packages give no offsets).
What they pass over without a word is looked for here: bytes behind the end, a damaged header, members that overlap.
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
_LOCAL = struct.Struct("<4s4xH16xHH")  # of a zip's local header: signature, method, lengths of name and extra field
_MAX_HEADER = 2**20  # bytes of one extended header of a tar; a path takes some hundred
_MAX_TARGET = 4096  # bytes of the path that a link leads to
_BLOCK = 512  # bytes; a tar consists of such


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive, or something in it that is wrong."""

    name: str  # path in the archive, without ./ before it; what is wrong with the archive as a whole has the name ""
    offset: int = 0  # of its first byte in the archive
    size: int = 0  # bytes
    problem: str | None = None  # why it cannot be read where it lies, and what to do
    target: str | None = None  # of a link, as written


def members(file: BinaryIO) -> Iterator[Member]:
    """Go through an archive from beginning to end; folders are left out, links to files in it stand for these.

    Args:
        file: of a tar or a zip; can seek. Between two members its position may be changed.

    Yields:
        Every file, and whatever else is there or is wrong as a `Member` with a problem. The bytes of the others lie
        within the archive; links come last.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(6)
    file.seek(0)
    packed = [kind for magic, kind in _MAGIC.items() if start.startswith(magic)]
    if packed:
        yield Member("", problem=f"is compressed with {packed[0]}, so nothing can be read where it lies; decompress it")
        return
    found = _zip_members(file) if start.startswith(b"PK") else _tar_members(file, size)
    files: dict[str, Member] = {}
    links = []
    while True:
        try:
            member = next(found, None)
        except Exception as error:  # the libraries raise whatever damage leads them to
            said = str(error) or type(error).__name__
            yield Member("", problem=f"is damaged or cut ({said}); copy it again")
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
    """Return the member with a clean name, and with a problem if its name or place is not to be trusted."""
    name = "/".join(part for part in member.name.split("/") if part not in ("", "."))
    problem = member.problem
    if member.name.startswith("/") or ".." in name.split("/"):
        problem = "a path that leads out of the archive; pack it again with paths relative to a folder"
    elif any(control in name for control in "\t\n\r\0"):
        problem = "a tab or line break in its path; rename it"
    elif not name.isascii() and any("\ud800" <= sign <= "\udfff" for sign in name):
        problem = "a path that is not UTF-8; rename it"
    elif problem is None and member.target is None and not 0 <= member.offset <= member.offset + member.size <= size:
        problem = f"declared to end at byte {member.offset + member.size} of {size}; the archive was cut: copy it again"
    return replace(member, name=name, problem=problem)


def _tar_members(file: BinaryIO, size: int) -> Iterator[Member]:
    end = -1
    with tarfile.TarFile(fileobj=_Guarded(file), encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[arg-type]
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every one
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
                yield Member(info.name, problem=f"no file, but of tar's type {info.type!r}; pack the file itself")
        yield from _tar_end(file, tar.offset, size)


def _tar_end(file: BinaryIO, offset: int, size: int) -> Iterator[Member]:
    """Yield a problem unless all that follows the last member is the mark of the end, a block of zeros, and more such.

    tarfile stops at whatever is no header.
    """
    file.seek(offset)
    first = file.read(_BLOCK)
    if any(first):
        yield Member("", problem=f"is damaged at byte {offset}, and what follows cannot be listed; copy it again")
    elif len(first) < _BLOCK:
        yield Member("", problem=f"ends at byte {size} without the mark of its end, so it may be cut; copy it again")
    elif size % _BLOCK:
        yield Member("", problem=f"has {size} bytes, no multiple of {_BLOCK}: some were lost or added; copy it again")
    while chunk := file.read(2**20):
        if any(first) or not any(chunk):
            continue
        behind = file.tell() - len(chunk.lstrip(b"\0"))
        problem = (
            f"has other bytes behind its end, from byte {behind} on; was one archive put behind another? Part them"
        )
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
        offset = info.header_offset + _LOCAL.size + sum(lengths)  # the lengths in the table may be others
        overlaps, end = info.header_offset < end, max(end, offset + info.compress_size)
        if info.is_dir():
            continue
        if overlaps:
            yield Member(info.filename, problem="overlaps the member before it; no tool packs so: get it elsewhere")
        elif info.flag_bits & 1:
            yield Member(info.filename, problem="encrypted; unpack it")
        elif info.compress_type or method or info.compress_size != info.file_size:
            yield Member(info.filename, problem="compressed, so it cannot be read where it lies; pack with `zip -0`")
        elif stat.S_ISLNK(info.external_attr >> 16):
            file.seek(offset)
            written = file.read(min(info.file_size, _MAX_TARGET)).decode("utf-8", "surrogateescape")
            yield Member(info.filename, target=_join(posixpath.dirname(info.filename), written))
        else:
            yield Member(info.filename, offset, info.file_size)
    yield from _unlisted(file, end, table)


def _unlisted(file: BinaryIO, start: int, end: int) -> Iterator[Member]:
    """Yield a problem if a member begins between two that the table lists: zipfile believes a damaged table."""
    if end - start < _LOCAL.size:
        return
    file.seek(start)
    at = file.read(min(end - start, _LOCAL.size + 24)).find(b"PK\x03\x04")  # behind the sizes that may follow the data
    if at >= 0:
        yield Member("", problem=f"has a member at byte {start + at} that its table does not list; copy it again")


def _join(folder: str, link: str) -> str:
    """Return the path in the archive that a link leads to, or one that is no member's if it leads out."""
    path = posixpath.normpath(posixpath.join(folder, link))
    return path.removeprefix("./")


class _Guarded:
    """A file that refuses to read so much at once as only a false header asks for: tarfile believes all of them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes at byte {self.tell()}")
        return self.file.read(size)
