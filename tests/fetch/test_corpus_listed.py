"""Published corpora listed where they lie: one manifest, the published splits as a column, nothing lost in silence."""

from pathlib import Path

import pytest

from speechssl.__main__ import main
from speechssl.corpus.fetch.published import PUBLISHED, list_published
from speechssl.data.manifest import read_manifest
from speechssl.errors import CorpusError


@pytest.fixture
def add_chapter(write_audio):
    """Give a function that writes a chapter of two recordings with their texts."""

    def add(subset: Path, speaker: int, chapter: int) -> None:
        folder = subset / str(speaker) / str(chapter)
        names = [f"{speaker}-{chapter}-{i:04}" for i in range(2)]
        for name in names:
            write_audio(folder / f"{name}.flac", seconds=0.2)
        lines = [f"{name} HE SAID {'NO ' * i}IT" for i, name in enumerate(names)]
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")

    return add


@pytest.fixture
def common_voice(tmp_path, write_audio) -> Path:
    """Write two clips of train, one of dev and of test, one that is validated, and one more of a speaker of dev."""
    folder = tmp_path / "cv/nl"
    tables = {"train": [("anna", 1), ("anna", 2)], "dev": [("bert", 3)], "test": [("cees", 4)]}
    tables["validated"] = [*tables["train"], ("dirk", 5), ("bert", 6)]
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        lines = ["client_id\tpath\tsentence\tlocale"]
        for speaker, number in rows:
            sentence = "Ja!" if number < 5 else "In 1989."
            lines.append(f"{speaker}\tcv_{number}.mp3\t{sentence}\tnl")
            write_audio(folder / f"clips/cv_{number}.mp3", seconds=0.5, rate=32_000)
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_librispeech_is_one_manifest_with_its_subsets_as_splits(add_chapter, tmp_path, capsys):
    add_chapter(tmp_path / "data/LibriSpeech/dev-clean", 84, 121123)
    add_chapter(tmp_path / "data/LibriSpeech/train-clean-100", 103, 1240)
    source, out = tmp_path / "data", tmp_path / "out.tsv"
    assert main(["manifest", "import", str(source), "-o", str(out), "--from", "librispeech"]) == 0
    assert f"paths are relative to {source}" in capsys.readouterr().out
    manifest = read_manifest(out, root=source)
    assert [(row.id, row.split, row.text) for row in manifest.utterances][1:3] == [
        ("84-121123-0001", "dev-clean", "he said no it"),
        ("103-1240-0000", "train-clean-100", "he said it"),
    ]
    row = manifest.utterances[2]
    assert row.path == "LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac"
    assert (row.speaker, row.language, row.num_samples) == ("103", "en", 3200)
    assert manifest.audio_path(row).is_file()


def test_the_smallest_set_of_libri_light_that_holds_an_utterance_is_its_split(add_chapter, tmp_path):
    root = tmp_path / "librispeech_finetuning"
    for number, part in enumerate(("1h/0", "1h/1", "9h")):
        add_chapter(root / part / "clean", number, 1)
    manifest, notes = list_published("libri-light", root)
    assert [row.split for row in manifest.utterances] == ["train-10min"] * 2 + ["train-1h"] * 2 + ["train-10h"] * 2
    assert notes == [
        "train-1h: 2 of its 4 utterances are listed under train-10min",
        "train-10h: 4 of its 6 utterances are listed under train-10min, train-1h",
    ]


def test_what_common_voice_leaves_out_is_said(common_voice):
    manifest, notes = list_published("common-voice", common_voice)
    assert {row.id: row.split for row in manifest.utterances} == {
        "cv_1": "train",
        "cv_2": "train",
        "cv_3": "dev",
        "cv_4": "test",
        "cv_5": "pool",
    }
    assert manifest.utterances[0].path == "clips/cv_1.mp3"
    assert notes[0] == "left out: 1, a speaker of dev or test: cv_6"
    assert any(note.startswith("without text: 1, ") and note.endswith(": cv_5") for note in notes)
    assert notes[-1] == "pool: 2 of its 3 utterances are listed under train"


@pytest.mark.parametrize("name", PUBLISHED)
def test_another_folder_is_refused_by_name(tmp_path, name):
    with pytest.raises(CorpusError, match=r"none: no such folder; name the one that holds"):
        list_published(name, tmp_path / "none")
    with pytest.raises(CorpusError, match=str(tmp_path)):
        list_published(name, tmp_path)


def test_options_that_say_nothing_of_a_corpus_are_refused(tmp_path, capsys):
    command = ["manifest", "import", str(tmp_path), "-o", str(tmp_path / "o.tsv"), "--from", "librispeech"]
    assert main([*command, "--columns", "path=wav"]) == 2
    assert "do not apply to librispeech" in capsys.readouterr().err.replace("\n", " ")
