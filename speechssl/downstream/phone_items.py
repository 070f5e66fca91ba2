"""Phones as the items of an ABX test: read from Zerospeech's `.item` files, or made from alignments and speakers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.errors import LabelError
from speechssl.text.fields import fields_of, lines_of
from speechssl.units.phone_alignments import Interval

__all__ = ["EDGE", "SILENCES", "PhoneItem", "frames_of", "is_item_file", "items_of", "read_items"]

EDGE = "SIL"  # neighbour of a phone at the edge of an utterance or beside a gap, as in Zerospeech's files
SILENCES = ("", "pau", "sil", "sp", "spn", "<eps>", "h#", "#h", "epi")  # compared in lower case
_COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
_DIGITS = 9  # decimals of a second that count: sums of floats such as 0.1 + 0.2 are 0.3 again


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneItem:
    """One phone that somebody said."""

    utterance: str
    onset_s: float
    offset_s: float
    phone: str
    previous: str
    next: str
    speaker: str


def frames_of(item: PhoneItem, *, hop: int) -> tuple[int, int]:
    """Return the first frame of an item, and the frame after its last, as fastabx counts them.

    Frame i is at (i + 1/2) x hop, the middle of its hop rather than of its window (see `units.quality`), so that
    figures compare with those of fastabx; frames exactly at onset and offset belong to the item. The arithmetic is
    exact. The range may be empty, and may go beyond the features.
    """
    rate = Fraction(SAMPLE_RATE, hop)
    onset, offset = (Fraction(str(round(time_s, _DIGITS))) for time_s in (item.onset_s, item.offset_s))
    half = Fraction(1, 2)
    return math.ceil(onset * rate - half), math.floor(offset * rate - half) + 1


def items_of(
    alignments: Mapping[str, Sequence[Interval]], speakers: Mapping[str, str], silences: Iterable[str] = SILENCES
) -> list[PhoneItem]:
    """Make an item of every phone of the utterances that have a speaker, sorted by utterance, then time.

    Args:
        alignments: phones by utterance id.
        speakers: speaker by utterance id.
        silences: names, in lower case, of intervals that are neighbours of phones, but no items.
    """
    silent = set(silences)
    items = []
    for key, speaker in sorted(speakers.items()):
        found = alignments.get(key, ())
        for before, here, after in zip([None, *found], found, [*found[1:], None], strict=False):
            if here.phone.lower() in silent:
                continue
            items.append(
                PhoneItem(
                    utterance=key,
                    onset_s=here.start_s,
                    offset_s=here.end_s,
                    phone=here.phone,
                    previous=before.phone if before and before.end_s >= here.start_s - 1e-6 else EDGE,
                    next=after.phone if after and after.start_s <= here.end_s + 1e-6 else EDGE,
                    speaker=speaker,
                )
            )
    return items


def is_item_file(path: Path) -> bool:
    """Return whether a path names a file of items, by its suffix."""
    return path.suffix.lower() == ".item"


def read_items(path: Path) -> list[PhoneItem]:
    """Read a file of Zerospeech and Libri-light: a line of the names of columns, then an item a line.

    Columns are found by name, between blanks: `#file onset offset #phone prev-phone next-phone speaker`; others are
    not read. Times are in seconds.

    Raises:
        LabelError: the file cannot be read or holds no items, lacks a column, or a line does not parse.
    """
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot read the items ({error}); name a text file in UTF-8") from error
    header = fields_of(lines[0]) if lines else []
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise LabelError(f"{path}:1: lacks {', '.join(missing)}; expected the columns {' '.join(_COLUMNS)}")
    places = [header.index(name) for name in _COLUMNS]
    items = []
    for number, line in enumerate(lines[1:], start=2):
        cells = fields_of(line)
        if not cells:
            continue
        try:
            if len(cells) != len(header):
                raise ValueError
            key, onset, offset, *names = (cells[place] for place in places)
            onset_s, offset_s = float(onset), float(offset)
            if not 0 <= onset_s <= offset_s < math.inf:
                raise ValueError
        except ValueError as error:
            raise LabelError(
                f"{path}:{number}: expected {len(header)} fields, {' '.join(header)}, with 0 <= onset <= offset in "
                f"seconds, found {line[:80]!r}; correct or remove the line"
            ) from error
        phone, previous, following, speaker = names
        items.append(
            PhoneItem(
                utterance=key,
                onset_s=onset_s,
                offset_s=offset_s,
                phone=phone,
                previous=previous,
                next=following,
                speaker=speaker,
            )
        )
    if not items:
        raise LabelError(f"{path}: holds no items; expected lines below the names of the columns")
    return items
