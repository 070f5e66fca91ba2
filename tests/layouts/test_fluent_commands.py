"""Fluent Speech Commands: commands agree with torchaudio's."""

import pytest
from torchaudio.datasets import FluentSpeechCommands

from speechssl.corpus.layouts.known_layouts import list_layout
from speechssl.errors import CorpusError
from tests.layouts.trees import fluent_commands


def test_commands_are_those_of_torchaudio(tmp_path, write_wav):
    fluent_commands(tmp_path / "fluent_speech_commands_dataset", write_wav)
    listed = list_layout("fluent-speech-commands", tmp_path)
    for split, subset in (("train", "train"), ("dev", "valid"), ("test", "test")):
        theirs = FluentSpeechCommands(tmp_path, subset)
        expected = []
        for index in range(len(theirs)):
            path, _, name, speaker, _, *slots = theirs.get_metadata(index)
            expected.append((f"fluent_speech_commands_dataset/{path}", name, speaker, *slots))
        rows = [row for row in listed.manifest.utterances if row.split == split]
        ours = []
        for row in rows:
            label = listed.answers[row.id]
            place = f"fluent_speech_commands_dataset/{row.path}"
            ours.append((place, row.id, row.speaker, label["action"], label["object"], label["location"]))
        assert ours == expected
    assert rows[1].text == "turn up please"
    assert listed.answers[rows[2].id]["intent"] == "change-language none none"
    assert listed.notes == ["3 without text, digits in the text: 0000e-c0de, 1000e-c0de, 2000e-c0de"]


def test_what_is_left_out_is_counted(tmp_path, write_wav):
    root = fluent_commands(tmp_path, write_wav)
    (root / "wavs/speakers/spk11/1001e-c0de.wav").rename(root / "wavs/speakers/spk11/other.wav")
    notes = list_layout("fluent-speech-commands", root).notes
    assert "1 left out, in valid_data.csv, without audio: wavs/speakers/spk11/1001e-c0de.wav" in notes
    assert "1 left out, in none of the tables: wavs/speakers/spk11/other.wav" in notes


def test_a_missing_table_is_an_error(tmp_path, write_wav):
    root = fluent_commands(tmp_path, write_wav)
    (root / "data/valid_data.csv").unlink()
    with pytest.raises(CorpusError, match=r"valid_data.csv: not found, expected train_data.csv, "):
        list_layout("fluent-speech-commands", root)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("location", "place", r"test_data.csv:1: expected path,.* found no location"),
        (",heat,", ",,", r"test_data.csv:3: object is empty"),
    ],
)
def test_an_incomplete_table_is_an_error(tmp_path, write_wav, old, new, expected):
    root = fluent_commands(tmp_path, write_wav)
    table = root / "data/test_data.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(CorpusError, match=expected):
        list_layout("fluent-speech-commands", root)


def test_another_corpus_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="found no data and no wavs"):
        list_layout("fluent-speech-commands", tmp_path)
