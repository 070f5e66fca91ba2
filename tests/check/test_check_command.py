"""`speechssl manifest check`: what it prints, writes and returns."""

import numpy as np
import pytest

from speechssl.__main__ import main
from speechssl.corpus.check.findings import FINDINGS
from speechssl.corpus.check.summary import COLUMNS
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.manifest import read_manifest
from speechssl.errors import ConfigError


@pytest.fixture
def manifests(tmp_path, make_manifest, speech):
    """Lay out a clean manifest, and one with a silent and a short file."""
    make_manifest(tmp_path, "clean.tsv", {"a.wav": speech(1.0), "b.wav": speech(1.0, seed=1)}, text={"a": "жаба"})
    make_manifest(tmp_path, "bad.tsv", {"c.wav": np.zeros(16_000), "d.wav": speech(0.05)})
    return tmp_path


def check(*arguments: object) -> int:
    return main(["manifest", "check", *map(str, arguments), "--jobs", "1"])


def test_a_clean_manifest_ends_with_status_0(manifests, capsys):
    assert check(manifests / "clean.tsv") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{manifests}/clean.tsv: 2 utterances, 0.00 h, 0 with findings",
        "0 errors, 0 warnings",
    ]


def test_warnings_alone_end_with_status_0(manifests):
    assert check(manifests / "clean.tsv", "--set", "max_duration_s=0.5") == 0


def test_errors_end_with_status_1_and_are_summed_up(manifests, capsys):
    assert check(manifests / "clean.tsv", manifests / "bad.tsv") == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{manifests}/bad.tsv: 2 utterances, 0.00 h, 2 with findings",
        "error    silent               1  no audible sound",
        "             c: its peak is -200 dB of full scale",
        "warning  short                1  too short to learn from",
        "             d: lasts 0.050 s, expected at least 0.1",
        "1 errors, 1 warnings",
    ]


def test_the_table_has_a_row_for_each_finding(manifests):
    assert check(manifests / "bad.tsv", "--table", manifests / "found.tsv") == 1
    assert [line.split("\t") for line in (manifests / "found.tsv").read_text().splitlines()] == [
        list(COLUMNS),
        ["c", "silent", "error", "-200", "its peak is -200 dB of full scale", f"{manifests}/bad.tsv"],
        ["d", "short", "warning", "0.05", "lasts 0.050 s, expected at least 0.1", f"{manifests}/bad.tsv"],
    ]


def test_a_cleaned_manifest_is_written_and_its_root_said(manifests, capsys):
    assert check(manifests / "bad.tsv", "--fix", manifests / "new/good.tsv") == 1
    assert [row.id for row in read_manifest(manifests / "new/good.tsv").utterances] == ["d"]
    out = capsys.readouterr().out
    assert f"{manifests}/new/good.tsv: 1 utterances kept, 1 removed, 0 corrected" in out
    assert f"paths are relative to {manifests}" in out


@pytest.mark.parametrize(("script", "status"), [("Cyrillic", 0), ("Latin", 1)])
def test_scripts_are_named_on_the_command_line(manifests, script, status):
    assert check(manifests / "clean.tsv", "--script", script) == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.tsv"], "none.tsv: cannot read the manifest"),
        (["clean.tsv", "--set", "cliped_share=0.1"], "unknown key cliped_share; did you mean clipped_share?"),
        (["clean.tsv", "--set", "clipped_share=much"], "clipped_share"),
        (["clean.tsv", "--set", "clipped_share=0"], "clipped_share must lie above 0 and be at most 1, found 0.0"),
        (["clean.tsv", "--script", "Klingon"], "no script is called 'Klingon'"),
        (["bad.tsv", "--fix", "bad.tsv"], "bad.tsv: would overwrite a manifest that was checked"),
    ],
)
def test_what_cannot_be_done_ends_with_status_2_and_says_why(manifests, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(manifests)
    assert check(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [
        {"min_duration_s": 5.0, "max_duration_s": 5.0},
        {"min_duration_s": -1.0},
        {"duplicate_bits": 1.5},
        {"file_limit_s": 0.0},
    ],
)
def test_thresholds_without_sense_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        CheckConfig(**values)


def test_every_finding_is_an_error_or_a_warning():
    assert {severity for severity, _ in FINDINGS.values()} == {"error", "warning"}
