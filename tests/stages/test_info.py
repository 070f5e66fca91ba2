"""What `speechssl info` says is true of the model it describes."""

import pytest

from speechssl.__main__ import main
from speechssl.audio.reading import AudioConfig
from speechssl.hub.saved import SavedModel
from speechssl.model.lora import LoraConfig
from speechssl.stages.finetune import finetune
from speechssl.stages.info import describe
from speechssl.stages.reading_data import DataConfig
from speechssl.train.learner import TrainConfig


def rows_of(path) -> dict[str, str]:
    return dict(describe(path))


def test_what_does_not_apply_to_a_model_is_not_said(pretrained, finetuned):
    of_trunk, of_recogniser = rows_of(pretrained), rows_of(finetuned)
    assert (of_trunk["holds"], of_trunk["units"]) == ("hubert", "5")
    assert of_trunk["labels"].startswith("of mfcc, k-means ")
    assert not {"vocabulary", "tokens", "texts"} & {*of_trunk}
    assert not {"units", "labels"} & {*of_recogniser}


def test_the_step_of_a_run_is_that_of_the_parameters_described(finetune_config, corpus, tmp_path, monkeypatch):
    scores = iter([0.9, 0.2, 0.8])
    monkeypatch.setattr("speechssl.stages.dev_scores.DevSet.__call__", lambda *_: {"dev_cer": next(scores)})
    train = TrainConfig(steps=3, eval_every=1, log_every=1)
    finetune(finetune_config(tmp_path / "run", dev=DataConfig(manifests=(corpus,)), train=train))
    rows = rows_of(tmp_path / "run")
    assert rows["trained"].startswith("2 steps, 0.00")
    assert rows["of a run"] == "of 3 steps so far"
    assert rows["best step"] == "2, score 0.2000"
    assert rows["fingerprint"] == SavedModel.read(tmp_path / "run/step_00000002").fingerprint()
    last = rows_of(tmp_path / "run/step_00000003")
    assert last["trained"].startswith("3 steps")
    assert "of a run" not in last


def test_adapters_narrowband_audio_and_random_weights_are_said(finetune_config, corpus, tmp_path):
    config = finetune_config(tmp_path / "lora")
    data = DataConfig(manifests=(corpus,), audio=AudioConfig(min_sample_rate=8000))
    lora = finetune_config(tmp_path / "lora", data=data, ctc=type(config.ctc)(lora=LoraConfig(rank=3)))
    finetune(lora)
    rows = rows_of(tmp_path / "lora")
    assert rows["adapters"] == "LoRA of rank 3, merged into the projections they sit on"
    assert rows["recorded at"] == "8000 Hz at least"
    assert rows["pretrained by"] == "hubert"
    finetune(finetune_config(tmp_path / "random", random_weights=True))
    rows = rows_of(tmp_path / "random")
    assert rows["pretrained by"] == "nothing: random weights"
    assert not {"adapters", "recorded at"} & {*rows}


@pytest.mark.parametrize("name", ["", "kmeans.safetensors"])
def test_a_k_means_is_described_as_what_it_is(units, name, capsys):
    assert main(["info", str(units.parent / name)]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["holds"] == "k-means of hidden units"
    assert rows["units"] == "5"
    assert rows["features"] == "mfcc, 39 of each frame"
    assert rows["fitted"].startswith("on       utterances 8") or "utterances 8" in rows["fitted"]
