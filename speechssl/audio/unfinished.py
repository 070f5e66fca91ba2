"""Repairs the headers of files whose writer never filled in the length.

Recorders that lose power, and programs that write into pipes, leave 0, -1 or far too large a number as the length.
libsndfile then finds no samples in wav, rf64 and au, and refuses caf. A file with length 0 and nothing but chunks after
it is really empty, and stays so. ALAC in caf from ffmpeg is repaired too: it states the bits per sample only to the
decoder, and libsndfile expects them in the format chunk as well.
"""

import io
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO

__all__ = ["STREAMED_SIZE", "Finished", "describe_truncation", "finished", "is_placeholder"]

# bytes: programs that write wav into a pipe (sox, arecord, ffmpeg, servers) declare this or more as the length
STREAMED_SIZE = 10**9

_START = 4096  # bytes in which the samples begin
_CHUNK = Struct("<4sI")
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")


class Finished:
    """A file with some bytes replaced."""

    def __init__(self, source: BinaryIO, patches: dict[int, bytes]) -> None:
        """Read `source`, with the bytes in `patches` at their offsets."""
        self.source, self.patches = source, patches
        self.seek, self.tell = source.seek, source.tell

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer only at the end; all that follow for -1."""
        start = self.source.tell()
        content = bytearray(self.source.read(size))
        for at, right in self.patches.items():
            for offset, byte in enumerate(right, at - start):
                if 0 <= offset < len(content):
                    content[offset] = byte
        return bytes(content)


def finished(file: BinaryIO) -> dict[int, bytes]:
    """Return the patches, by offset, that state the length of a file; none if it is stated.

    Args:
        file: at any position; it is left at its beginning.
    """
    file.seek(0)
    start = file.read(_START)
    size = file.seek(0, io.SEEK_END) if start[:4] in (b"RIFF", b"RF64", b"caff") else 0
    file.seek(0)
    match start[:4]:
        case b"RIFF" | b"RF64":
            return _of_wav(start, size, file)
        case b".snd":
            return _of_au(start)
        case b"caff":
            return _of_caf(start, size)
    return {}


def is_placeholder(declared: int, held: int) -> bool:
    """Return whether the declared number of bytes is a placeholder for an unknown length."""
    return declared == 0 or (declared >= STREAMED_SIZE and held < declared // 2)


def describe_truncation(file: BinaryIO) -> str | None:
    """Return what is missing from wav, aiff or caf with a codec unknown to libsndfile; None if nothing is.

    Args:
        file: at any position; it is left at its beginning.
    """
    file.seek(0)
    start = file.read(_START)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = {b"RIFF": (12, "<4sI"), b"FORM": (12, ">4sI"), b"caff": (8, ">4sq")}.get(start[:4])
    for name, declared, position in _chunks(start, head[0], Struct(head[1])) if head else ():
        held = size - position
        if name in (b"data", b"SSND") and declared > held and not is_placeholder(declared, held):
            return f"its header declares {declared} bytes of samples, the file holds {held}"
    return None


def _of_wav(start: bytes, size: int, file: BinaryIO) -> dict[int, bytes]:
    sizes = None  # offset of the sizes in rf64
    for name, length, position in _chunks(start, 12):
        if name == b"ds64":
            sizes = position
        if name != b"data":
            continue
        held = size - position
        if sizes is not None and length == 0xFFFFFFFF:
            declared = int.from_bytes(start[sizes + 8 : sizes + 16], "little")
            if not is_placeholder(declared, held) or _is_empty(file, position, size):
                return {}
            return {sizes: (size - 8).to_bytes(8, "little") + held.to_bytes(8, "little") + bytes(8)}
        if length or held < 1 or _is_empty(file, position, size):
            return {}  # libsndfile corrects lengths that are too large
        return {4: min(size - 8, 2**32 - 1).to_bytes(4, "little"), position - 4: held.to_bytes(4, "little")}
    return {}


def _of_au(start: bytes) -> dict[int, bytes]:
    declared = int.from_bytes(start[8:12])
    unknown = b"\xff" * 4
    return {8: unknown} if declared == 0 or STREAMED_SIZE <= declared < 2**32 - 1 else {}


def _of_caf(start: bytes, size: int) -> dict[int, bytes]:
    position = 8
    patches: dict[int, bytes] = {}
    while position + 12 <= len(start):
        length = int.from_bytes(start[position + 4 : position + 12], signed=True)
        held = size - position - 12
        body = start[position + 12 : position + 12 + max(0, length)]
        match start[position : position + 4]:
            case b"desc" if body[8:16] == b"alac" + bytes(4):
                patches[position + 24] = b""
            case b"kuki":  # the decoder's settings, plain or within atoms
                about = body[24:] if body[4:8] == b"frma" else body
                bits = (16, 20, 24, 32).index(about[5]) + 1 if about[5:6] in (b"\x10", b"\x14", b"\x18", b"\x20") else 0
                patches = {at: bits.to_bytes(4) for at in patches}
            case b"data":
                lengths = {position + 4: held.to_bytes(8)} if length <= 0 and held > 4 else {}
                return {at: right for at, right in patches.items() if right} | lengths
        position += 12 + max(0, length)
    return {}


def _is_empty(file: BinaryIO, position: int, size: int) -> bool:
    """Return whether only chunks, a tag or zeros follow."""
    file.seek(position)
    rest = file.read(size - position)
    file.seek(0)
    if rest.startswith(_TAGS) or not rest.strip(b"\0"):
        return True
    end = 0
    for name, length, at in _chunks(rest, 0):
        if not (name.isascii() and name.decode().isprintable()):
            return False
        end = at + length + length % 2
    return end > 0 and len(rest) - end in range(-1, 8)


def _chunks(data: bytes, position: int, chunk: Struct = _CHUNK) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, length and offset of the body of each chunk in `data`; chunks of caf are not padded."""
    while position + chunk.size <= len(data):
        name, length = chunk.unpack_from(data, position)
        position += chunk.size
        yield name, length, position
        position += max(0, length) + (length % 2 if chunk.size == _CHUNK.size else 0)
