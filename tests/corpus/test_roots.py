"""A manifest finds its audio from wherever it is written, and moves with it."""

import shutil
from pathlib import Path

import pytest

from speechssl.__main__ import main
from speechssl.data.manifest import read_manifest, root_from, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError


@pytest.fixture
def speech(tmp_path, write_wav) -> Path:
    """Write six files of two speakers, for the commands to list."""
    for i in range(6):
        write_wav(tmp_path / f"data/speech/s{i % 2}/{i}.wav", 16_000 + 1000 * i)
    return tmp_path / "data/speech"


def run(*arguments: object) -> None:
    assert main(["manifest", *map(str, arguments)]) == 0


def finds_all(path: Path) -> bool:
    listed = read_manifest(path)
    return all(listed.audio_path(row).is_file() for row in listed.utterances)


@pytest.mark.parametrize("form", ["tsv", "parquet"])
def test_every_command_that_writes_a_manifest_writes_one_that_finds_its_audio(speech, tmp_path, form, capsys):
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `parquet`")
    lists = tmp_path / "data/lists/deep"
    every = lists / f"all.{form}"
    run("build", speech, "-o", every)
    assert (
        f"paths are relative to {speech}, which its column `root` remembers as ../../speech" in capsys.readouterr().out
    )
    run("filter", every, "-o", tmp_path / f"data/long.{form}", "--min-s", "1.1")
    run("sample", every, "-o", lists / f"few.{form}", "--hours", "0.0005")
    run("convert", every, "-o", tmp_path / "data/other/all.tsv")
    run("segment", every, "-o", speech / f"cut.{form}", "--vad", "energy", "--jobs", "1")
    run("split", every, "-o", tmp_path / "data/splits", "--by", "id", "--shares", "test=0.5,train=0.5")
    run("check", every, "--fix", lists / "fixed.tsv")
    run("filter", every, "-o", lists / f"short.{form}", "--max-s", "1.05")
    run("merge", tmp_path / f"data/long.{form}", lists / f"short.{form}", "-o", tmp_path / f"data/m.{form}")
    run("export", every, tmp_path / "data/kaldi", "--to", "kaldi")
    run("import", tmp_path / "data/kaldi", "--from", "kaldi", "--root", speech, "-o", tmp_path / f"data/k.{form}")
    written = [
        path for path in tmp_path.rglob("*") if path.suffix in (".tsv", ".parquet") and "removed" not in path.name
    ]
    assert len(written) == 11
    assert all(map(finds_all, written))
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = [tmp_path / "elsewhere" / path.relative_to(tmp_path / "data") for path in written]
    assert all(map(finds_all, moved))
    run("check", *moved[:1])


def test_a_manifest_in_the_folder_of_its_audio_has_no_such_column(speech):
    run("build", speech, "-o", speech / "all.tsv")
    assert (speech / "all.tsv").read_text().startswith("id\tpath\tsamples\trate\tchannels\n")


def test_root_given_counts_whatever_the_table_remembers(speech, tmp_path):
    run("build", speech, "-o", tmp_path / "lists/all.tsv")
    shutil.copytree(speech, tmp_path / "copy")
    shutil.rmtree(speech)
    assert not finds_all(tmp_path / "lists/all.tsv")
    listed = read_manifest(tmp_path / "lists/all.tsv", root=tmp_path / "copy")
    assert listed.audio_path(listed.utterances[0]) == tmp_path / "copy/s0/0.wav"
    run("check", tmp_path / "lists/all.tsv", "--root", tmp_path / "copy")


def test_a_list_without_its_audio_belongs_where_it_is_put(speech, tmp_path, capsys):
    run("build", speech, "-o", speech / "all.tsv")
    shutil.move(speech / "all.tsv", tmp_path / "published.tsv")
    run("filter", tmp_path / "published.tsv", "-o", speech / "long.tsv", "--min-s", "1.1")
    assert f"paths are relative to {tmp_path}, where the audio is not found" in capsys.readouterr().out
    assert finds_all(speech / "long.tsv")


def test_where_only_the_file_system_is_shared_the_way_is_absolute(speech, tmp_path):
    run("build", speech, "-o", tmp_path / "lists/all.tsv")
    listed = read_manifest(tmp_path / "lists/all.tsv")
    assert root_from(Path("/nowhere/at/all"), listed) == str(speech)
    assert root_from(speech, listed) == ""
    assert root_from(tmp_path, Manifest(root=speech, utterances=[row_of("s3://bucket/a.wav")])) == ""


def test_a_link_to_the_folder_of_lists_leads_to_the_audio_all_the_same(speech, tmp_path):
    (tmp_path / "far/away/lists").mkdir(parents=True)
    (tmp_path / "data/lists").symlink_to(tmp_path / "far/away/lists")
    run("build", speech, "-o", tmp_path / "data/lists/all.tsv")
    assert finds_all(tmp_path / "data/lists/all.tsv")
    assert finds_all(tmp_path / "far/away/lists/all.tsv")


def row_of(path: str) -> Utterance:
    return Utterance(id=path, path=path, num_samples=1, sample_rate=16_000, channels=1)


def test_rows_of_several_roots_put_together_by_other_hands_are_found(tmp_path):
    header = "id\tpath\tsamples\trate\tchannels\troot\n"
    rows = "a\tx.wav\t1\t1\t1\t../one\nb\tx.wav\t1\t1\t1\t/two\nc\tx.wav\t1\t1\t1\t\nd\ts3://b/x.wav\t1\t1\t1\t../one\n"
    (tmp_path / "m.tsv").write_text(header + rows)
    listed = read_manifest(tmp_path / "m.tsv")
    assert listed.root == tmp_path
    assert [row.path for row in listed.utterances] == ["../one/x.wav", "/two/x.wav", "x.wav", "s3://b/x.wav"]
    under = read_manifest(tmp_path / "m.tsv", root=Path("/three"))
    assert {str(under.audio_path(row)) for row in under.utterances[:3]} == {"/three/x.wav"}


def test_a_parquet_manifest_has_one_root(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `parquet`")
    write_manifest(tmp_path / "m.parquet", [row_of("a.wav"), row_of("b.wav")], root="../speech")
    table = pa.parquet.read_table(tmp_path / "m.parquet")
    pa.parquet.write_table(table.set_column(table.num_columns - 1, "root", [["x", "y"]]), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"m\.parquet: 2 different roots, x, y; join the manifests with"):
        read_manifest(tmp_path / "m.parquet")
