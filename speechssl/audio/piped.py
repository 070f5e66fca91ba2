"""Reads 16-bit samples from standard input: raw, or wav with a header.

16-bit mono wav at 16 kHz, as `arecord` and ffmpeg write it, is read as it arrives. Other files are recognised by their
first bytes and refused, as a stream cannot be read like a file.
"""

from struct import Struct
from typing import BinaryIO, Protocol

from speechssl.audio.mpeg import starts_mpeg
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.audio.unfinished import STREAMED_SIZE
from speechssl.errors import AudioError

__all__ = ["Samples", "samples_of"]

_FILES = {  # magic numbers
    b"RIFF": "wav",
    b"RIFX": "wav",
    b"RF64": "wav",
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"FORM": "aiff",
    b".snd": "au",
    b"caff": "caf",
    b"NIST": "sph",
    b"ID3\2": "mp3",
    b"ID3\3": "mp3",
    b"ID3\4": "mp3",
}
_FORMAT = Struct("<HHIIHH")  # wav: format, channels, rate, bytes per second, bytes per frame, bits
_PCM, _EXTENSIBLE = 1, 0xFFFE
_HEAD = 4096  # bytes in which the samples of a wav begin, and which tell mp3 from samples
_CURE = (
    f"expected 16-bit mono at {SAMPLE_RATE} Hz: name the file instead of -, or pipe it through "
    f"`ffmpeg -i - -f s16le -ar {SAMPLE_RATE} -ac 1 -`"
)


class Samples(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes; fewer only at the end."""
        ...


class _Begun:
    """Bytes that were read already, followed by the source, up to a limit."""

    def __init__(self, begun: bytes, source: BinaryIO, at_most: int | None = None) -> None:
        self.begun, self.source, self.left = begun, source, at_most

    def read(self, size: int, /) -> bytes:
        size = size if self.left is None else min(size, self.left)
        content, self.begun = self.begun[:size], self.begun[size:]
        if len(content) < size:
            content += self.source.read(size - len(content))
        self.left = None if self.left is None else self.left - len(content)
        return content


def samples_of(source: BinaryIO) -> Samples:
    """Return the 16-bit little-endian mono samples at 16 kHz of a source.

    Args:
        source: raw samples, or wav.

    Raises:
        AudioError: the source is a file of another kind.
    """
    begun = source.read(4)
    kind = _FILES.get(begun)
    if kind is None and begun[:1] == b"\xff":
        begun += source.read(_HEAD - len(begun))
        kind = "mp3" if starts_mpeg(begun) else None
    if kind is None:
        return _Begun(begun, source)
    if begun != b"RIFF":
        raise AudioError(f"standard input is a file of {kind}, {_CURE}")
    return _samples_of_wav(source)


def _samples_of_wav(source: BinaryIO) -> Samples:
    """Read the header of a wav up to the samples; its first four bytes were read already.

    Raises:
        AudioError: the samples are of another kind, or there are none.
    """
    passed, is_right, said = len(source.read(8)), False, "without a header that states its format"
    while passed < _HEAD:
        head = source.read(8)
        name, length = head[:4], int.from_bytes(head[4:], "little")
        if len(head) < 8 or (name != b"data" and length > _HEAD):
            break
        if name == b"data" and is_right:
            return _Begun(b"", source, length if 0 < length < STREAMED_SIZE else None)
        if name == b"data":
            break
        body = source.read(length + length % 2)
        passed += len(head) + len(body)
        if name == b"fmt " and len(body) >= _FORMAT.size:
            kind, channels, rate, _, _, bits = _FORMAT.unpack_from(body)
            kind = int.from_bytes(body[24:26], "little") if kind == _EXTENSIBLE else kind
            is_right = (kind, channels, rate, bits) == (_PCM, 1, SAMPLE_RATE, 16)
            said = f"of {rate} Hz, {channels} channels and {bits} bits" + ("" if kind == _PCM else f" (format {kind})")
    raise AudioError(f"standard input is wav {said}, {_CURE}")
