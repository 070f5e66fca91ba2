"""Stages and the commands of models take audio, folders and tables where a manifest is expected."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.__main__ import main
from speechssl.asr.transcripts.matching import with_texts
from speechssl.audio.reading import AudioConfig
from speechssl.corpus.named import read_named
from speechssl.data.augment import AugmentConfig
from speechssl.data.manifest import read_manifest
from speechssl.errors import ManifestError
from speechssl.stages.reading_data import DataConfig, read_data


@pytest.fixture
def long(corpus, tmp_path) -> Path:
    """Give a FLAC file of all utterances of the corpus, and a text file of what is said in it."""
    manifest = read_manifest(corpus)
    pieces = [soundfile.read(manifest.audio_path(row), dtype="int16")[0] for row in manifest.utterances]
    soundfile.write(tmp_path / "long.flac", np.concatenate(pieces), 16_000)
    (tmp_path / "long.txt").write_text("\n".join(row.text or "" for row in manifest.utterances) + "\n")
    return tmp_path / "long.flac"


def test_a_recording_is_aligned_with_a_text_file(finetuned, corpus, long, tmp_path):
    out = tmp_path / "times.jsonl"
    assert main(["align", str(finetuned), str(long), "--text", str(long.with_suffix(".txt")), "-o", str(out)]) == 0
    (found,) = map(json.loads, out.read_text().splitlines())
    said = [word for row in read_manifest(corpus).utterances for word in (row.text or "").split()]
    assert (found["id"], [word["text"] for word in found["words"]]) == ("long", said)


def test_a_folder_is_transcribed(finetuned, corpus, tmp_path, capsys):
    assert main(["transcribe", str(finetuned), str(corpus.parent), "-o", str(tmp_path / "t.tsv")]) == 0
    assert len((tmp_path / "t.tsv").read_text().splitlines()) == 1 + len(read_manifest(corpus).utterances)


def test_data_manifests_may_be_audio_and_folders(corpus, long, capsys):
    assert [row.path for row in read_data(DataConfig(manifests=(long,))).utterances] == [str(long)]
    joined = read_data(DataConfig(manifests=(corpus.parent, long)))
    assert len(joined.utterances) == len(read_manifest(corpus).utterances) + 1
    assert all(joined.audio_path(row).is_file() for row in joined.utterances)
    assert "keeps them" in capsys.readouterr().err


def test_files_of_one_name_in_several_folders_have_ids_of_their_own(tmp_path, write_wav):
    for name in ("a/1.wav", "b/1.wav", "b/2.wav", "c/1.wav"):
        write_wav(tmp_path / name)
    named = (tmp_path / "a", tmp_path / "b", tmp_path / "c/1.wav")
    found = read_data(DataConfig(manifests=named)).utterances
    assert [(row.id, row.corpus) for row in found] == [
        ("a-1", str(named[0])),
        ("b-1", str(named[1])),
        ("b-2", str(named[1])),
        ("c-1", str(named[2])),
    ]


def test_noise_may_be_a_folder(corpus):
    augmenter = AugmentConfig(noise=(corpus.parent,)).augmenter(AudioConfig(), seed=0, read=read_named)
    assert augmenter is not None
    assert len(augmenter.noise) == len(read_manifest(corpus).utterances)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.txt", "long ago\n\nthere was\n", "long ago there was"),
        ("text", "other x\nlong ago\n", "ago"),
        ("text", "once there was\n", "once there was"),
        ("t.tsv", "id\ttext\nlong\tago\n", "ago"),
        ("t.txt", "id text\nlong ago\n", "ago"),
        ("t.trn", "once there (long)\n", "once there"),
        ("t.stm", "long 1 who 0 1 once there\n", "once there"),
    ],
)
def test_the_text_of_a_recording_is_a_file_or_its_row_of_a_table(long, tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    (row,) = with_texts(read_named(long), tmp_path / name).utterances
    assert row.text == expected


def test_texts_of_several_are_a_table_and_complete(corpus, tmp_path):
    manifest = read_manifest(corpus)
    (tmp_path / "text").write_text("".join(f"{row.id} other\n" for row in manifest.utterances))
    assert {row.text for row in with_texts(manifest, tmp_path / "text").utterances} == {"other"}
    (tmp_path / "text").write_text("u0000 one\nx two\n")
    with pytest.raises(ManifestError, match=r"text: has no text of 7 of 8 utterances: u0001, u0002, u0003, \.\.\."):
        with_texts(manifest, tmp_path / "text")
