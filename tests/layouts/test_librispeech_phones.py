"""LibriSpeech with CPC's phones, and with TextGrids of the Montreal aligner."""

import pytest
from torchaudio.datasets import LIBRISPEECH

from speechssl.corpus.layouts.known_layouts import list_layout, write_labels
from speechssl.errors import CorpusError
from speechssl.units.phone_alignments import Interval, read_phones
from tests.layouts.trees import librispeech_phones

TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0 0.4 <exists> 2
"IntervalTier" "words" 0 0.4 1 0 0.4 "it"
"IntervalTier" "phones" 0 0.4 3 0 0.1 "" 0.1 0.2 "IH1" 0.2 0.4 "T"
"""


def test_phones_become_a_table_that_the_heads_read(tmp_path, write_wav):
    listed = list_layout("librispeech-phones", librispeech_phones(tmp_path, write_wav))
    theirs = LIBRISPEECH(tmp_path, "train-clean-100")
    expected = {theirs.get_metadata(i)[0]: str(theirs.get_metadata(i)[3]) for i in range(len(theirs))}
    assert {row.path.removeprefix("LibriSpeech/"): row.speaker for row in listed.manifest.utterances} == expected
    assert [row.split for row in listed.manifest.utterances].count("test") == 4
    assert listed.notes == ["2 speakers are in train and test, as published: 103, 1034"]
    (table,) = write_labels(tmp_path / "all.tsv", listed)
    assert table.name == "all.phones.tsv"
    assert read_phones(table)["103-12-0003"] == [
        Interval(0.0, 0.1, "0"),
        Interval(0.1, 0.2, "7"),
        Interval(0.2, 0.3, "14"),
        Interval(0.3, 0.4, "21"),
    ]


def test_text_grids_of_librispeech_are_read_by_name(tmp_path):
    folder = tmp_path / "LibriSpeech/dev-clean/84/121123"
    folder.mkdir(parents=True)
    for number in range(2):
        (folder / f"84-121123-000{number}.TextGrid").write_text(TEXTGRID)
    assert read_phones(tmp_path)["84-121123-0001"] == [Interval(0.1, 0.2, "IH1"), Interval(0.2, 0.4, "T")]


def test_what_is_left_out_is_counted(tmp_path, write_wav):
    root = librispeech_phones(tmp_path, write_wav)
    phones = (root / "converted_aligned_phones.txt").read_text().splitlines()
    (root / "converted_aligned_phones.txt").write_text("\n".join(phones[1:]) + "\n")
    names = (root / "train_split.txt").read_text().split()
    (root / "train_split.txt").write_text("\n".join([*names[:2], "19-198-0001"]) + "\n")
    assert list_layout("librispeech-phones", root).notes[:3] == [
        "1 left out, in the lists, without audio: 19-198-0001",
        "1 left out, in the lists, without phones: 103-12-0000",
        "2 left out, of LibriSpeech, not in the lists: 1034-12-0000, 1034-12-0002",
    ]


def test_a_missing_list_is_an_error(tmp_path, write_wav):
    root = librispeech_phones(tmp_path, write_wav)
    (root / "test_split.txt").unlink()
    with pytest.raises(CorpusError, match=r"expected one test_split.txt in it or in a folder of it, found none"):
        list_layout("librispeech-phones", root)


def test_a_broken_line_is_named(tmp_path, write_wav):
    root = librispeech_phones(tmp_path, write_wav)
    with (root / "converted_aligned_phones.txt").open("a") as file:
        file.write("103-12-0009 3 AH 4\n")
    with pytest.raises(CorpusError, match=r"phones.txt:9: expected `UTTERANCE NUMBER NUMBER"):
        list_layout("librispeech-phones", root)
