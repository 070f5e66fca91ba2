"""The command line as its user runs it, in this process."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from speechssl.__main__ import main
from speechssl.data.manifest import read_manifest, write_manifest

STAGES = ("cluster", "finetune", "hubert", "pretrain", "sweep")


def test_without_arguments_the_commands_are_listed(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert all(name in printed.out + printed.err for name in (*STAGES, "corpus", "manifest", "transcribe", "score"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_mistyped_key_is_one_line_on_standard_error_and_status_2(stage, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sead: 3\n", encoding="utf-8")
    assert main([stage, str(recipe)]) == 2
    error = capsys.readouterr().err
    assert f"{recipe}: unknown key sead; did you mean seed?" in error
    assert "Traceback" not in error


def test_dry_run_prints_the_configuration_with_stars_and_trains_nothing(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"out: {tmp_path / 'out'}\ndata: {{manifests: [a.tsv]}}\n", encoding="utf-8")
    assert main(["pretrain", str(recipe), "train.steps=7", "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train.steps", "7", "*"] in lines
    assert ["train.accumulate", "1"] in lines
    assert not (tmp_path / "out").exists()


def test_a_folder_becomes_a_manifest_and_a_fairseq_one(write_wav, tmp_path, capsys):
    write_wav(tmp_path / "speech" / "a" / "one.wav", 16_000)
    write_wav(tmp_path / "speech" / "two.flac", 8_000)
    assert main(["manifest", "build", str(tmp_path / "speech"), "-o", str(tmp_path / "all.tsv")]) == 0
    manifest = read_manifest(tmp_path / "all.tsv", root=tmp_path / "speech")
    assert [row.id for row in manifest.utterances] == ["a-one", "two"]
    assert "2 utterances" in capsys.readouterr().out
    arguments = ["manifest", "export", str(tmp_path / "all.tsv"), str(tmp_path / "fairseq.tsv"), "--to", "fairseq"]
    assert main([*arguments, "--root", str(tmp_path / "speech")]) == 0
    expected = [str((tmp_path / "speech").resolve()), "a/one.wav\t16000", "two.flac\t8000"]
    assert (tmp_path / "fairseq.tsv").read_text(encoding="utf-8").splitlines() == expected


def test_bad_files_stop_the_manifest_or_are_listed(write_wav, tmp_path, capsys):
    write_wav(tmp_path / "speech" / "good.wav")
    (tmp_path / "speech" / "bad.wav").write_bytes(b"")
    arguments = ["manifest", "build", str(tmp_path / "speech"), "-o", str(tmp_path / "all.tsv")]
    assert main(arguments) == 2
    assert "bad.wav: the file is empty" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad"]) == 0
    printed = capsys.readouterr()
    assert "skipped:" in printed.err
    assert "1 utterances" in printed.out
    assert "1 files skipped" in printed.out


def test_scores_are_joined_by_id_and_written_as_json(make_utterances, tmp_path, capsys):
    rows = [replace(row, text=text) for row, text in zip(make_utterances([9, 9]), ["a b", "c"], strict=True)]
    write_manifest(tmp_path / "ref.tsv", rows)
    (tmp_path / "hyp.tsv").write_text("id\ttext\nu0001\tc\nu0000\ta x\n", encoding="utf-8")
    out = tmp_path / "score.json"
    assert main(["score", str(tmp_path / "ref.tsv"), str(tmp_path / "hyp.tsv"), "--out", str(out)]) == 0
    scores = json.loads(out.read_text(encoding="utf-8"))
    assert scores["wer"] == pytest.approx(1 / 3)
    assert scores["cer"] == pytest.approx(1 / 4)
    assert "33.33 %" in capsys.readouterr().out


def test_a_missing_hypothesis_is_named(make_utterances, tmp_path, capsys):
    rows = [replace(row, text="a") for row in make_utterances([9, 9])]
    write_manifest(tmp_path / "ref.tsv", rows)
    (tmp_path / "hyp.tsv").write_text("id\ttext\nu0001\ta\n", encoding="utf-8")
    assert main(["score", str(tmp_path / "ref.tsv"), str(tmp_path / "hyp.tsv")]) == 2
    assert "1 utterances have no hypothesis: u0000" in capsys.readouterr().err


def test_the_corpora_are_listed_with_their_licences(capsys):
    assert main(["corpus"]) == 0
    printed = capsys.readouterr().out
    assert "festvox-ru" in printed
    assert "BSD-2-Clause" in printed


def test_a_full_disk_is_one_line(make_utterances, tmp_path, capsys, monkeypatch):
    write_manifest(tmp_path / "in.tsv", make_utterances([16_000]))

    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "out.tsv"))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    assert main(["manifest", "export", str(tmp_path / "in.tsv"), str(tmp_path / "out.tsv"), "--to", "fairseq"]) == 2
    assert "No space left on device" in capsys.readouterr().err


INTERRUPTED_AT = """
import runpy, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == at_name:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
sys.argv = ["speechssl", "pretrain", "recipe.yaml"]
runpy.run_module("speechssl", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["typer", "pydantic", "torch", "speechssl.stages.pretrain"])
def test_an_interruption_while_modules_are_imported_is_one_line_and_status_130(module, tmp_path):
    (tmp_path / "recipe.yaml").write_text("out: o\ndata: {manifests: [gone.tsv]}\n")
    ended = subprocess.run(
        [sys.executable, "-c", f"at_name = {module!r}\n{INTERRUPTED_AT}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (130, "speechssl: interrupted\n")


def test_an_interruption_while_manifests_are_read_is_one_line_and_status_130(tmp_path, capsys, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"out: {tmp_path / 'out'}\nobjective: {{kind: contrastive}}\ndata: {{manifests: [a.tsv]}}\n")
    monkeypatch.setattr("speechssl.stages.reading_data.read_each", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal
    try:
        assert main(["pretrain", str(recipe)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "speechssl: interrupted\n"
