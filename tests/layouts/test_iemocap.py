"""IEMOCAP: turns and emotions agree with torchaudio's; the speaker is the one who speaks."""

from collections import Counter

import pytest
from torchaudio.datasets import IEMOCAP

from speechssl.corpus.layouts.known_layouts import list_layout
from speechssl.errors import CorpusError
from tests.layouts.trees import iemocap


def test_emotions_are_those_of_torchaudio(tmp_path, write_wav):
    root = iemocap(tmp_path / "IEMOCAP", write_wav)
    for path in root.rglob("._*"):
        path.unlink()  # torchaudio stops at these files of the archive
    listed = list_layout("iemocap", root)
    for kind in ("scripted", "improvised"):
        theirs = IEMOCAP(tmp_path, utterance_type=kind)
        expected = {theirs.get_metadata(i)[2]: theirs.get_metadata(i)[3] for i in range(len(theirs))}
        ours = {key: row["emotion"] for key, row in listed.answers.items() if row["act"] == kind}
        assert {key: emotion for key, emotion in ours.items() if emotion != "xxx"} == expected


def test_four_classes_and_five_folds(tmp_path, write_wav):
    listed = list_layout("iemocap", iemocap(tmp_path / "IEMOCAP_full_release", write_wav))
    assert Counter(row["four"] for row in listed.answers.values()) == {
        "neu": 10, "hap": 20, "ang": 10, "sad": 10, "": 10
    }  # fmt: skip
    assert Counter(row["fold"] for row in listed.answers.values()) == dict.fromkeys("12345", 12)
    assert listed.answers["Ses02F_impro01_F002"] == {
        "emotion": "exc",
        "four": "hap",
        "fold": "2",
        "act": "improvised",
        "valence": "2.5000",
        "activation": "3.0000",
        "dominance": "2.0000",
    }
    rows = {row.id: row for row in listed.manifest.utterances}
    assert len(rows) == 60
    assert rows["Ses02F_impro01_M001"].speaker == "Ses02M"
    assert rows["Ses02M_script01_1b_F000"].speaker == "Ses02F"
    assert len({row.speaker for row in rows.values()}) == 10
    assert rows["Ses02F_impro01_M001"].text == "excuse me"
    assert [note.split(":")[0] for note in listed.notes] == [
        "10 without text, digits in the text",
        "10 without one of the four emotions",
    ]


def test_turns_on_one_side_are_counted(tmp_path, write_wav):
    root = iemocap(tmp_path, write_wav)
    (root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav").unlink()
    write_wav(root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F099.wav", 4800)
    assert list_layout("iemocap", root).notes[:2] == [
        "1 left out, without an emotion in EmoEvaluation: Ses01F_impro01_F099",
        "1 left out, with an emotion, without audio: Ses01F_impro01_F000",
    ]


def test_a_missing_session_is_an_error(tmp_path, write_wav):
    root = iemocap(tmp_path / "full", write_wav)
    (root / "Session4").rename(tmp_path / "elsewhere")
    with pytest.raises(CorpusError, match=r"Session4/dialog/EmoEvaluation: expected DIALOGUE.txt"):
        list_layout("iemocap", root)


def test_an_empty_class_is_an_error(tmp_path, write_wav):
    root = iemocap(tmp_path, write_wav)
    for path in root.glob("*/dialog/EmoEvaluation/Ses*.txt"):
        path.write_text(path.read_text().replace("\tsad\t", "\tfru\t"))
    with pytest.raises(CorpusError, match="no turn has the emotion sad"):
        list_layout("iemocap", root)


def test_a_broken_line_is_named(tmp_path, write_wav):
    root = iemocap(tmp_path, write_wav)
    path = root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    path.write_text(path.read_text() + "[1.0 - 2.0] Ses01F_impro01_F000 neu\n")
    with pytest.raises(CorpusError, match=r"Ses01F_impro01.txt:27: expected `\[START - END\] TURN EMOTION"):
        list_layout("iemocap", root)
