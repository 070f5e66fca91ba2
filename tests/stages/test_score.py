"""From a manifest and a table to scores by group, by the command line: speechssl.stages.score."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.__main__ import main
from speechssl.asr.scoring.snr import estimate_snr_db
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.errors import ManifestError
from speechssl.stages.score import read_columns, read_hypotheses, references_of


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: Callable[..., Path]) -> Path:
    path = make_corpus(tmp_path, range(8_000, 48_000, 5_000))
    rows = [dataclasses.replace(row, speaker=f"s{i % 2}") for i, row in enumerate(read_manifest(path).utterances)]
    write_manifest(path, rows)
    return path


def write_hypotheses(corpus: Path, name: str, *, lose: int = 0) -> Path:
    rows = read_manifest(corpus).utterances
    texts = ["" if i < lose else row.text for i, row in enumerate(rows)]
    path = corpus.with_name(name)
    path.write_text("id\ttext\n" + "".join(f"{row.id}\t{text}\n" for row, text in zip(rows, texts, strict=True)))
    return path


def test_the_command_scores_groups_and_compares(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus.parent / "who.tsv").write_text("speaker\tsex\ns0\tf\ns1\tm\n")
    first, second = write_hypotheses(corpus, "one.tsv", lose=3), write_hypotheses(corpus, "two.tsv")
    out, table = corpus.with_name("score.json"), corpus.with_name("worst.tsv")
    options = ["--by", "sex", "--by", "duration", "--by", "snr", "--columns", str(corpus.parent / "who.tsv")]
    options += ["--samples", "100", "--out", str(out), "--utterances", str(table)]
    assert main(["score", str(corpus), str(first), str(second), *options]) == 0
    said = capsys.readouterr().out
    assert "by sex:" in said
    assert said.index("below 1 s") < said.index("from 1 to 2 s") < said.index("from 2 to 5 s")
    assert "WER of the second minus the first: -" in said
    found = json.loads(out.read_text())
    assert found["groups"]["sex"]["f"]["words"]["deletions"] > found["groups"]["sex"]["m"]["words"]["deletions"] > 0
    assert found["second_minus_first"]["wer"]["difference"] < 0
    assert table.read_text().splitlines()[1].split("\t")[1] == "1.0000"


def test_durations_and_loudness_fall_into_bands(corpus: Path) -> None:
    rows = references_of(read_manifest(corpus), ["duration", "speaker"])
    assert [row.groups["duration"] for row in rows] == ["below 1 s"] * 2 + ["from 1 to 2 s"] * 3 + ["from 2 to 5 s"] * 3
    assert [row.groups["speaker"] for row in rows[:3]] == ["s0", "s1", "s0"]


@pytest.mark.parametrize("snr_db", [0, 10, 20, 30])
def test_the_ratio_of_bursts_to_noise_is_found(snr_db: int) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(160_000, generator=generator)
    is_speech = (torch.arange(160_000) // 8_000) % 2 == 1
    speech = torch.randn(160_000, generator=generator) * is_speech * 10 ** (snr_db / 20)
    assert estimate_snr_db(speech + noise) == pytest.approx(snr_db, abs=2)


def test_silence_and_nothing_have_a_ratio_too() -> None:
    assert estimate_snr_db(torch.zeros(16_000)) == -10
    assert estimate_snr_db(torch.zeros(10)) == -10


def test_a_grouping_that_nobody_knows_is_refused(corpus: Path) -> None:
    with pytest.raises(
        ManifestError, match="no grouping 'accent'; take one of speaker, language, split, duration, snr"
    ):
        references_of(read_manifest(corpus), ["accent"])


def test_what_no_table_says_is_unknown(corpus: Path) -> None:
    (corpus.parent / "who.csv").write_text("id,accent\nu0001,north\n")
    rows = references_of(read_manifest(corpus), ["accent"], read_columns(corpus.parent / "who.csv"))
    assert [row.groups["accent"] for row in rows[:3]] == ["unknown", "north", "unknown"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("accent\nnorth\n", "expected a column `id` or `speaker` and others, found accent"),
        ("id\taccent\na\tb\na\tc\n", "a occurs twice"),
        ("id\taccent\na\n", "expected 2 columns"),
        ("id\na\n", "expected a column `id` or `speaker` and others, found id"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(ManifestError, match=said):
        read_columns(tmp_path / "t.tsv")


def test_sclites_form_is_read(tmp_path: Path) -> None:
    (tmp_path / "h.trn").write_text("one (well) two (a-1)\n\n(b-2)\n")
    assert read_hypotheses(tmp_path / "h.trn") == {"a-1": "one (well) two", "b-2": ""}
    (tmp_path / "h.trn").write_text("one two\n")
    with pytest.raises(ManifestError, match=r"h.trn:1: expected `text \(id\)`"):
        read_hypotheses(tmp_path / "h.trn")
    (tmp_path / "h.trn").write_text("one (a)\ntwo (a)\n")
    with pytest.raises(ManifestError, match=r"h.trn:2: a occurs twice"):
        read_hypotheses(tmp_path / "h.trn")


def test_unwritten_texts_are_named(corpus: Path) -> None:
    manifest = read_manifest(corpus)
    rows = tuple(dataclasses.replace(row, text=None) for row in manifest.utterances)
    with pytest.raises(ManifestError, match="8 utterances have no text: u0000, u0001, u0002"):
        references_of(dataclasses.replace(manifest, utterances=rows))


def test_snr_reads_audio_of_any_rate(tmp_path: Path, corpus: Path) -> None:
    random = np.random.default_rng(0)
    soundfile.write(corpus.parent / "u0000.wav", random.normal(0, 0.1, 8_000), 8_000)
    manifest = read_manifest(corpus)
    rows = tuple(dataclasses.replace(row, sample_rate=8_000) for row in manifest.utterances[:1])
    (found,) = references_of(dataclasses.replace(manifest, utterances=rows), ["snr"])
    assert found.groups["snr"] in ("below 0 dB", "from 0 to 10 dB")


@pytest.mark.parametrize("name", ["text", "hyp.txt", "decoded.tra"])
def test_hypotheses_may_be_lines_of_kaldi(tmp_path, name):
    (tmp_path / name).write_text("a-1 hello\u00a0there  you\n\nb\tgood day\nempty", encoding="utf-8")
    assert read_hypotheses(tmp_path / name) == {"a-1": "hello\u00a0there  you", "b": "good day", "empty": ""}
    (tmp_path / name).write_text("a x\na y\n")
    with pytest.raises(ManifestError, match=rf"{name}:2: a occurs twice"):
        read_hypotheses(tmp_path / name)
    (tmp_path / name).write_text("id\ttext\na-1\thello\n")
    assert read_hypotheses(tmp_path / name) == {"a-1": "hello"}


@pytest.mark.parametrize("name", ["m.json", "m.jsonl"])
def test_hypotheses_may_be_what_nemo_wrote(tmp_path, name):
    audio = {"audio_filepath": "calls/a.wav", "duration": 1.0, "text": "what was said"}
    rows = [
        {**audio, "pred_text": "what was heard"},
        {**audio, "id": "own", "pred_text": ""},
        {**audio, "offset": 2.5, "pred_text": "more"},
    ]
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    expected = {"calls-a": "what was heard", "own": "", "calls-a-00002500-00003500": "more"}
    assert read_hypotheses(tmp_path / name) == expected
    (tmp_path / name).write_text('{"pred_text": "x"}')
    with pytest.raises(ManifestError, match=rf"{name}:1: expected an object with an id or audio_filepath"):
        read_hypotheses(tmp_path / name)


def test_languages_are_read_and_unknown_codes_refused(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_manifest(corpus).utterances
    said = [dataclasses.replace(row, text="IŞIK ISIRDI", language="tur") for row in rows]
    heard = corpus.with_name("heard.tsv")
    heard.write_text("id\ttext\n" + "".join(f"{row.id}\tışık ısırdı\n" for row in rows), encoding="utf-8")
    plain = ["score", str(corpus), str(heard), "--samples", "10", "--normaliser", "plain"]
    write_manifest(corpus, said)
    assert main(plain) == 0
    assert "WER   0.00 %" in capsys.readouterr().out
    write_manifest(corpus, [dataclasses.replace(said[0], language="xx_XX"), *said[1:]])
    assert main(plain) == 2
    assert f"{corpus}: {rows[0].id}: column language: 'xx_XX' is not a language code" in capsys.readouterr().err
    assert main(plain[:-2]) == 0  # no rule of a language, nothing to refuse
    capsys.readouterr()
    write_manifest(corpus, [dataclasses.replace(row, language="Turkish") for row in said])
    assert main(plain) == 0
    told = capsys.readouterr().err
    assert told.count("'Turkish'") == 1
    assert f"'Turkish' of {len(rows)} utterances" in told


def test_texts_without_blanks_between_words_are_said_to_be_scored_by_cer(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_manifest(corpus).utterances
    out, page = corpus.with_name("score.json"), corpus.with_name("page.html")
    options = ["--samples", "10", "--out", str(out), "--html", str(page), "--audio-mb", "0"]
    assert main(["score", str(corpus), str(write_hypotheses(corpus, "one.tsv")), *options]) == 0
    assert json.loads(out.read_text())["notes"] == []
    assert "parts between spaces there; use CER" not in capsys.readouterr().err + page.read_text(encoding="utf-8")
    write_manifest(corpus, [dataclasses.replace(row, text="ผมไปตลาดครับ") for row in rows])
    assert main(["score", str(corpus), str(write_hypotheses(corpus, "one.tsv")), *options]) == 0
    told = capsys.readouterr()
    assert told.err.count("8 of 8 references (u0000, u0001, u0002) are in a script without spaces between words") == 1
    assert "without spaces" not in told.out
    assert json.loads(out.read_text())["notes"] == [told.err.strip()]
    assert page.read_text(encoding="utf-8").count("parts between spaces there; use CER") == 1


def written(folder: Path) -> tuple[Path, Path]:
    """Write references without audio, and hypotheses of other utterances."""
    (folder / "text").write_text("a one two\nb three\nc four\n")
    (folder / "h.trn").write_text("one too (a)\nthree (b)\nfive (d)\n")
    return folder / "text", folder / "h.trn"


def test_texts_on_both_sides_need_no_manifest_and_common_counts_what_is_left_out(tmp_path, capsys):
    said, heard = written(tmp_path)
    assert main(["score", str(said), str(heard)]) == 2
    assert "1 utterances have no hypothesis: c; score all that was transcribed" in capsys.readouterr().err
    out = tmp_path / "s.json"
    assert main(["score", str(said), str(heard), "--common", "--samples", "10", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "substitutions 1  deletions 0  insertions 0  of 3" in printed
    assert "left out, because not all files have them: 1 references: c\n" in printed
    assert "left out, because not all files have them: 1 hypotheses: d\n" in printed
    assert json.loads(out.read_text())["left_out"] == {"references": ["c"], "hypotheses": [["d"]]}


def test_two_systems_are_compared_on_what_all_have(tmp_path, capsys):
    said, heard = written(tmp_path)
    (tmp_path / "second.ctm").write_text("b 1 0 1 three\nc 1 0 1 four\n")
    arguments = ["score", str(said), str(heard), str(tmp_path / "second.ctm"), "--common", "--samples", "10"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "1 hypotheses: d" in printed.out
    assert "1 utterances have no words in the CTM, and count as empty: a" in printed.err


def test_references_without_text_are_left_out_in_common(tmp_path, capsys):
    (tmp_path / "r.tsv").write_text("id\ttext\na\tone\nb\t\n")
    (tmp_path / "h.tsv").write_text("id\ttext\na\tone\nb\ttwo\n")
    assert main(["score", str(tmp_path / "r.tsv"), str(tmp_path / "h.tsv"), "--common", "--samples", "10"]) == 0
    assert "1 references: b" in capsys.readouterr().out


def test_a_page_without_audio_says_that_it_has_no_sound(tmp_path, capsys):
    said, heard = written(tmp_path)
    page = tmp_path / "p.html"
    assert main(["score", str(said), str(heard), "--common", "--samples", "10", "--html", str(page)]) == 0
    assert f"{page}: no sound: {said} does not say where the audio is" in capsys.readouterr().out
    assert "no sound" in page.read_text()
    (tmp_path / "r.tsv").write_text("a\tnowhere/a.wav\tone\n")
    (tmp_path / "h.tsv").write_text("a\tone\n")
    arguments = ["score", str(tmp_path / "r.tsv"), str(tmp_path / "h.tsv"), "--samples", "10"]
    assert main([*arguments, "--html", str(page)]) == 0
    assert "nowhere/a.wav is missing, or no regular file" in capsys.readouterr().err
    assert main([*arguments, "--by", "snr"]) == 2


def test_a_table_with_paths_has_sound_and_durations(corpus, tmp_path, capsys):
    rows = read_manifest(corpus).utterances
    table = corpus.with_name("t.txt")
    table.write_text("".join(f"{row.path} {row.text}\n" for row in rows))
    heard = tmp_path / "h.tsv"
    heard.write_text("".join(f"{row.id}\t{row.text}\n" for row in rows))
    page = tmp_path / "p.html"
    arguments = ["score", str(table), str(heard), "--samples", "10", "--by", "duration", "--by", "snr"]
    assert main([*arguments, "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "WER   0.00 %" in printed
    assert "from 1 to 2 s" in printed
    assert f"{page}: audio of 8 utterances" in printed
