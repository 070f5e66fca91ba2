"""MPEG audio (mp3): counts frames without decoding, and repairs files that libsndfile would read only in part.

Unless a Xing, Info or VBRI frame states the length, libsndfile estimates it, up to ten times too long or two fifths of
it, and reads no further. Here frames are counted from their headers (ISO 11172-3, 13818-3), less the encoder's delay
and padding (LAME's tag), as in decoders. Irregular files are not handled. mutagen estimates as well, and rounds.
"""

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Mpeg", "read_mpeg", "starts_mpeg"]

_MPEG1, _RESERVED = 3, 1  # versions; 2 is MPEG 2, 0 is 2.5
_LAYER1, _LAYER2, _LAYER3 = 3, 2, 1
_MONO = 3
_KBITS = {  # kbit/s by (is MPEG 1, layer)
    (True, _LAYER1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, _LAYER2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, _LAYER3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, _LAYER1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, _LAYER2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, _LAYER3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_DELAY = 529  # samples, delay of layer III decoders
_TAG_SIZE = 4 + 32 + 8 + 4 + 24 + 12  # bytes of a frame that holds the tag of `_length_frames`
_LENGTH_WORDS = (b"Xing", b"Info", b"VBRI")
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")  # tags that may follow the frames


@dataclass(frozen=True)
class _Frame:
    """The four-byte header of a frame."""

    version: int
    layer: int
    rate: int
    is_mono: bool
    size: int  # bytes, including the header

    @property
    def num_samples(self) -> int:
        if self.layer == _LAYER1:
            return 384
        return 1152 if self.version == _MPEG1 or self.layer == _LAYER2 else 576


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """Frames of one kind; the first may state their number."""

    first: _Frame
    tag_start: int | None  # offset of the frame that states the number, if there is one
    start: int  # offset of the audio frames
    end: int
    frames: int
    stated: int | None  # number of frames that the tag states
    delay: int  # samples, encoder delay
    padding: int

    @property
    def num_samples(self) -> int:
        """Number of decoded samples, without the delays of encoder and decoder and without the padding."""
        if self.tag_start is None:
            return self.frames * self.first.num_samples
        stated = self.frames if self.stated is None else self.stated
        end = stated * self.first.num_samples - max(0, self.padding - _DELAY)
        return max(0, min(end, self.frames * self.first.num_samples) - self.delay - _DELAY)


@dataclass(frozen=True)
class Mpeg:
    """The streams of frames in a file."""

    data: bytes
    found: tuple[_Stream, ...]  # in order

    @property
    def num_samples(self) -> int:
        """Number of samples per channel."""
        return sum(stream.num_samples for stream in self.found)

    @property
    def missing(self) -> int:
        """Number of frames that are stated but missing."""
        return sum(max(0, (stream.stated or 0) - stream.frames) for stream in self.found)

    def streams(self) -> list[bytes]:
        """Return each stream as a file that libsndfile reads to its end."""
        return [_whole(self.data, stream) for stream in self.found]


def read_mpeg(data: bytes) -> Mpeg | None:
    """Count the frames of a whole file, which may be several files concatenated.

    Returns:
        None if anything but frames and surrounding tags is in the file.
    """
    found: list[_Stream] = []
    position = _after_id3(data, len(data) - len(data.lstrip(b"\0")))
    while (stream := _stream_at(data, position)) is not None:
        found.append(stream)
        position = _after_id3(data, stream.end)
    if not found or not _is_end(data, position):
        return None
    return Mpeg(data, tuple(found))


def starts_mpeg(data: bytes) -> bool:
    """Return whether bytes begin with three frames of one kind, which is unlikely for samples."""
    position, kinds = 0, set()
    for _ in range(3):
        frame = _frame_at(data, position)
        if frame is None:
            return False
        position += frame.size
        kinds.add((frame.version, frame.layer, frame.rate))
    return len(kinds) == 1


def _stream_at(data: bytes, position: int) -> _Stream | None:
    """Read frames of one kind, up to one that begins another file."""
    first = _frame_at(data, position)
    if first is None:
        return None
    tag = _length_tag(data, position, first)
    start = end = position + (first.size if tag else 0)
    frames = 0
    may_join = any(data.find(word, start) >= 0 for word in _LENGTH_WORDS)
    while (frame := _frame_at(data, end)) is not None:
        if frame is not first and (frame.version, frame.layer, frame.rate) != (first.version, first.layer, first.rate):
            break
        if may_join and frames and _length_tag(data, end, frame):
            break
        if end + frame.size > len(data):
            end = len(data)  # truncated within its last frame, which decoders drop
            break
        frames += 1
        end += frame.size
    stated, delay, padding = tag or (None, 0, 0)
    return _Stream(
        first=first,
        tag_start=position if tag else None,
        start=start,
        end=end,
        frames=frames,
        stated=stated,
        delay=delay,
        padding=padding,
    )


def _whole(data: bytes, stream: _Stream) -> bytes:
    """Return the bytes of a stream, preceded by a frame that states the length if it has none."""
    if stream.tag_start is not None:
        return data[stream.tag_start : stream.end]
    return _length_frames(data[stream.start : stream.start + 4], stream) + data[stream.start : stream.end]


def _length_frames(head: bytes, stream: _Stream) -> bytes:
    """Make a frame that states the length, and a silent one.

    Decoders drop their own delay of 529 samples from a stream that states its length, but not from others. The silent
    frame is added so that exactly this frame is dropped.
    """
    if stream.first.layer != _LAYER3:
        return b""  # libsndfile's estimate is exact here, as all frames have the same size
    tried = b""
    for bits in range(1, 15):  # lowest bit rate at which the frame is large enough
        tried = head[:2] + bytes([bits << 4 | head[2] & 0b1100, head[3]])
        frame = _frame_at(tried, 0)
        if frame is not None and frame.size >= _TAG_SIZE:
            break
    assert frame is not None
    delays = (frame.num_samples - _DELAY << 12).to_bytes(3)
    tag = b"Info" + (1).to_bytes(4) + (stream.frames + 1).to_bytes(4) + b"LAME3.100" + bytes(12) + delays
    return (tried + bytes(_side(frame)) + tag).ljust(frame.size, b"\0") + tried.ljust(frame.size, b"\0")


def _after_id3(data: bytes, position: int) -> int:
    """Return the offset after the ID3 tags that begin here."""
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        size = 0
        for byte in data[position + 6 : position + 10]:  # seven bits per byte
            size = size << 7 | byte & 127
        position += 10 + size + (10 if data[position + 5] & 16 else 0)
    return position


def _frame_at(data: bytes, position: int) -> _Frame | None:
    """Read the header of a frame; None if there is none."""
    return _frame(data[position : position + 4])


@lru_cache(maxsize=1024)  # a file has few different ones
def _frame(header: bytes) -> _Frame | None:
    if len(header) < 4:
        return None
    head = int.from_bytes(header)
    version, layer, bits, rate = head >> 19 & 3, head >> 17 & 3, head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version == _RESERVED or layer == 0 or bits in (0, 15) or rate == 3:
        return None
    hertz, padding = _RATES[version][rate], head >> 9 & 1
    bytes_a_second = _KBITS[version == _MPEG1, layer][bits - 1] * 125
    if layer == _LAYER1:
        size = (96 * bytes_a_second // hertz + padding) * 4
    else:
        size = (1152 if version == _MPEG1 or layer == _LAYER2 else 576) * bytes_a_second // hertz + padding
    return _Frame(version, layer, hertz, head >> 6 & 3 == _MONO, size)


def _length_tag(data: bytes, position: int, frame: _Frame) -> tuple[int | None, int, int] | None:
    """Read the tag of a Xing, Info or VBRI frame.

    Returns:
        None for an audio frame; else the number of frames after it, None if not stated, and delay and padding in
        samples.
    """
    if frame.layer != _LAYER3:
        return None
    if data[position + 36 : position + 40] == _LENGTH_WORDS[2]:
        return int.from_bytes(data[position + 50 : position + 54]), 0, 0
    position += 4 + _side(frame)
    if data[position : position + 4] not in _LENGTH_WORDS[:2]:
        return None
    flags = int.from_bytes(data[position + 4 : position + 8])
    frames = int.from_bytes(data[position + 8 : position + 12]) if flags & 1 else None
    lame = position + 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    delays = int.from_bytes(data[lame + 21 : lame + 24]) if lame + 24 <= len(data) else 0
    return frames, delays >> 12, delays & 0xFFF


def _side(frame: _Frame) -> int:
    """Return the size in bytes of the side information of a layer III frame."""
    if frame.version == _MPEG1:
        return 17 if frame.is_mono else 32
    return 9 if frame.is_mono else 17


def _is_end(data: bytes, position: int) -> bool:
    """Return whether only a tag, zeros, or fewer bytes than a header follow."""
    return data.startswith(_TAGS, position) or len(data) - position < 4 or not data[position:].strip(b"\0")
