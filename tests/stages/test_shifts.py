"""Models under shifts: the command, its report and curves, what is repeated, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.__main__ import main
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.features.feature_folder import FeatureFolder
from speechssl.stages import shift_systems


@pytest.fixture
def spoken(corpus, tmp_path) -> Path:
    """Give the corpus with two speakers of 12 utterances each."""
    rows = read_manifest(corpus).utterances
    many = [
        dataclasses.replace(row, id=f"{row.id}-{copy}", path=str(corpus.parent / row.path), speaker="ab"[copy % 2])
        for copy in range(4)
        for row in rows[:6]
    ]
    folder = tmp_path / "spoken"
    for row in rows[:6]:
        folder.mkdir(exist_ok=True)
        shutil.copy(corpus.parent / row.path, folder / row.path)
    write_manifest(folder / "test.tsv", [dataclasses.replace(row, path=Path(row.path).name) for row in many])
    return folder / "test.tsv"


def shift(model: Path, manifest: Path, out: Path, *options: str) -> int:
    return main(["shift", str(model), str(manifest), "-o", str(out), "--samples", "50", *options])


def test_conditions_are_scored_compared_and_drawn(finetuned, spoken, tmp_path, capsys):
    out = tmp_path / "out"
    assert shift(finetuned, spoken, out, "--shifts", "noise:10,noise:0,band:2000,speed:0.9", "--by", "speaker") == 0
    said = capsys.readouterr().out
    assert said == (out / "shift.md").read_text()
    assert "24 utterances, the same under all conditions." in said
    assert said.count("\n| noise:") == 2
    assert "- Worst condition by CER: **" in said
    assert "- By speaker, as recorded: worst **" in said
    assert (out / "shift.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "shift.json").read_text())
    ((name, conditions),) = found["conditions"].items()
    assert [each["condition"] for each in conditions] == [
        "as recorded",
        "noise:10",
        "noise:0",
        "band:2000",
        "speed:0.9",
    ]
    clean, noisy = (each["scores"]["CER"] for each in conditions[:2])
    assert (clean["change"], clean["change_interval"]) == (0, {"low": 0, "high": 0})
    assert noisy["change"] == pytest.approx(noisy["score"] - clean["score"])
    assert {each["name"]: each["items"] for each in clean["groups"]["speaker"]["groups"]} == {"a": 12, "b": 12}
    assert (out / name / "noise:0.json").exists()
    transcripts = tmp_path / "clean.tsv"
    assert main(["transcribe", str(finetuned), str(spoken), "-o", str(transcripts)]) == 0
    assert main(["score", str(spoken), str(transcripts), "--out", str(tmp_path / "score.json"), "--samples", "50"]) == 0
    assert json.loads((tmp_path / "score.json").read_text())["cer"] == clean["score"]


def test_finished_conditions_are_not_repeated(finetuned, spoken, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert shift(finetuned, spoken, out, "--shifts", "noise:10") == 0
    first = (out / "shift.md").read_text()
    shutil.rmtree(out / "shift.md", ignore_errors=True)
    with monkeypatch.context() as patched:
        patched.setattr(shift_systems, "transcribe_by", None)  # nothing is transcribed
        assert shift(finetuned, spoken, out, "--shifts", "noise:10") == 0
    assert (out / "shift.md").read_text() == first
    capsys.readouterr()
    assert shift(finetuned, spoken, out, "--shifts", "noise:10,gain:-6") == 0
    assert [line.split(": ")[-1] for line in capsys.readouterr().err.splitlines()][-1] == "gain:-6"
    assert shift(finetuned, spoken, out, "--shifts", "noise:10", "--seed", "1") == 2
    assert "noise:10.json: was computed with another shift; name another folder" in capsys.readouterr().err
    rows = read_manifest(spoken).utterances
    write_manifest(spoken, rows[:20])
    assert shift(finetuned, spoken, out, "--shifts", "noise:10") == 2
    assert "was computed with another audio" in capsys.readouterr().err


def test_models_are_compared_on_what_all_answered(finetuned, spoken, tmp_path, capsys):
    other = tmp_path / "elsewhere" / "run"
    shutil.copytree(finetuned, other)
    rows = list(read_manifest(spoken).utterances)
    soundfile.write(spoken.with_name("silent.wav"), np.zeros(8000, np.float32), 16_000)
    rows[3] = dataclasses.replace(rows[3], path="silent.wav", num_samples=8000)
    write_manifest(spoken, rows)
    both = [str(finetuned), str(other), str(spoken), "-o", str(tmp_path / "out"), "--shifts", "noise:10"]
    assert main(["shift", *both]) == 2
    assert "silent" in capsys.readouterr().err
    assert main(["shift", *both, "--skip-bad", "--samples", "50"]) == 0
    said = capsys.readouterr()
    assert "left out, not answered under all conditions: 1 utterances: u0003-0" in said.err
    assert "Left out, as not answered under all conditions: 1: u0003-0." in said.out
    found = json.loads((tmp_path / "out/shift.json").read_text())
    assert len(found["conditions"]) == 2
    assert found["utterances"] == 23
    assert "silent" in found["skipped"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shifts", "fog:3"], "shift 'fog:3': expected one of noise:SNR_dB"),
        (["--shifts", "noise:1000"], "from -50 to 100 dB SNR"),
        (["--shifts", "noise:10,noise:10.0"], "noise:10 is named twice"),
        (["--shifts", " , "], "there is no condition to compare"),
        (["--shifts", "noise:10:absent.tsv"], "absent.tsv"),
        (["--shifts", "noise:10", "--by", "sex"], "no grouping 'sex'"),
        (["--shifts", "noise:10", "--by", "language"], "the column language is empty for all 24 utterances"),
    ],
)
def test_bad_input_is_one_line(finetuned, spoken, tmp_path, capsys, options, message):
    assert shift(finetuned, spoken, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_groups_from_a_table_may_miss_utterances(finetuned, spoken, tmp_path, capsys):
    table = tmp_path / "who.tsv"
    rows = read_manifest(spoken).utterances
    table.write_text(
        "id\tsex\n" + "".join(f"{row.id}\t{'fm'[i % 2] if i > 3 else ''}\n" for i, row in enumerate(rows[:-1]))
    )
    options = ["--shifts", "gain:-6", "--by", "sex", "--columns", str(table), "--fewest", "5"]
    assert shift(finetuned, spoken, tmp_path / "out", *options) == 0
    assert "- By sex: not ranked, as they have no group: 5 items" in capsys.readouterr().out


def test_transcripts_say_under_what_they_were_made(finetuned, corpus, tmp_path, capsys):
    for name in ("x.tsv", "x.jsonl", "x.ctm"):
        assert (
            main(["transcribe", str(finetuned), str(corpus), "-o", str(tmp_path / name), "--shift", "noise:0:babble"])
            == 0
        )
        assert "noise:0:babble: noise shorter than the speech repeats: " in capsys.readouterr().err
        assert main(["score", str(corpus), str(tmp_path / name), "--samples", "10", "--common"]) == 0
    assert (tmp_path / "x.tsv").read_text().startswith("id\ttext\tshift\n")
    assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])["shift"] == "noise:0:babble"
    assert (tmp_path / "x.ctm").read_text().startswith(";; shift noise:0:babble\n")
    capsys.readouterr()
    assert main(["transcribe", str(finetuned), "-", "-o", str(tmp_path / "y.tsv"), "--shift", "noise:0"]) == 2
    assert "--shift: samples from stdin" in capsys.readouterr().err


def test_features_are_extracted_under_a_shift_and_say_so(corpus, tmp_path, capsys):
    for name, options in {"plain": [], "loud": ["--shift", "gain:6"]}.items():
        assert main(["extract", "log_mel", str(corpus), "-o", str(tmp_path / name), *options]) == 0
    plain, loud = (FeatureFolder(tmp_path / name) for name in ("plain", "loud"))
    raised = [after - before for (_, before), (_, after) in zip(plain.read(), loud.read(), strict=True)]
    assert np.concatenate(raised).mean() == pytest.approx(0.6 * np.log(10), abs=0.01)
    assert loud.description.manifest["shift"] == "gain:6"
    assert "shift" not in plain.description.manifest
    capsys.readouterr()
    assert main(["extract", "log_mel", str(corpus), "-o", str(tmp_path / "loud"), "--shift", "gain:3"]) == 2
    assert "data.shift was 'gain:6', is 'gain:3'" in capsys.readouterr().err
    recipe = tmp_path / "units.yaml"
    recipe.write_text(
        f"out: {tmp_path / 'units'}\nfeatures: {tmp_path / 'plain'}\nclusters: 3\n"
        "data: {manifests: [], shift: 'gain:6'}\n"
    )
    assert main(["cluster", str(recipe)]) == 2
    assert "holds features already, in which no audio can be shifted" in capsys.readouterr().err


def test_score_prints_the_gap_between_groups(spoken, tmp_path, capsys):
    rows = read_manifest(spoken).utterances
    texts = "".join(f"{row.id}\t{row.text if row.speaker == 'a' else 'ten'}\n" for row in rows)
    (tmp_path / "x.tsv").write_text("id\ttext\n" + texts)
    options = ["--by", "speaker", "--samples", "200", "--out", str(tmp_path / "x.json")]
    assert main(["score", str(spoken), str(tmp_path / "x.tsv"), *options]) == 0
    said = capsys.readouterr().out
    assert "gaps by speaker:\n  CER: worst b, best a, gap +" in said
    gaps = json.loads((tmp_path / "x.json").read_text())["gaps"]["speaker"]
    assert gaps["wer"]["gap"]["p_value"] == pytest.approx(1 / 201)
    assert main(["score", str(spoken), str(tmp_path / "x.tsv"), *options, "--blocks", "speaker"]) == 0
    assert "[no interval]; equal groups are not tested, as each is one block" in capsys.readouterr().out


@pytest.fixture
def head(spoken, tmp_path) -> Path:
    """Give a head on log-mel that tells the speakers of `spoken` apart; the manifest gets a column `room`."""
    rows = read_manifest(spoken).utterances
    write_manifest(spoken, [dataclasses.replace(row, more=(("room", "xy"[i % 12 < 6]),)) for i, row in enumerate(rows)])
    recipe = tmp_path / "probe.yaml"
    recipe.write_text(
        f"out: {tmp_path / 'probe'}\ntask: {{kind: utterance_classes, column: speaker, projector: 4}}\n"
        f"data: {{manifests: [{spoken}]}}\nsplit: {{by: id, dev: 0.25, test: 0.25}}\nshared_speakers: true\n"
        "baselines: [log_mel]\nseeds: [0]\ntrain: {steps: 2, eval_every: 2, batch: 4}\n"
    )
    assert main(["probe", str(recipe)]) == 0
    (found,) = (tmp_path / "probe/heads").glob("*/seed-0")
    return found


def test_heads_are_scored_by_their_classes(head, spoken, tmp_path, capsys):
    rows = list(read_manifest(spoken).utterances)
    rows[0], rows[1] = dataclasses.replace(rows[0], speaker="stranger"), dataclasses.replace(rows[1], speaker=None)
    write_manifest(spoken, rows)
    out = tmp_path / "out"
    capsys.readouterr()
    assert shift(head, spoken, out, "--shifts", "noise:0,reverb:0.3", "--by", "room", "--fewest", "5") == 0
    said = capsys.readouterr()
    assert "left out, no speaker: 1 utterances: u0001-0" in said.err
    assert "left out, a class no head knows: 1 utterances: u0000-0" in said.err
    assert "22 utterances, the same under all conditions." in said.out
    found = json.loads((out / "shift.json").read_text())
    assert found["higher_is_better"] == {"accuracy": True}
    ((_, conditions),) = found["conditions"].items()
    scores = {each["condition"]: each["scores"]["accuracy"]["score"] for each in conditions}
    worst = min([*scores][1:], key=scores.__getitem__)
    assert f"- Worst condition by accuracy: **{worst}**" in said.out
    table = tmp_path / "predicted.tsv"
    assert main(["predict", str(head), str(spoken), "-o", str(table), "--shift", "noise:0"]) == 0
    cells = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    speakers = {row.id: row.speaker for row in rows[2:]}
    hits = [speakers[key] == predicted for key, _, predicted, *_ in cells if key in speakers]
    assert np.mean(hits) == pytest.approx(scores["noise:0"])


def test_models_that_answer_different_questions_are_not_compared(head, finetuned, spoken, tmp_path, capsys):
    both = [str(head), str(finetuned), str(spoken), "-o", str(tmp_path / "out"), "--shifts", "noise:10"]
    capsys.readouterr()
    assert main(["shift", *both]) == 2
    assert "the models answer different questions" in capsys.readouterr().err
    assert main(["shift", str(head), str(head), str(spoken), "-o", str(tmp_path / "out"), "--shifts", "gain:3"]) == 2
    assert "is given twice" in capsys.readouterr().err


def test_a_column_of_the_manifest_is_a_grouping(head, spoken, tmp_path, capsys):
    rows = read_manifest(spoken).utterances
    (tmp_path / "x.tsv").write_text("id\ttext\n" + "".join(f"{row.id}\t{row.text}\n" for row in rows))
    options = ["--by", "room", "--samples", "20"]
    capsys.readouterr()
    assert main(["score", str(spoken), str(tmp_path / "x.tsv"), *options]) == 0
    assert "by room:\n  x  CER" in capsys.readouterr().out


def test_a_probe_is_tested_under_a_shift(spoken, tmp_path, capsys):
    recipe = tmp_path / "probe.yaml"
    recipe.write_text(
        f"out: {tmp_path / 'probe'}\ntask: {{kind: frame_classes, of: speech}}\nvad: energy\n"
        f"data: {{manifests: [{spoken}]}}\ntest: {{manifests: [{spoken.with_name('b.tsv')}], shift: 'speed:0.9'}}\n"
        "baselines: [log_mel]\nseeds: [0]\nshared_speakers: true\ntrain: {steps: 2, eval_every: 2, batch: 4}\n"
    )
    rows = read_manifest(spoken).utterances
    write_manifest(spoken, rows[:12])
    write_manifest(spoken.with_name("b.tsv"), rows[12:])
    assert main(["probe", str(recipe)]) == 2
    assert "shift speed:0.9 moves the times of frames" in capsys.readouterr().err
    classes = recipe.read_text().replace(
        "{kind: frame_classes, of: speech}", "{kind: utterance_classes, column: speaker}"
    )
    recipe.write_text(classes)
    assert main(["probe", str(recipe), f"out={tmp_path / 'noisy'}", "test.shift=noise:20"]) == 0
    about = [json.loads(path.read_text())["manifest"] for path in (tmp_path / "noisy/features").glob("*/features.json")]
    assert sorted(each.get("shift", "") for each in about) == ["", "noise:20"]


def test_answers_under_other_noise_are_not_taken(finetuned, spoken, tmp_path, capsys, make_corpus):
    noise = make_corpus(tmp_path / "noise", [30_000])
    options = ["--shifts", f"noise:10:{noise}"]
    assert shift(finetuned, spoken, tmp_path / "out", *options) == 0
    write_manifest(
        noise,
        [dataclasses.replace(row, num_samples=20_000, file_samples=30_000) for row in read_manifest(noise).utterances],
    )
    assert shift(finetuned, spoken, tmp_path / "out", *options) == 2
    assert "was computed with another noise" in capsys.readouterr().err
