"""Command line: speechssl extract."""

import pytest

from speechssl.__main__ import main
from speechssl.features.feature_folder import FeatureFolder


@pytest.fixture
def manifest(tmp_path, make_corpus):
    return str(make_corpus(tmp_path / "corpus", [8000, 9000]))


def test_it_says_what_was_written(manifest, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["extract", "mfcc", manifest, "-o", str(out), "--cmn", "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 utterances, 102 frames, mfcc (39), float16, 0 left out\n"
    assert FeatureFolder(out).description.streams[0].settings["cmn"] is True


def test_means_are_counted_beside_the_frames(manifest, tmp_path, capsys):
    arguments = ["--pool", "mean", "--format", "safetensors"]
    assert main(["extract", "log_mel", manifest, "-o", str(tmp_path / "out"), *arguments]) == 0
    assert "2 utterances, 102 frames as 2 means, log_mel (80), float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "six"], "--layers six: expected numbers separated by commas, all or weighted"),
        (["--layers", "1.5"], "--layers 1.5: expected whole numbers, counted from 1"),
        (["--layers", "nan"], "--layers nan: expected whole numbers, counted from 1"),
        (["--layers", "3"], "mfcc has no layers"),
        (["--weights", "a"], "--weights a: expected numbers separated by commas"),
        (["--pool", "mean", "--segments", "labels.tsv"], "--pool mean and --segments exclude each other"),
    ],
)
def test_what_cannot_be_meant_is_refused(manifest, tmp_path, capsys, arguments, message):
    assert main(["extract", "mfcc", manifest, "-o", str(tmp_path / "out"), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
