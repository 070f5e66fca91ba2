"""A fast reader for the headers of ordinary wav and flac files; for flac, eight times as fast as libsndfile.

It returns None for anything unusual, such as another format, an odd chunk, or a length that does not fit the file; then
libsndfile reads the header, and reports errors. Results equal libsndfile's (tests/audio/test_headers.py). tinytag and
mutagen round lengths to seconds, and are as slow as libsndfile. No samples are read; for flac, the header of the last
frame is read too, as a truncated file has a complete file header.
"""

import os
import re
import stat
from functools import reduce
from struct import Struct
from typing import NamedTuple

__all__ = ["Stated", "may_be_truncated", "stated_at", "stated_in"]

_START = 4096  # bytes read from a file, which nearly always hold the whole header
_MAX_CHANNELS = 1024  # libsndfile's limit
_MAX_RATE = 768_000  # Hz; libsndfile's limits differ by format
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_WIDTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64), _ALAW: (8,), _MULAW: (8,)}  # bits per sample
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # GUID of an extensible header, after the format code
_SKIPPED = (b"JUNK", b"FLLR")  # padding for alignment
_PADDING, _SEEK_TABLE, _COMMENT = 1, 3, 4  # types of flac metadata blocks that do not describe the samples
_CHUNK = Struct("<4sI")
_FORMAT = Struct("<HHIIHH")  # format, channels, rate, bytes per second, bytes per frame, bits
_CRC8 = tuple(
    reduce(lambda total, _: (total << 1) ^ (0x107 if total & 128 else 0), range(8), byte) for byte in range(256)
)
_FRAME_START = re.compile(rb"\xff[\xf8\xf9]")
_ANY_FRAME = 2**16  # bytes of the longest frame, where flac does not state it
_AFTER = 256  # bytes of tags that may follow the last frame


class Stated(NamedTuple):
    """Length and format stated in a header, at the file's own rate."""

    num_samples: int
    sample_rate: int
    channels: int
    longest_frame: int | None = None  # bytes, for flac; 0: not stated


def stated_at(path: str, offset: int = 0, size: int | None = None) -> Stated | None:
    """Read the header of a file, or of a member of an archive; None if it is unusual or cannot be opened.

    Args:
        path: path of the file, or of the archive.
        offset: first byte.
        size: bytes; None for all that follow.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block until its writer opens it
    except (OSError, ValueError):  # ValueError: a path with a zero byte
        return None
    try:
        return stated_in(descriptor, offset, size)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def stated_in(descriptor: int, offset: int = 0, size: int | None = None) -> Stated | None:
    """Read a header as `stated_at` does, from an open file.

    Raises:
        OSError: the file cannot be read.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or (size is not None and offset + size > status.st_size):
        return None
    size = status.st_size - offset if size is None else size
    start = os.pread(descriptor, min(_START, size), offset)
    if start.startswith(b"fLaC"):
        return _of_flac(start, size, descriptor, offset)
    return _of_wav(start, size) if start.startswith(b"RIFF") else None


def may_be_truncated(path: str, stated: Stated, offset: int = 0, size: int | None = None) -> bool:
    """Return whether flac seems to end before the last sample that its header states; only decoding can tell.

    Args:
        path: path of the file, or of the archive.
        stated: result of `stated_at`.
        offset: first byte.
        size: bytes; None for all that follow.
    """
    if stated.longest_frame is None:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(descriptor).st_size if size is None else offset + size
        first = max(offset, end - (stated.longest_frame or _ANY_FRAME) - _AFTER)
        block = int.from_bytes(os.pread(descriptor, 4, offset + 8)[2:])  # largest block; exact if fixed
        tail = os.pread(descriptor, end - first, first)
    finally:
        os.close(descriptor)
    return all(_end_of_frame(tail, each.start(), block) != stated.num_samples for each in _FRAME_START.finditer(tail))


def _end_of_frame(data: bytes, at: int, block: int) -> int | None:
    """Read the header of a frame of flac (RFC 9639, section 9.1).

    Args:
        data: part of a file.
        at: offset of the frame.
        block: samples in a frame, where all have the same number.

    Returns:
        The index after its last sample; None if there is no frame header.
    """
    head = data[at : at + 16]
    if len(head) < 6:
        return None
    length = max(1, 8 - (head[4] ^ 255).bit_length())  # bytes of the frame number, coded as in UTF-8
    number = head[4] & (127 >> length if length > 1 else 127)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 63
    size_code, rate_code, end = head[2] >> 4, head[2] & 15, 4 + length
    size = 192 if size_code == 1 else 576 << size_code - 2 if 2 <= size_code <= 5 else 256 << max(0, size_code - 8)
    if size_code in (6, 7):
        size = int.from_bytes(head[end : end + size_code - 5]) + 1
        end += size_code - 5
    end += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if not size_code or end >= len(head) or _crc8(head[:end]) != head[end]:
        return None
    return (number if head[1] & 1 else number * block) + size


