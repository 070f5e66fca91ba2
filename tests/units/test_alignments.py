"""Phone alignments in every format: speechssl.units.phone_alignments."""

from pathlib import Path

import pytest

from speechssl.corpus.fetch.festvox import read_phone_labels
from speechssl.errors import LabelError
from speechssl.units.phone_alignments import Interval, read_phones

PHONES = [Interval(0.0, 0.25, "AA1"), Interval(0.25, 1.5, "sil")]
CTM = "u 1 0.00 0.25 AA1\nu 1 0.25 1.25 sil 0.98\n"
FESTIVAL = "signal u\nnfields 1\n#\n\t0.25 125 AA1\n\t1.5 125 sil\n"
TABLE = "id\tphones\nu\t0.25:AA1 1.5:sil\n"
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 1.5
            text = "say ""ah"" 12"
    item [2]:
        class = "TextTier"
        name = "bells"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.7
            mark = "ding"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "AA1" ! was "AA0" 3
        intervals [2]:
            xmin = 0.25
            xmax = 1.5
            text = "sil"
"""
SHORT = """File type = "ooTextFile short"
"TextGrid"

0
1.5
<exists>
2
"IntervalTier"
"words"
0
1.5
1
0
1.5
"say ""ah"" 12"
"IntervalTier"
"phones"
0
1.5
2
0
0.25
"AA1"
0.25
1.5
"sil"
"""


def _written(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.ctm", CTM), ("u.lab", FESTIVAL), ("u.TextGrid", LONG), ("u.TextGrid", SHORT), ("phones.tsv", TABLE)],
)
def test_every_format_tells_the_same(tmp_path: Path, name: str, text: str) -> None:
    assert read_phones(_written(tmp_path, name, text)) == {"u": PHONES}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", [LONG, SHORT])
def test_a_textgrid_may_be_in_any_unicode_that_praat_writes(tmp_path: Path, text: str, encoding: str) -> None:
    path = _written(tmp_path, "u.TextGrid", text.replace("AA1", "ɐː").replace("\n", "\r\n"), encoding)
    assert read_phones(path)["u"][0] == Interval(0.0, 0.25, "ɐː")


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path, "u.TextGrid", LONG.replace("AA1", "é"), "latin-1")
    with pytest.raises(LabelError, match=r"u\.TextGrid: not UTF-8 or UTF-16 at byte \d+; save it as UTF-8"):
        read_phones(path)


def test_another_tier_may_hold_the_phones(tmp_path: Path) -> None:
    path = _written(tmp_path, "u.TextGrid", LONG)
    assert read_phones(path, tier="words") == {"u": [Interval(0.0, 1.5, 'say "ah" 12')]}


@pytest.mark.parametrize("tier", ["segments", "bells"])
def test_a_missing_tier_is_named_with_those_there_are(tmp_path: Path, tier: str) -> None:
    path = _written(tmp_path, "u.TextGrid", LONG)
    with pytest.raises(
        LabelError, match=rf"u\.TextGrid: has no interval tier '{tier}', but words, bells \(of points\), phones; set"
    ):
        read_phones(path, tier=tier)


def test_an_interval_without_text_is_a_gap(tmp_path: Path) -> None:
    path = _written(tmp_path, "u.TextGrid", SHORT.replace('"AA1"', '" "'))
    assert read_phones(path) == {"u": PHONES[1:]}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (SHORT[: SHORT.index('"sil"')], r"25: expected a text of a TextGrid in text form, found the end of the file"),
        (SHORT.replace('0.25\n"AA1"', '"AA1"'), r'22: expected a number of a TextGrid in text form, found "AA1"'),
        ("ooBinaryFile\x08TextGrid", r"1: expected a text of a TextGrid in text form, found the end of the file"),
        (LONG.replace("<exists>", "<absent>").replace("size = 3", ""), r"10: expected a number .* found \"Int"),
    ],
)
def test_a_broken_textgrid_is_named_with_its_line(tmp_path: Path, broken: str, message: str) -> None:
    with pytest.raises(LabelError, match=rf"u\.TextGrid:{message}"):
        read_phones(_written(tmp_path, "u.TextGrid", broken))


def test_a_ctm_holds_many_utterances_and_comments(tmp_path: Path) -> None:
    path = _written(tmp_path, "all.ctm", ";; made by hand\n" + CTM + "v A 0.5 0.1 B\n\n")
    assert read_phones(path) == {"u": PHONES, "v": [Interval(0.5, 0.6, "B")]}


@pytest.mark.parametrize("row", ["u 1 0.0 AA1", "u 1 zero 0.1 AA1", "u 1 0 0.1 AA1 0.9 more"])
def test_a_line_of_a_ctm_that_does_not_parse_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(LabelError, match=r"a\.ctm:2: expected `utterance channel start duration phone \[conf.* 'u 1"):
        read_phones(_written(tmp_path, "a.ctm", f";;\n{row}\n"))


def test_two_channels_of_one_utterance_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"a\.ctm:2: u has phones of two channels"):
        read_phones(_written(tmp_path, "a.ctm", "u A 0 1 a\nu B 1 1 b\n"))


@pytest.mark.parametrize("row", ["0.25 AA1", "end 125 AA1", "0.25 125 AA1 more"])
def test_a_line_of_a_festival_file_that_does_not_parse_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(LabelError, match=r"u\.lab:2: expected `end number phone`, found"):
        read_phones(_written(tmp_path, "u.lab", f"#\n{row}\n"))


def test_a_festival_file_without_the_end_of_its_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"u\.lab: has no line `#`"):
        read_phones(_written(tmp_path, "u.lab", "0.25 125 AA1\n"))


@pytest.mark.parametrize("row", ["u\tAA1:0.25", "u\t0.25:", "u\t0.25", "u 0.25:AA1"])
def test_a_line_of_the_table_that_does_not_parse_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(LabelError, match=r"phones\.tsv:3: expected `id<TAB>end:phone \.\.\.`, found '"):
        read_phones(_written(tmp_path, "phones.tsv", f"id\tphones\nt\t1:A\n{row}\n"))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("x.ctm", "u 1 0 0.25 a\nu 1 0.2 1.3 b\n", 2),
        ("u.TextGrid", SHORT.replace('0.25\n1.5\n"sil"', '0.1\n1.5\n"sil"'), 26),
    ],
)
def test_phones_that_overlap_are_refused(tmp_path: Path, name: str, text: str, line: int) -> None:
    with pytest.raises(LabelError, match=rf":{line}: '.*' starts at 0\.[12] s, before the end of the phone before"):
        read_phones(_written(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("x.ctm", "u 1 0.5 -0.25 a\n", 1),
        ("x.ctm", "u 1 -0.5 1 a\n", 1),
        ("x.ctm", "u 1 0 nan a\n", 1),
        ("u.lab", "#\n0.5 125 a\n0.4 125 b\n", 3),
        ("phones.tsv", "id\tphones\nu\t0.5:a 0.4:b\n", 2),
        ("u.TextGrid", SHORT.replace('0\n0.25\n"AA1"', '0.3\n0.25\n"AA1"'), 23),
    ],
)
def test_phones_that_run_backwards_are_refused(tmp_path: Path, name: str, text: str, line: int) -> None:
    with pytest.raises(LabelError, match=rf":{line}: '.*' lasts from .* s, expected an end not before its start"):
        read_phones(_written(tmp_path, name, text))


def test_an_overlap_by_rounding_is_given_to_the_first_phone(tmp_path: Path) -> None:
    path = _written(tmp_path, "a.ctm", "u 1 0 0.1004 a\nu 1 0.1 0.2 b\nu 1 0.3 0 c\n")
    assert read_phones(path) == {"u": [Interval(0, 0.1004, "a"), Interval(0.1004, pytest.approx(0.3), "b")]}


def test_a_folder_is_read_whole_and_named_by_its_files(tmp_path: Path) -> None:
    for name in ("84/84-1.TextGrid", "84/84-2.TextGrid", "90/90-1.textgrid"):
        _written(tmp_path, name, SHORT)
    _written(tmp_path, "84/README.txt", "not this")
    assert read_phones(tmp_path) == dict.fromkeys(["84-1", "84-2", "90-1"], PHONES)


def test_the_table_of_a_prepared_corpus_tells_what_its_label_files_do(tmp_path: Path) -> None:
    labels = tmp_path / "usr/share/festival/voices/russian/msu_ru_nsh_clunits/lab"
    _written(labels, "ru_1.lab", "#\n0.51200 125 pau\n0.60200 125 e\n123.45600 125 gg\n")
    _written(labels, "ru_2.lab", "#\n0.30000 125 pau\n")
    rows = [f"{key}\t{phones}" for key, phones in read_phone_labels(tmp_path).items()]
    table = _written(tmp_path, "phones.tsv", "\n".join(["id\tphones", *rows]) + "\n")
    assert read_phones(table) == read_phones(labels)


def test_files_that_share_a_name_are_named_with_their_folders(tmp_path: Path) -> None:
    for name in ("a/1.lab", "b/1.lab", "b/2.lab"):
        _written(tmp_path, name, FESTIVAL)
    assert set(read_phones(tmp_path)) == {"a-1", "b-1", "b-2"}


def test_an_utterance_in_two_files_is_refused(tmp_path: Path) -> None:
    _written(tmp_path, "a.ctm", CTM)
    _written(tmp_path, "b.ctm", CTM)
    with pytest.raises(LabelError, match=r"b\.ctm: u is aligned in an earlier file too"):
        read_phones(tmp_path)


def test_an_utterance_in_two_lines_of_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"p\.tsv:3: u is aligned in an earlier line too"):
        read_phones(_written(tmp_path, "p.tsv", TABLE + "u\t1:a\n"))


@pytest.mark.parametrize(("names", "found"), [([], "none"), (["a.ctm", "u.lab"], r"\.ctm and \.lab files")])
def test_a_folder_without_one_format_is_refused(tmp_path: Path, names: list[str], found: str) -> None:
    for name in names:
        _written(tmp_path, name, CTM)
    with pytest.raises(LabelError, match=rf"expected phone alignments of one kind .*, found {found}"):
        read_phones(tmp_path)


def test_missing_alignment_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"phones\.tsv: cannot read the phone alignments"):
        read_phones(tmp_path / "phones.tsv")
