"""Corpora that users bring along: LibriSpeech, Libri-Light limited, Common Voice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.corpus.fetch import CORPORA, prepare_corpus
from speechssl.data.manifest import read_manifest
from speechssl.errors import CorpusError


@pytest.fixture
def add_chapter(write_audio: Callable[..., Path]) -> Callable[..., None]:
    def add(subset: Path, speaker: int, chapter: int, count: int = 2) -> None:
        folder = subset / str(speaker) / str(chapter)
        names = [f"{speaker}-{chapter}-{i:04}" for i in range(count)]
        for name in names:
            write_audio(folder / f"{name}.flac")
        lines = [f"{name} HE DIDN'T SAY IT {'AGAIN' * i}".rstrip() for i, name in enumerate(names)]
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")

    return add


@pytest.fixture
def common_voice(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    folder = tmp_path / "cv-corpus-17.0-2024-03-15/cs"
    tables = {
        "train": [("anna", "Ahoj!", 1)],
        "dev": [("bert", "Dobrý den.", 2)],
        "test": [("cyril", '"Kolik to stojí?"', 3)],
        "validated": [("anna", "Ahoj!", 1), ("bert", "Dobrý den.", 2), ("bert", "Navíc.", 4), ("dora", "Pět.", 5)],
        "other": [("emil", "Rok 1989.", 6)],
    }
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        lines = ["client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale"]
        for speaker, sentence, number in rows:
            lines.append(f"{speaker}\tcommon_voice_cs_{number}.mp3\tx\t{sentence}\t2\tcs")
            write_audio(folder / f"clips/common_voice_cs_{number}.mp3", seconds=0.5, rate=32_000)
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("inside", [False, True])
def test_librispeech_gives_one_manifest_per_subset_and_leaves_the_audio_in_place(
    add_chapter: Callable[..., None], tmp_path: Path, inside: bool
) -> None:
    root = tmp_path / "data/LibriSpeech"
    add_chapter(root / "dev-clean", 84, 121123)
    add_chapter(root / "train-clean-100", 103, 1240, count=3)
    add_chapter(root / "train-clean-100", 103, 1241, count=1)
    (root / "SPEAKERS.TXT").write_text("")
    out = tmp_path / "out"
    manifests = prepare_corpus(CORPORA["librispeech"], out, source=root if inside else root.parent)
    assert {name: len(read_manifest(path).utterances) for name, path in manifests.items()} == {
        "dev-clean": 2,
        "train-clean-100": 4,
    }
    manifest = read_manifest(manifests["dev-clean"])
    second = manifest.utterances[1]
    assert (second.id, second.text) == ("84-121123-0001", "he didn't say it again")
    assert (second.speaker, second.language, second.split) == ("84", "en", "dev-clean")
    assert manifest.audio_path(second).resolve() == root / "dev-clean/84/121123/84-121123-0001.flac"
    assert [path.name for path in out.rglob("*.flac")] == []
    assert prepare_corpus(CORPORA["librispeech"], out, source=root if inside else root.parent) == manifests


def test_a_librispeech_chapter_has_to_fit_its_transcript(add_chapter: Callable[..., None], tmp_path: Path) -> None:
    add_chapter(tmp_path / "LibriSpeech/test-other", 7, 8)
    (tmp_path / "LibriSpeech/test-other/7/8/7-8-0001.flac").unlink()
    with pytest.raises(CorpusError, match=r"7-8.trans.txt: its 2 lines .* 1 .flac .*: 7-8-0001 only on one side"):
        prepare_corpus(CORPORA["librispeech"], tmp_path / "out", source=tmp_path)
    (tmp_path / "LibriSpeech/test-other/7/8/7-8.trans.txt").unlink()
    with pytest.raises(CorpusError, match=r"7-8.trans.txt: not found"):
        prepare_corpus(CORPORA["librispeech"], tmp_path / "out", source=tmp_path)


def test_a_folder_without_librispeech_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"expected some of dev-clean, .*name their folder"):
        prepare_corpus(CORPORA["librispeech"], tmp_path / "out", source=tmp_path)


def test_libri_light_sets_contain_each_other(add_chapter: Callable[..., None], tmp_path: Path) -> None:
    root = tmp_path / "librispeech_finetuning"
    for part in range(6):
        add_chapter(root / f"1h/{part}/clean", 10 + part, 1, count=1)
        add_chapter(root / f"1h/{part}/other", 20 + part, 1, count=1)
    add_chapter(root / "9h/clean", 30, 1, count=4)
    add_chapter(root / "9h/other", 31, 1, count=5)
    (root / "phones").mkdir()
    manifests = prepare_corpus(CORPORA["libri-light"], tmp_path / "out", source=tmp_path)
    ids = {name: {row.id for row in read_manifest(path).utterances} for name, path in manifests.items()}
    assert {name: len(found) for name, found in ids.items()} == {"train-10min": 2, "train-1h": 12, "train-10h": 21}
    assert ids["train-10min"] == {"10-1-0000", "20-1-0000"}
    assert ids["train-10min"] < ids["train-1h"] < ids["train-10h"]


def test_an_incomplete_libri_light_names_what_is_missing(add_chapter: Callable[..., None], tmp_path: Path) -> None:
    add_chapter(tmp_path / "librispeech_finetuning/1h/0/clean", 1, 1)
    with pytest.raises(CorpusError, match="found no audio in 9h"):
        prepare_corpus(CORPORA["libri-light"], tmp_path / "out", source=tmp_path)


def test_common_voice_gives_its_splits_and_a_pool_without_their_speakers(common_voice: Path, tmp_path: Path) -> None:
    manifests = prepare_corpus(CORPORA["common-voice"], tmp_path / "out", source=common_voice)
    rows = {name: read_manifest(path).utterances for name, path in manifests.items()}
    assert {name: [row.text for row in found] for name, found in rows.items()} == {
        "train": ["ahoj"],
        "dev": ["dobrý den"],
        "test": ["kolik to stojí"],
        "pool": ["ahoj", "pět", None],
    }
    (test,) = rows["test"]
    assert (test.id, test.speaker, test.language) == ("common_voice_cs_3", "cyril", "cs")
    assert (test.sample_rate, test.path) == (32_000, "audio/clips/common_voice_cs_3.mp3")
    assert read_manifest(manifests["test"]).audio_path(test).is_file()


def test_common_voice_names_missing_tables_columns_and_clips(common_voice: Path, tmp_path: Path) -> None:
    (common_voice / "clips/common_voice_cs_5.mp3").unlink()
    with pytest.raises(CorpusError, match="1 of 5 listed clips are missing: common_voice_cs_5"):
        prepare_corpus(CORPORA["common-voice"], tmp_path / "out", source=common_voice)
    (common_voice / "dev.tsv").write_text("client_id\tpath\n")
    with pytest.raises(CorpusError, match=r"dev.tsv:1: no column sentence"):
        prepare_corpus(CORPORA["common-voice"], tmp_path / "out", source=common_voice)
    (common_voice / "dev.tsv").unlink()
    with pytest.raises(CorpusError, match=r"dev.tsv: not found; name a language's folder"):
        prepare_corpus(CORPORA["common-voice"], tmp_path / "out", source=common_voice)
