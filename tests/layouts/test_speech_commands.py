"""Speech Commands: the words agree with torchaudio's; twelve classes, silence and the separate test set."""

from collections import Counter
from pathlib import Path

import pytest
from torchaudio.datasets import SPEECHCOMMANDS

from speechssl.corpus.layouts.known_layouts import list_layout
from speechssl.errors import CorpusError
from tests.layouts.trees import WORDS, speech_commands


@pytest.mark.parametrize("version", ["v0.01", "v0.02"])
def test_words_are_those_of_torchaudio(tmp_path, write_wav, version):
    speech_commands(tmp_path / "SpeechCommands", write_wav, version=version, test_set=False)
    listed = list_layout("speech-commands", tmp_path)
    for split, subset in (("train", "training"), ("dev", "validation"), ("test", "testing")):
        theirs = SPEECHCOMMANDS(tmp_path, url=f"speech_commands_{version}", subset=subset)
        expected = {Path(theirs.get_metadata(i)[0]).name + theirs.get_metadata(i)[2] for i in range(len(theirs))}
        rows = [row for row in listed.manifest.utterances if row.split == split and row.file_samples is None]
        assert {Path(row.path).name + listed.answers[row.id]["keyword"] for row in rows} == expected
        assert {row.speaker for row in rows} == {theirs.get_metadata(i)[3] for i in range(len(theirs))}
        assert {row.language for row in rows} == {"en"}


def test_twelve_classes_have_unknown_words_and_silence(tmp_path, write_wav):
    listed = list_layout("speech-commands", speech_commands(tmp_path, write_wav))
    train = Counter(listed.answers[row.id]["twelve"] for row in listed.manifest.utterances if row.split == "train")
    assert train == {**dict.fromkeys(WORDS[:10], 4), "_unknown_": 8, "_silence_": 4}
    tested = Counter(
        listed.answers[row.id]["twelve"] for row in listed.manifest.utterances if row.split == "test-twelve"
    )
    assert tested == dict.fromkeys((*WORDS[:10], "_unknown_", "_silence_"), 1)
    assert listed.manifest.root == tmp_path


def test_silence_is_whole_seconds_of_noise_in_one_split_each(tmp_path, write_wav):
    root = speech_commands(tmp_path, write_wav, test_set=False)
    write_wav(root / "speech_commands_v0.01/_background_noise_/white_noise.wav", 20 * 16_000 + 8000)
    listed = list_layout("speech-commands", root)
    rows = [row for row in listed.manifest.utterances if "white_noise" in row.id]
    assert [row.split for row in rows] == ["train"] * 16 + ["dev"] * 2 + ["test"] * 2
    assert [(row.start, row.num_samples) for row in rows] == [(16_000 * i, 16_000) for i in range(20)]
    assert listed.notes == [
        "2 recordings of noise lose less than a second at their end: running_tap.wav, white_noise.wav"
    ]


def test_the_folder_of_the_words_finds_the_test_set_beside_it(tmp_path, write_wav):
    root = speech_commands(tmp_path, write_wav)
    one = list_layout("speech-commands", root / "speech_commands_v0.01")
    other = list_layout("speech-commands", root)
    assert one.manifest.utterances == other.manifest.utterances


def test_what_is_left_out_is_counted(tmp_path, write_wav):
    root = speech_commands(tmp_path, write_wav, test_set=False)
    words = root / "speech_commands_v0.01"
    (words / "go/00000005_nohash_1.wav").unlink()
    write_wav(words / "go/other.wav", 16_000)
    (words / "stop").rename(tmp_path / "gone")
    (words / "zero").mkdir()
    notes = list_layout("speech-commands", root).notes
    assert notes[:4] == [
        "1 left out, not named SPEAKER_nohash_NUMBER.wav: go/other.wav",
        "1 left out, a word without recordings: zero",
        "3 left out, in the lists, without audio: go/00000005_nohash_1.wav, stop/00000004_nohash_0.wav, "
        "stop/00000005_nohash_1.wav",
        "1 of the ten words have no recordings: stop",
    ]


def test_two_versions_have_to_be_told_apart(tmp_path, write_wav):
    for version in ("v0.01", "v0.02"):
        speech_commands(tmp_path, write_wav, version=version)
    with pytest.raises(CorpusError, match=r"speech_commands_v0.01 and speech_commands_v0.02 hold"):
        list_layout("speech-commands", tmp_path)
    listed = list_layout("speech-commands", tmp_path / "speech_commands_v0.02")
    assert {row.path.split("/")[0] for row in listed.manifest.utterances} == {
        "speech_commands_v0.02",
        "speech_commands_test_set_v0.02",
    }


def test_a_missing_list_is_an_error(tmp_path, write_wav):
    root = speech_commands(tmp_path, write_wav)
    (root / "speech_commands_v0.01/testing_list.txt").unlink()
    with pytest.raises(CorpusError, match=r"found no testing_list.txt"):
        list_layout("speech-commands", root / "speech_commands_v0.01")


def test_lists_of_other_data_are_an_error(tmp_path, write_wav):
    root = speech_commands(tmp_path, write_wav)
    for name in ("validation_list.txt", "testing_list.txt"):
        (root / "speech_commands_v0.01" / name).write_text("tree/0000_nohash_0.wav\n")
    with pytest.raises(CorpusError, match="its lists name 1 recordings, tree/"):
        list_layout("speech-commands", root)
