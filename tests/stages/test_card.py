"""A model card says what the run recorded, and the hub can read its head."""

import json
from pathlib import Path

import pytest
import yaml

from speechssl.__main__ import main
from speechssl.errors import CheckpointError, ConfigError
from speechssl.hub.saved import SavedModel
from speechssl.stages.card import model_card, read_score, upload_line
from tests.hub.models import model_of

INTERVAL = {"low": 0.4, "high": 0.6}
SCORE = {"wer": 0.5, "cer": 0.25, "wer_interval": INTERVAL, "cer_interval": {"low": 0.2, "high": 0.3}}
SCORE |= {"utterances": 12, "normaliser": "none"}


@pytest.fixture
def score(tmp_path: Path) -> Path:
    (tmp_path / "my-test.json").write_text(json.dumps(SCORE), encoding="utf-8")
    return tmp_path / "my-test.json"


def head_of(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def test_a_card_tells_both_runs_of_a_recogniser(finetuned, pretrained, corpus, score):
    card = model_card(finetuned, licence="cc-by-4.0", scores=[read_score(score)])
    head = head_of(card)
    assert head["license"] == "cc-by-4.0"
    assert head["pipeline_tag"] == "automatic-speech-recognition"
    assert head["tags"] == ["speech", "speechssl", "hubert"]
    (result,) = head["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "wer", "value": 50.0}, {"type": "cer", "value": 25.0}]
    assert card.index("## Pretraining") < card.index("## Fine-tuning")
    assert f"{corpus} (" in card and "minutes, 8 utterances)" in card
    assert "| updates done | 3, 0.1 minutes of audio seen |" in card
    assert "| units | k-means " in card
    assert "| my-test | 50.0 % [40.0, 60.0] | 25.0 % [20.0, 30.0] | 12 | none |" in card
    assert SavedModel.read(finetuned).fingerprint() in card
    assert "speechssl 0." in card


def test_what_is_not_recorded_is_named(tmp_path):
    model_of("wav2vec2").write(tmp_path / "m")
    card = model_card(tmp_path / "m")
    assert head_of(card)["license"] == "unknown"
    assert "not chosen yet" in card
    assert "None recorded: score the model" in card
    assert "## Pretraining" not in card


def test_data_that_have_gone_are_named(finetuned, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "speechssl.stages.card.read_manifest", lambda path: (_ for _ in ()).throw(FileNotFoundError(path))
    )
    assert "(no longer there)" in model_card(finetuned)


def test_a_file_that_is_no_score_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"expected a file of `speechssl score \.\.\. --out FILE\.json`"):
        read_score(tmp_path / "x.json")


def test_a_converted_model_has_its_card_and_can_be_pushed(finetuned, tmp_path, score, capsys):
    target = tmp_path / "ours"
    arguments = ["convert", str(finetuned), str(target), "--to", "transformers", "--score", str(score)]
    assert main([*arguments, "--license", "apache-2.0"]) == 0
    head = head_of((target / "README.md").read_text(encoding="utf-8"))
    assert (head["library_name"], head["license"]) == ("transformers", "apache-2.0")
    assert head["model-index"][0]["name"] == "ours"
    capsys.readouterr()
    assert main(["push", str(target), "org/ours"]) == 0
    assert capsys.readouterr().out == f"hf upload org/ours {target} .\n"
    assert main(["card", str(finetuned)]) == 0
    assert "# run/step_00000003" in capsys.readouterr().out


def test_what_cannot_be_pushed_is_refused(tmp_path):
    model_of("ctc").write(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"has no README\.md; write it with `speechssl card"):
        upload_line(tmp_path / "m", "org/name")
    (tmp_path / "m" / "README.md").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="name: expected org/name"):
        upload_line(tmp_path / "m", "name")


def test_a_card_is_for_folders(finetuned, tmp_path, capsys):
    arguments = ["convert", str(finetuned), str(tmp_path / "m.pt"), "--to", "torchaudio", "--license", "mit"]
    assert main(arguments) == 2
    assert "torchaudio has none: leave them out" in capsys.readouterr().err


def test_units_are_printed(pretrained, units, corpus, write_wav, tmp_path, capsys):
    audio = [str(write_wav(tmp_path / f"{name}.wav", 8_000, seed=seed)) for seed, name in enumerate("ab")]
    assert main(["units", str(pretrained), *audio]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == audio
    assert all(line[1].split() for line in lines)
    kmeans = ["--kmeans", str(units.parent / "kmeans.safetensors")]
    assert main(["units", str(pretrained), audio[0], *kmeans]) == 0
    every = capsys.readouterr().out.split("\t")[1].split()
    assert len(every) == (8_000 - 400) // 160 + 1
    assert main(["units", str(pretrained), audio[0], *kmeans, "--merged"]) == 0
    merged = capsys.readouterr().out.split("\t")[1].split()
    assert main(["units", str(pretrained), audio[0], *kmeans, "--times"]) == 0
    assert [line.split("\t")[3] for line in capsys.readouterr().out.splitlines()] == merged


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("speechssl 0.")
