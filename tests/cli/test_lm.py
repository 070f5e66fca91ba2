"""Command line of language models: speechssl.cli.lm_commands."""

import json

import pytest

from speechssl.__main__ import main

TEXT = "the cat sat\nthe dog sat\na cat ran\n"


def test_a_model_is_built_and_measured(tmp_path, capsys):
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "test.txt").write_text("The cat flew\n")
    model = tmp_path / "lm.arpa.gz"
    assert main(["lm", "build", str(tmp_path / "train.txt"), "-o", str(model), "--order", "2", "--prune", "0 1"]) == 0
    told = capsys.readouterr()
    assert "3 sentences, 9 words, 9 different ones" in told.out
    assert "9 1-grams, 2 2-grams" in told.out
    assert "order 2: too little text to estimate its discounts" in told.err
    report = json.loads((tmp_path / "lm.arpa.gz.json").read_text())
    assert (report["order"], report["ngrams"], report["unit"]) == (2, [9, 2], "words")
    assert report["orders"][1]["discounts_are"].startswith("fixed")
    assert main(["lm", "perplexity", str(model), str(tmp_path / "test.txt"), "--normaliser", "lower"]) == 0
    assert "1 sentences, 3 words, 1 of them unknown (33.33%)" in capsys.readouterr().out


def test_a_model_of_letters_knows_the_word_boundary(tmp_path, capsys):
    (tmp_path / "train.txt").write_text(TEXT)
    assert main(["lm", "build", str(tmp_path / "train.txt"), "-o", str(tmp_path / "lm.arpa"), "--letters"]) == 0
    assert "\t|\t" in (tmp_path / "lm.arpa").read_text()
    assert "34 letters, 15 different ones" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prune", "0 x"], 'expected numbers such as "0 0 1"'),
        (["--prune", "1"], "expected 0 for single words"),
        (["--normaliser", "upper"], "expected one of none, nfc, lower, plain"),
    ],
)
def test_options_that_make_no_model_are_refused_in_a_line(options, message, tmp_path, capsys):
    (tmp_path / "train.txt").write_text(TEXT)
    assert main(["lm", "build", str(tmp_path / "train.txt"), "-o", str(tmp_path / "lm.arpa"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lm.arpa").exists()
