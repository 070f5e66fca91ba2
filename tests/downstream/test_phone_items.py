"""Items of an ABX test."""

from pathlib import Path

import pytest

from speechssl.downstream.phone_items import EDGE, PhoneItem, frames_of, items_of, read_items
from speechssl.errors import LabelError
from speechssl.units.phone_alignments import Interval

HEADER = "#file onset offset #phone prev-phone next-phone speaker\n"


def item(onset_s: float, offset_s: float, **changes: str) -> PhoneItem:
    names = {"utterance": "u", "phone": "a", "previous": "b", "next": "c", "speaker": "s"} | changes
    return PhoneItem(onset_s=onset_s, offset_s=offset_s, **names)


@pytest.mark.parametrize(
    ("onset_s", "offset_s", "frames"),
    [
        (0.0, 0.02, (0, 1)),
        (0.01, 0.03, (0, 2)),  # centres of both frames are on the edges
        (0.011, 0.029, (1, 1)),  # between two centres: no frame
        (0.1 + 0.2, 0.32, (15, 16)),
        (0.29, 0.1 + 0.2 + 0.01, (14, 16)),  # 0.31000000000000005: the centre of frame 15 is on the edge
        (0.0, 0.005, (0, 0)),
    ],
)
def test_frames_have_the_middle_of_their_hop_in_the_item(onset_s, offset_s, frames):
    assert frames_of(item(onset_s, offset_s), hop=320) == frames


def test_phones_of_alignments_have_neighbours_and_speakers():
    phones = {
        "u": [Interval(0, 0.1, "pau"), Interval(0.1, 0.2, "a"), Interval(0.2, 0.3, "b"), Interval(0.4, 0.5, "a")],
        "unknown": [Interval(0, 1, "a")],
    }
    assert items_of(phones, {"u": "s", "without phones": "s"}) == [
        item(0.1, 0.2, previous="pau", next="b"),
        item(0.2, 0.3, phone="b", previous="a", next=EDGE),
        item(0.4, 0.5, previous=EDGE, next=EDGE),
    ]


def test_an_item_file_is_read_by_the_names_of_its_columns(tmp_path: Path):
    (tmp_path / "a.item").write_text(HEADER + "u 0.1 0.25 a b c s\n\n")
    (tmp_path / "b.item").write_text(
        "speaker #phone prev-phone next-phone word #file onset offset\ns a b c w u 0.1 0.25\n"
    )
    assert read_items(tmp_path / "a.item") == read_items(tmp_path / "b.item") == [item(0.1, 0.25)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"x\.item:1: lacks #file, onset, .*; expected the columns #file onset offset"),
        (HEADER.replace(" speaker", ""), r"x\.item:1: lacks speaker; expected"),
        (HEADER, r"x\.item: holds no items"),
        (HEADER + "u 0.1 a b c s\n", r"x\.item:2: expected 7 fields, .* found 'u 0\.1 a b c s'"),
        (HEADER + "u 0.3 0.2 a b c s\n", r"x\.item:2: expected .* 0 <= onset <= offset"),
        (HEADER + "u 0.3 nan a b c s\n", r"x\.item:2: expected .* 0 <= onset <= offset"),
    ],
)
def test_a_damaged_item_file_is_refused_by_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "x.item").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_items(tmp_path / "x.item")