def _crc8(data: bytes) -> int:
    total = 0
    for byte in data:
        total = _CRC8[total ^ byte]
    return total


def _of_flac(start: bytes, size: int, descriptor: int, offset: int) -> Stated | None:
    """Read the first block (RFC 9639, section 8.2), and check that the following blocks lead to the samples."""
    head = start[4:8]
    if len(start) < 42 or head[0] & 127 or int.from_bytes(head[1:]) != 34:
        return None
    packed = int.from_bytes(start[18:26])  # 20 bits of rate, 3 of channels - 1, 5 of bits - 1, 36 of samples
    rate, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    num_samples = packed & (1 << 36) - 1
    if not rate or bits not in (8, 16, 24) or not num_samples:
        return None
    position = 42
    while head[0] < 128:  # the last block has this bit set
        head = start[position : position + 4]
        if len(head) < 4:
            head = os.pread(descriptor, 4, offset + position)
        if len(head) < 4:
            return None
        length = int.from_bytes(head[1:])
        if not _is_harmless(head[0] & 127, start[position + 4 : position + 4 + length], length):
            return None
        position += 4 + length
    longest_frame = int.from_bytes(start[15:18])
    return Stated(num_samples, rate, channels, longest_frame) if position < size else None


def _is_harmless(kind: int, body: bytes, length: int) -> bool:
    """Return whether libFLAC accepts a metadata block that does not describe the samples.

    Args:
        kind: type of the block.
        body: the bytes of it that were read.
        length: its size in bytes.
    """
    if kind == _COMMENT:
        return len(body) == length and _is_comment(body)
    return kind == _PADDING or (kind == _SEEK_TABLE and length % 18 == 0)


def _is_comment(body: bytes) -> bool:
    """Return whether the lengths within a comment add up to its size."""
    if len(body) < 8:
        return False
    position = 4 + int.from_bytes(body[:4], "little")
    count = int.from_bytes(body[position : position + 4], "little")
    position += 4
    for _ in range(count):
        if position + 4 > len(body):
            return False
        position += 4 + int.from_bytes(body[position : position + 4], "little")
    return position == len(body)


def _of_wav(start: bytes, size: int) -> Stated | None:
    """Read the chunks up to the samples, which must be the last chunk."""
    if start[8:12] != b"WAVE":
        return None
    found: tuple[int, int, int] | None = None  # rate, channels, bytes per frame
    position = 12
    while position + 12 <= len(start):
        name, length = _CHUNK.unpack_from(start, position)
        position += 8
        if name == b"data":
            marker = start[position : position + 4]
            is_whole = 0 <= size - position - length <= 1  # odd lengths are padded by a byte
            if found is None or not is_whole or length < found[2] or marker in (b"wvpk", b"OggS"):
                return None
            return Stated(length // found[2], found[0], found[1])
        body = start[position : position + length]
        if length % 2 or len(body) < length:
            return None
        if name == b"fmt " and found is None:
            found = _wav_format(body)
            if found is None:
                return None
        elif not _is_harmless_chunk(name, body, found):
            return None
        position += length
    return None


def _wav_format(body: bytes) -> tuple[int, int, int] | None:
    """Return rate, channels and bytes per frame if they are consistent."""
    if len(body) not in (16, 18, 40):
        return None
    kind, channels, rate, byte_rate, width, bits = _FORMAT.unpack_from(body)
    if kind == _EXTENSIBLE:
        if len(body) != 40 or body[16:18] != b"\x16\0" or body[18:20] != body[14:16] or body[26:] != _GUID_TAIL:
            return None
        kind = int.from_bytes(body[24:26], "little")
    elif len(body) == 40 or body[16:18] not in (b"", b"\0\0"):
        return None
    is_sound = 0 < channels <= _MAX_CHANNELS and 0 < rate <= _MAX_RATE
    if not is_sound or bits not in _WIDTHS.get(kind, ()) or width != channels * bits // 8 or byte_rate != rate * width:
        return None
    return rate, channels, width


def _is_harmless_chunk(name: bytes, body: bytes, found: tuple[int, int, int] | None) -> bool:
    """Return whether libsndfile skips a chunk before the samples as a whole."""
    if name == b"LIST":
        return _is_info(body)
    if name == b"fact":
        return len(body) == 4
    if name == b"PEAK":
        return found is not None and len(body) == 8 + 8 * found[1]
    return name in _SKIPPED


def _is_info(body: bytes) -> bool:
    """Return whether a list chunk holds texts whose lengths add up to its size."""
    position = 4
    while position + 8 <= len(body):
        name, length = _CHUNK.unpack_from(body, position)
        if not (name[:1] == b"I" and name.isalpha()):
            return False
        position += 8 + length + length % 2
    return body[:4] == b"INFO" and position == len(body) > 8
