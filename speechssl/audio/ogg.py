"""Rewrites Ogg files (Vorbis, Opus, flac) that libsndfile reads only in part, or not at all, as files that it reads.

libsndfile reads only the first of several chained streams (as recorders, web radio and `cat` write them), fails at the
end of Opus without an end-of-stream flag, and does not read flac in Ogg. Here pages (RFC 3533) are sorted into streams,
the last page is flagged, and flac is taken out of its packets (RFC 9639, section 10.1). Nothing is decoded. mutagen
reads only the tags and the length of the first stream.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import BinaryIO
from zlib import crc32

__all__ = ["Ogg", "is_plain", "read_ogg"]

_PAGE = Struct("<4sBBqIIIB")  # capture, version, flags, granule, serial, number, sum, segments
_START, _CONTINUED, _FIRST, _LAST = b"OggS\0", 1, 2, 4  # flags
_BEGINNING = 4096  # bytes that hold the first page
_TAIL = 2**17  # bytes that hold the last page and anything after it
_FLAC, _KINDS = b"\x7fFLAC", (b"\x01vorbis", b"OpusHead")  # beginnings of the first packet
_FLAC_HEAD = 9  # bytes before the flac stream
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class _Page:
    """The header of a page."""

    at: int  # offset in bytes
    flags: int
    serial: int
    sizes: bytes  # sizes of its segments

    @property
    def body(self) -> int:
        return self.at + _PAGE.size + len(self.sizes)

    @property
    def end(self) -> int:
        return self.body + sum(self.sizes)


@dataclass
class _Stream:
    """Pages of one serial number, from a beginning-of-stream page on."""

    kind: bytes  # beginning of its first packet
    pages: list[_Page] = field(default_factory=list)


@dataclass(frozen=True)
class Ogg:
    """The audio streams in a file, in order."""

    data: bytes
    found: tuple[_Stream, ...]

    def streams(self) -> list[bytes]:
        """Return each stream as a file that libsndfile reads to its end."""
        return [self._flac(each) if each.kind.startswith(_FLAC) else self._ogg(each) for each in self.found]

    def _ogg(self, stream: _Stream) -> bytes:
        pages = [self.data[page.at : page.end] for page in stream.pages]
        pages[-1] = _marked_last(pages[-1])
        return b"".join(pages)

    def _flac(self, stream: _Stream) -> bytes:
        """Return the packets, which form a plain flac file."""
        return b"".join(self.data[page.body : page.end] for page in stream.pages)[_FLAC_HEAD:]


def is_plain(file: BinaryIO, *, whole: bool) -> bool:
    """Return whether a file is one complete stream of Vorbis or Opus, or is not Ogg.

    Args:
        file: at any position; it is left at its beginning.
        whole: search the whole file for further streams; otherwise one with the serial number of the first, as in the
            same file twice, is not found.
    """
    file.seek(0)
    start = file.read(_BEGINNING)
    first = _page_at(start, 0)
    if first is None or not first.flags & _FIRST:
        return True
    size = file.seek(0, io.SEEK_END)
    file.seek(0 if whole else max(0, size - _TAIL))
    data = file.read()
    file.seek(0)
    at = data.rfind(_START)
    while (last := _page_at(data, at)) is None and at > 0:
        at = data.rfind(_START, 0, at)
    if last is None or start[first.body :].startswith(_FLAC):
        return last is None
    is_ended = last.flags & _LAST != 0 and last.serial == first.serial
    return is_ended and (not whole or _page_after(data, first.end, _FIRST) is None)


def read_ogg(data: bytes) -> Ogg | None:
    """Sort the pages of a whole file into audio streams.

    Returns:
        None if there is no Vorbis, Opus or flac, or if streams are multiplexed.
    """
    found: list[_Stream] = []
    current: dict[int, _Stream] = {}
    was_first = False
    for page in _pages(data):
        is_first = page.flags & _FIRST != 0
        if is_first and not was_first:
            current = {}
        if is_first:
            kind = data[page.body : page.body + 8]
            if kind.startswith((*_KINDS, _FLAC)):
                if current:
                    return None
                current[page.serial] = _Stream(kind)
                found.append(current[page.serial])
        if page.serial in current:
            current[page.serial].pages.append(page)
        was_first = is_first
    return Ogg(data, tuple(found)) if found else None


def _pages(data: bytes) -> Iterator[_Page]:
    """Yield the complete pages, skipping anything between them."""
    at = 0
    while (page := _page_after(data, at)) is not None:
        yield page
        at = page.end


def _page_after(data: bytes, at: int, flags: int = 0) -> _Page | None:
    """Return the first page with these flags at or after `at`."""
    while (at := data.find(_START, at)) >= 0:
        if (page := _page_at(data, at)) is not None and page.flags & flags == flags:
            return page
        at += 1
    return None


def _page_at(data: bytes, at: int) -> _Page | None:
    """Read the header of a page; None if there is none, it is truncated, or its checksum is wrong."""
    if at < 0 or at + _PAGE.size > len(data) or not data.startswith(_START, at):
        return None
    _, _, flags, _, serial, _, stated, segments = _PAGE.unpack_from(data, at)
    page = _Page(at, flags, serial, data[at + _PAGE.size : at + _PAGE.size + segments])
    is_whole = len(page.sizes) == segments and page.end <= len(data)
    return page if is_whole and _sum_of(data[at : page.end]) == stated else None


def _marked_last(page: bytes) -> bytes:
    """Return the page with the end-of-stream flag set."""
    marked = page[:5] + bytes([page[5] | _LAST]) + page[6:]
    return marked[:22] + _sum_of(marked).to_bytes(4, "little") + marked[26:]


def _sum_of(page: bytes) -> int:
    """Return the checksum of a page, computed with a checksum field of 0.

    Ogg's CRC-32 processes the bits of a byte in the opposite order to zlib's, without inversion.
    """
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    return int(f"{crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)
