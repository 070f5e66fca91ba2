"""MPEG audio files (mp3): their frames counted without decoding, and those made readable that libsndfile would cut off.

What libsndfile says before it has decoded such a file is an estimate wherever no Xing, Info or VBRI frame states the
length: up to ten times too long, or two fifths of it, and it reads no further than that. Here the frames are counted
from their headers (ISO 11172-3, 13818-3); what an encoder notes of its delay and padding (LAME's tag) is taken off, as
decoders do. Of anything irregular nothing is said. mutagen was weighed: it estimates as well, and rounds.
"""

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Mpeg", "read_mpeg", "starts_mpeg"]

_MPEG1, _RESERVED = 3, 1  # versions; 2 is MPEG 2, 0 is 2.5
_LAYER1, _LAYER2, _LAYER3 = 3, 2, 1
_MONO = 3
_KBITS = {  # by MPEG 1 or not, and layer
    (True, _LAYER1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, _LAYER2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, _LAYER3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, _LAYER1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, _LAYER2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, _LAYER3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_DELAY = 529  # samples, of decoders of layer III
_TAG_SIZE = 4 + 32 + 8 + 4 + 24 + 12  # bytes of a frame that holds what `_stating` writes
_LENGTH_WORDS = (b"Xing", b"Info", b"VBRI")
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")  # what may follow the frames


@dataclass(frozen=True)
class _Frame:
    """What the four bytes before a frame say."""

    version: int
    layer: int
    rate: int
    is_mono: bool
    size: int  # bytes, with these four

    @property
    def num_samples(self) -> int:
        if self.layer == _LAYER1:
            return 384
        return 1152 if self.version == _MPEG1 or self.layer == _LAYER2 else 576


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """Frames of one kind, from a first one that may say how many there are."""

    first: _Frame
    tag_start: int | None  # of the frame that says how many there are, if there is one
    start: int  # of its frames of sound
    end: int
    frames: int
    stated: int | None  # frames
    delay: int  # samples, of the encoder
    padding: int

    @property
    def num_samples(self) -> int:
        """Samples that decoders give: from their own delay after the encoder's, to as much after the padding begins."""
        if self.tag_start is None:
            return self.frames * self.first.num_samples
        stated = self.frames if self.stated is None else self.stated
        end = stated * self.first.num_samples - max(0, self.padding - _DELAY)
        return max(0, min(end, self.frames * self.first.num_samples) - self.delay - _DELAY)


@dataclass(frozen=True)
class Mpeg:
    """What the frames of a file add up to."""

    data: bytes
    found: tuple[_Stream, ...]  # one after the other

    @property
    def num_samples(self) -> int:
        """Samples of each channel."""
        return sum(stream.num_samples for stream in self.found)

    @property
    def missing(self) -> int:
        """Frames that are stated, and not there."""
        return sum(max(0, (stream.stated or 0) - stream.frames) for stream in self.found)

    def streams(self) -> list[bytes]:
        """Return files, one after the other, each of which libsndfile reads to its end."""
        return [_whole(self.data, stream) for stream in self.found]


def read_mpeg(data: bytes) -> Mpeg | None:
    """Count the frames of a whole file, which may be several joined.

    Returns:
        None where the bytes are not frames from the first one to the last, but for tags around them.
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
    """Say whether bytes begin with three frames of one kind, as samples hardly do."""
    position, kinds = 0, set()
    for _ in range(3):
        frame = _frame_at(data, position)
        if frame is None:
            return False
        position += frame.size
        kinds.add((frame.version, frame.layer, frame.rate))
    return len(kinds) == 1


def _stream_at(data: bytes, position: int) -> _Stream | None:
    """Go through frames of one kind, up to one that begins another file."""
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
            end = len(data)  # cut off within its last frame, which no decoder plays
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
    """Return the bytes of a stream; where it does not say how long it is, with frames before that do."""
    if stream.tag_start is not None:
        return data[stream.tag_start : stream.end]
    return _stating(data[stream.start : stream.start + 4], stream) + data[stream.start : stream.end]


def _stating(head: bytes, stream: _Stream) -> bytes:
    """Make a frame that states how many follow, and a silent one.

    Decoders take 529 samples of their own delay off the beginning of what states its length, and nothing off what does
    not. So there is a frame more, all of which is taken off.
    """
    if stream.first.layer != _LAYER3:
        return b""  # of these libsndfile's estimate is exact, as their frames are all as long
    tried = b""
    for bits in range(1, 15):  # the first bit rate at which it is long enough
        tried = head[:2] + bytes([bits << 4 | head[2] & 0b1100, head[3]])
        frame = _frame_at(tried, 0)
        if frame is not None and frame.size >= _TAG_SIZE:
            break
    assert frame is not None
    delays = (frame.num_samples - _DELAY << 12).to_bytes(3)
    tag = b"Info" + (1).to_bytes(4) + (stream.frames + 1).to_bytes(4) + b"LAME3.100" + bytes(12) + delays
    return (tried + bytes(_side(frame)) + tag).ljust(frame.size, b"\0") + tried.ljust(frame.size, b"\0")


def _after_id3(data: bytes, position: int) -> int:
    """Return where the tags end that begin here."""
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        size = 0
        for byte in data[position + 6 : position + 10]:  # seven bits each
            size = size << 7 | byte & 127
        position += 10 + size + (10 if data[position + 5] & 16 else 0)
    return position


def _frame_at(data: bytes, position: int) -> _Frame | None:
    """Read the header of a frame; None where there is none."""
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
    """Read what the first frame says of the file, if it is one that says such: frames, and samples to take off.

    Returns:
        None for a frame of sound; else the number of frames after it, None if it does not say, delay and padding in
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
    """Return the bytes of layer III between a frame's header and its sound."""
    if frame.version == _MPEG1:
        return 17 if frame.is_mono else 32
    return 9 if frame.is_mono else 17


def _is_end(data: bytes, position: int) -> bool:
    """Say whether what follows the last frame is a tag, zeros, or less than the header of another."""
    return data.startswith(_TAGS, position) or len(data) - position < 4 or not data[position:].strip(b"\0")
