"""The manifest commands: each does its work from files to files, and says what it did."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.__main__ import main
from speechssl.data.manifest import read_manifest, write_manifest


@pytest.fixture
def corpus(make_utterances, tmp_path) -> Path:
    """List 400 utterances of 40 speakers and two languages."""
    rows = [
        replace(row, speaker=f"s{i % 40}", language="ru" if i % 4 else "nl", text="a" if i % 2 else None)
        for i, row in enumerate(make_utterances([16_000 * (2 + i % 5) for i in range(400)]))
    ]
    write_manifest(tmp_path / "all.tsv", rows)
    return tmp_path / "all.tsv"


def listed(path: Path) -> int:
    return len(read_manifest(path).utterances)


@pytest.mark.parametrize("sizes", [["--shares", "test=0.2,train=0.8"], ["--hours", "test=0.05,train=rest"]])
def test_split_writes_a_manifest_for_each_split(corpus, tmp_path, capsys, sizes):
    assert main(["manifest", "split", str(corpus), "-o", str(tmp_path / "splits"), *sizes]) == 0
    assert listed(tmp_path / "splits/test.tsv") + listed(tmp_path / "splits/train.tsv") == 400
    printed = capsys.readouterr().out
    assert f"splits/test.tsv: {listed(tmp_path / 'splits/test.tsv')} utterances" in printed
    assert f"paths are relative to {tmp_path}" in printed


@pytest.mark.parametrize(
    "sizes",
    [[], ["--shares", "a=1", "--hours", "a=rest"], ["--hours", "a=1,b=2"], ["--shares", "a"], ["--shares", "a=x"]],
)
def test_sizes_that_say_nothing_are_refused(corpus, tmp_path, sizes):
    assert main(["manifest", "split", str(corpus), "-o", str(tmp_path / "splits"), *sizes]) == 2
    assert not (tmp_path / "splits").exists()


def test_convert_turns_one_form_into_the_other_and_back(corpus, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="the extra `parquet`")
    assert main(["manifest", "convert", str(corpus), "-o", str(tmp_path / "all.parquet")]) == 0
    assert f"{tmp_path / 'all.parquet'}: 400 utterances, 0.44 h" in capsys.readouterr().out
    assert main(["manifest", "convert", str(tmp_path / "all.parquet"), "-o", str(tmp_path / "again.tsv")]) == 0
    assert (tmp_path / "again.tsv").read_bytes() == corpus.read_bytes()
    assert main(["manifest", "stats", str(tmp_path / "all.parquet")]) == 0


def test_merge_filter_and_sample_make_manifests(corpus, tmp_path, capsys):
    out = tmp_path / "out.tsv"
    assert main(["manifest", "filter", str(corpus), "-o", str(out), "--language", "nl", "--max-s", "4"]) == 0
    assert "left out: 180 another language, or none\nleft out: 160 longer than 4 s\n" in capsys.readouterr().out
    assert listed(out) == 60
    assert main(["manifest", "filter", str(corpus), "-o", str(tmp_path / "rest.tsv"), "--not-ids", str(out)]) == 0
    assert listed(tmp_path / "rest.tsv") == 340
    assert main(["manifest", "merge", str(out), str(tmp_path / "rest.tsv"), "-o", str(tmp_path / "again.tsv")]) == 0
    assert listed(tmp_path / "again.tsv") == 400
    assert main(["manifest", "merge", str(out), str(out), "-o", str(tmp_path / "twice.tsv")]) == 2
    assert "tell the ids apart with --prefix" in capsys.readouterr().err
    moved = ["--audio", "/data/a", "--audio", "/data/b", "--prefix", "a", "--prefix", "b"]
    assert main(["manifest", "merge", str(out), str(corpus), "-o", str(tmp_path / "moved.tsv"), *moved]) == 0
    assert {row.path.split("/")[0] for row in read_manifest(tmp_path / "moved.tsv").utterances} == {"a", "b"}
    assert main(["manifest", "merge", str(out), str(corpus), "-o", str(tmp_path / "x.tsv"), *moved[:2]]) == 2
    arguments = ["manifest", "sample", str(corpus), "-o", str(out), "--hours", "0.1", "--alpha", "0"]
    assert main(arguments) == 0
    assert "nl  0.05 h" in capsys.readouterr().out


def test_stats_prints_writes_and_draws(corpus, tmp_path, capsys):
    arguments = ["manifest", "stats", str(corpus), "-o", str(tmp_path / "s.json"), "--png", str(tmp_path / "s.png")]
    assert main(arguments) == 0
    assert "language    2: ru 0.33 h, nl 0.11 h" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["utterances"] == 400
    assert (tmp_path / "s.png").is_file()


def test_import_and_export_go_there_and_back_and_say_what_is_lost(make_corpus, tmp_path, capsys):
    ours = make_corpus(tmp_path / "speech", [8000, 9000])
    assert main(["manifest", "export", str(ours), str(tmp_path / "kaldi"), "--to", "kaldi"]) == 0
    arguments = ["manifest", "import", str(tmp_path / "kaldi"), "-o", str(tmp_path / "speech/again.tsv")]
    assert main([*arguments, "--from", "kaldi"]) == 2
    assert "leaves the root" in capsys.readouterr().err
    assert main([*arguments, "--from", "kaldi", "--root", str(tmp_path / "speech")]) == 0
    assert read_manifest(tmp_path / "speech/again.tsv") == read_manifest(ours)
    table = str(tmp_path / "t.csv")
    assert main(["manifest", "export", str(ours), table, "--to", "table", "--columns", "path=wav"]) == 0
    arguments = ["manifest", "import", table, "-o", str(tmp_path / "x.tsv"), "--from", "table"]
    assert main([*arguments, "--root", str(tmp_path / "speech"), "--columns", "path=wav,text=said"]) == 2
    assert "no column said" in capsys.readouterr().err
    assert main([*arguments, "--root", str(tmp_path / "speech"), "--columns", "path=wav,id=text"]) == 0
    assert "id from text, path from wav, samples, rate, channels; not taken: id" in capsys.readouterr().err
    assert main(["manifest", "export", str(ours), table, "--to", "excel"]) == 2
