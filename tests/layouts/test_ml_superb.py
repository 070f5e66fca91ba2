"""ML-SUPERB: languages, nested training sets and texts by the benchmark's rule."""

from collections import Counter

import pytest

from speechssl.corpus.layouts.known_layouts import list_layout
from speechssl.errors import CorpusError
from tests.layouts.trees import ml_superb


@pytest.mark.parametrize("below", ["", "eighth_version"])
def test_languages_and_nested_splits(tmp_path, write_wav, below):
    ml_superb(tmp_path / below, write_wav)
    listed = list_layout("ml-superb", tmp_path)
    rows = listed.manifest.utterances
    splits = ("train-10min", "train-1h", "dev", "test")
    expected = {(language, split): 2 for language in ("eng", "dan", "cmn") for split in splits}
    assert Counter((row.language, row.split) for row in rows) == expected
    row = next(row for row in rows if row.id == "mls_eng_000002")
    assert (row.path, row.split, row.text, row.speaker) == (
        "mls/eng/wav/mls_eng_000002.wav",
        "train-1h",
        "ITS WELLKNOWN NO 2",
        None,
    )
    assert listed.answers["fleurs_dan_000004"] == {"dataset": "fleurs", "original": "clip4.mp3", "few_shot": "yes"}
    assert listed.answers["fleurs_cmn_000004"]["few_shot"] == "no"
    assert not listed.notes


def test_what_is_left_out_is_counted(tmp_path, write_wav):
    root = ml_superb(tmp_path, write_wav)
    (root / "mls/eng/wav/mls_eng_000006.wav").unlink()
    with (root / "mls/eng/transcript_10min_test.txt").open("a") as file:
        file.write("mls_eng_000000 clip0.mp3 it is\n")
    with (root / "fleurs/cmn/transcript_10min_dev.txt").open("a") as file:
        file.write("fleurs_cmn_000007 clip7.mp3 ...\n")
    listed = list_layout("ml-superb", root)
    assert listed.notes == [
        "1 without text: fleurs_cmn_000007",
        "1 in test are listed under dev: fleurs_cmn_000007",
        "1 left out, in transcript_10min_test.txt, without audio: mls/eng/wav/mls_eng_000006.wav",
        "1 in test are listed under train-10min: mls_eng_000000",
    ]


def test_a_missing_list_is_an_error(tmp_path, write_wav):
    root = ml_superb(tmp_path, write_wav)
    (root / "fleurs/dan/transcript_10min_dev.txt").unlink()
    with pytest.raises(CorpusError, match=r"fleurs/dan/transcript_10min_dev.txt: not found"):
        list_layout("ml-superb", root)


def test_no_audio_at_all_is_an_error(tmp_path, write_wav):
    root = ml_superb(tmp_path, write_wav)
    for path in root.glob("*/*/wav"):
        path.rename(path.with_name("flac"))
    with pytest.raises(CorpusError, match="none of the recordings of its lists"):
        list_layout("ml-superb", root)
