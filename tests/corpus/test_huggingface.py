"""Hugging Face: `datasets` loads what we write, we read what it saves, and no name in it leaves the folder."""

import json
import sys
from types import ModuleType

import pytest

from speechssl.corpus.formats.exchange import export_manifest, import_manifest
from speechssl.corpus.formats.hf_datasets import read_saved_dataset
from speechssl.errors import ManifestError


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """Give the package, with its cache in a folder of the test."""
    found = pytest.importorskip("datasets", reason="its reader is what the files are for")
    monkeypatch.setattr(found.config, "HF_DATASETS_OFFLINE", True)
    return found


def test_datasets_loads_the_audio_folder(datasets, corpus, tmp_path, monkeypatch):
    for name in ("torchcodec", "torchcodec.encoders"):  # imported for arrays; a name of a file passes it by
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["torchcodec.encoders"], "AudioEncoder", None, raising=False)
    export_manifest(corpus, corpus.root, "audiofolder")
    loaded = datasets.load_dataset(
        "audiofolder", data_dir=str(corpus.root), cache_dir=str(tmp_path / "cache"), split="train"
    )
    rows = {row["id"]: row for row in loaded.cast_column("audio", datasets.Audio(decode=False))}
    assert set(rows) == {row.id for row in corpus.utterances}
    for row in corpus.utterances:
        found = rows[row.id]
        assert (found["text"], found["speaker"], found["language"]) == (row.text, row.speaker, row.language)
        assert found["audio"]["path"].endswith(row.path)


def test_datasets_loads_the_saved_dataset_with_the_audio_in_it(datasets, corpus, tmp_path):
    export_manifest(corpus, tmp_path / "out", "dataset")
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert isinstance(loaded.features["audio"], datasets.Audio)
    for row, found in zip(corpus.utterances, loaded.cast_column("audio", datasets.Audio(decode=False)), strict=True):
        assert found["id"] == row.id
        assert found["audio"]["bytes"] == corpus.audio_path(row).read_bytes()


@pytest.mark.parametrize("name", ["../x.wav", "/tmp/x.wav", "a/../../x.wav"])
@pytest.mark.parametrize("column", ["path", "id"])
def test_audio_is_not_unpacked_out_of_the_folder(datasets, tmp_path, sounds, column, name):
    content, harmless = (sounds / "a/one.wav").read_bytes(), "x" * len(name)  # `datasets` itself drops folders, and
    columns = {"audio": [{"bytes": content, "path": harmless if column == "path" else None}]}  # so the name is put
    table = datasets.Dataset.from_dict(columns | ({"id": [harmless]} if column == "id" else {}))  # in afterwards
    table.cast_column("audio", datasets.Audio()).save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    assert arrow.read_bytes().count(harmless.encode()) == 1
    arrow.write_bytes(arrow.read_bytes().replace(harmless.encode(), name.encode()))
    (tmp_path / "files").mkdir()
    with pytest.raises(ManifestError, match=r"saved, row 0: the file name .* leaves"):
        read_saved_dataset(tmp_path / "saved", tmp_path / "files", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "saved"]


def test_audio_is_not_unpacked_over_other_files_or_through_links(datasets, corpus, tmp_path):
    export_manifest(corpus, tmp_path / "out", "dataset")
    (tmp_path / "files").mkdir()
    first = f"{corpus.utterances[0].id}.wav"
    (tmp_path / "files" / first).symlink_to(tmp_path / "elsewhere.wav")
    with pytest.raises(ManifestError, match=r"wav is or lies behind a link"):
        read_saved_dataset(tmp_path / "out", tmp_path / "files", {})
    (tmp_path / "files" / first).unlink()
    (tmp_path / "files" / first).write_bytes(b"mine")
    with pytest.raises(ManifestError, match=r"wav exists with other bytes; name an empty folder"):
        read_saved_dataset(tmp_path / "out", tmp_path / "files", {})
    assert (tmp_path / "files" / first).read_bytes() == b"mine"


def test_a_folder_of_splits_and_one_of_no_dataset_are_named(datasets, corpus, tmp_path):
    export_manifest(corpus, tmp_path / "out", "dataset")
    both = datasets.DatasetDict({"dev": datasets.load_from_disk(str(tmp_path / "out"))})
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ManifestError, match="holds the splits dev; name the folder of one of them"):
        read_saved_dataset(tmp_path / "both", tmp_path, {})
    with pytest.raises(ManifestError, match="not a dataset saved to disk"):
        read_saved_dataset(corpus.root, tmp_path, {})


@pytest.mark.parametrize("column", ["text", "transcription", "sentence"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_texts_are_found_under_the_names_in_use(tmp_path, write_wav, column, kind):
    write_wav(tmp_path / "a.wav", 800)
    row = {"file_name": "a.wav", column: "hello"}
    text = json.dumps(row) if kind == "jsonl" else f"file_name,{column}\na.wav,hello"
    (tmp_path / f"metadata.{kind}").write_text(text + "\n", encoding="utf-8")
    assert import_manifest(tmp_path, "audiofolder")[0].utterances[0].text == "hello"


def test_audio_outside_of_the_folder_and_a_missing_table_are_named(corpus, tmp_path):
    with pytest.raises(ManifestError, match="an audio folder holds its audio, name one that does"):
        export_manifest(corpus, tmp_path / "elsewhere", "audiofolder")
    with pytest.raises(ManifestError, match=r"expected metadata\.jsonl or metadata\.csv"):
        import_manifest(corpus.root, "audiofolder")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_names_start_from_the_table_whatever_the_root(tmp_path, write_wav, kind):
    write_wav(tmp_path / "clips/a.wav", 800)
    text = '{"file_name": "clips/a.wav"}' if kind == "jsonl" else "file_name\nclips/a.wav"
    (tmp_path / f"metadata.{kind}").write_text(text + "\n", encoding="utf-8")
    for root, path in ((None, "clips/a.wav"), (tmp_path / "clips", "a.wav"), (tmp_path.parent, None)):
        found, _ = import_manifest(tmp_path, "audiofolder", root=root)
        assert found.utterances[0].path == (path or f"{tmp_path.name}/clips/a.wav")
