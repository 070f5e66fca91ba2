"""What helps fine-tuning: frozen layers, rates by layer, adapters, reset layers, early stopping; also after a stop."""

import dataclasses
import shutil

import pytest
import torch

from speechssl.data.manifest import read_manifest
from speechssl.errors import ConfigError
from speechssl.hub.saved import SavedModel
from speechssl.model.lora import LoraConfig
from speechssl.stages.convert import convert
from speechssl.stages.dev_scores import DevSet
from speechssl.stages.finetune import finetune
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.transcribe import transcribe
from speechssl.train.checkpoint import load_tensors, read_parameters, read_state
from speechssl.train.learner import TrainConfig
from speechssl.train.monitor import HealthConfig

TRAIN = TrainConfig(steps=4, log_every=1, save_every=2, keep=9)
LORA = LoraConfig(rank=2, dropout=0.1, projections=("query", "value", "out"))
DEVICES = {
    "frozen below for ever": {"ctc": {"freeze_below": 1}},
    "frozen below for 3 steps": {"ctc": {"freeze_below": 1, "freeze_below_steps": 3}},
    "rates by layer": {"optim": {"layer_decay": 0.5}},
    "adapters": {"ctc": {"lora": LORA}},
    "adapters with rates by layer": {"ctc": {"lora": LORA}, "optim": {"layer_decay": 0.5}},
    "reset layer": {"reset_layers": 1},
}


@pytest.fixture
def with_device(finetune_config):
    """Give a function that makes a configuration with one of the devices."""

    def make(out, device, **changes):
        config = finetune_config(out, train=TRAIN, layer_drop=0.0)
        for name, change in DEVICES[device].items():
            nested = isinstance(change, dict)
            config = dataclasses.replace(
                config, **{name: dataclasses.replace(getattr(config, name), **change) if nested else change}
            )
        return dataclasses.replace(config, **changes)

    return make


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_goes_on_bit_for_bit_with_each_device(with_device, tmp_path, device):
    straight = finetune(with_device(tmp_path / "run", device))
    expected = {name: load_tensors(straight / f"{name}.safetensors") for name in ("model", "optimizer")}
    expected = {name: {key: tensor.clone() for key, tensor in held.items()} for name, held in expected.items()}
    shutil.rmtree(straight)
    resumed = finetune(with_device(tmp_path / "run", device))
    assert read_state(resumed).step == 4
    for name, tensors in expected.items():
        found = load_tensors(resumed / f"{name}.safetensors")
        assert tensors.keys() == found.keys()
        assert all(torch.equal(tensor, found[key]) for key, tensor in tensors.items())


def moved(config, pretrained) -> dict[str, set[str]]:
    """Return, of a run, the first steps after which tensors differ from the pretrained ones, by their names."""
    before = SavedModel.read(pretrained).tensors
    run = finetune(config).parent
    found: dict[str, set[str]] = {}
    for step in ("step_00000002", "step_00000004"):
        now = read_parameters(run / step)
        found[step] = {key for key, value in now.items() if key in before and not torch.equal(value, before[key])}
    return found


def test_layers_below_a_frozen_one_stay_as_they_were_for_ever_or_for_a_while(with_device, pretrained, tmp_path):
    def lower(names):
        return {name for name in names if not name.startswith("encoder.transformer.layers.1.")}

    for_ever = moved(with_device(tmp_path / "ever", "frozen below for ever"), pretrained)
    assert lower(for_ever["step_00000004"]) == set()
    assert for_ever["step_00000002"]
    thawing = moved(with_device(tmp_path / "while", "frozen below for 3 steps"), pretrained)
    assert lower(thawing["step_00000002"]) == set()
    assert thawing["step_00000002"]
    assert {"encoder.project.weight", "encoder.transformer.layers.0.expand.weight"} <= thawing["step_00000004"]
    assert not [name for name in thawing["step_00000004"] if name.startswith("encoder.conv")]  # freeze_conv


def test_more_layers_than_there_are_cannot_be_frozen_or_reset(with_device, tmp_path):
    config = with_device(tmp_path / "run", "reset layer", reset_layers=3)
    with pytest.raises(ConfigError, match="reset_layers is 3, expected at most 2, all layers of"):
        finetune(config)
    config = with_device(tmp_path / "other", "frozen below for ever")
    config = dataclasses.replace(config, ctc=dataclasses.replace(config.ctc, freeze_below=3))
    with pytest.raises(ConfigError, match=r"ctc\.freeze_below is 3, expected at most 2 layers"):
        finetune(config)


def test_the_last_layer_starts_anew_and_the_others_do_not(with_device, pretrained, tmp_path):
    config = with_device(tmp_path / "run", "reset layer")
    config = dataclasses.replace(
        config, ctc=dataclasses.replace(config.ctc, freeze_steps=99), train=TrainConfig(steps=1)
    )
    now, before = read_parameters(finetune(config)), SavedModel.read(pretrained).tensors
    changed = {key for key, value in now.items() if key in before and not torch.equal(value, before[key])}
    assert "encoder.transformer.layers.1.expand.weight" in changed
    assert all(name.startswith("encoder.transformer.layers.1.") for name in changed)
    assert now["encoder.transformer.layers.1.expand.weight"].std() == pytest.approx(0.02, rel=0.1)


def test_a_model_trained_by_adapters_is_whole_wherever_it_is_read(with_device, pretrained, corpus, tmp_path):
    optim = with_device(tmp_path, "adapters").optim
    fast = dataclasses.replace(optim, lr=0.05, warmup=0.0)
    last = finetune(with_device(tmp_path / "run", "adapters", optim=fast))
    stored, read = read_parameters(last), SavedModel.read(last)
    ups = [name for name in stored if name.endswith(".up")]
    assert len(ups) == 4
    assert all(stored[name].abs().max() > 0 for name in ups)
    assert not [name for name in read.tensors if name.endswith((".up", ".down"))]
    moments = {name.rpartition("/")[0] for name in load_tensors(last / "optimizer.safetensors")}
    assert moments == {*ups, *(name.removesuffix("up") + "down" for name in ups), "head.weight", "head.bias"}
    before, projection = SavedModel.read(pretrained).tensors, "encoder.transformer.layers.0.attention.project_in.weight"
    assert torch.equal(stored[projection], before[projection])
    assert (read.tensors[projection] - before[projection]).abs().max() > 1e-3  # the adapters are in use
    converted = convert(last.parent, tmp_path / "theirs.pt", "torchaudio").model
    assert torch.equal(converted.tensors[projection], read.tensors[projection])
    one, _ = transcribe(last.parent, read_manifest(corpus))
    again = finetune(with_device(tmp_path / "again", "reset layer", checkpoint=last.parent, reset_layers=0))
    assert read_state(again).is_finished
    assert len(one) == 8


@pytest.fixture
def scored(with_device, corpus, monkeypatch):
    """Give a function that makes a run with the given dev scores, one a step."""

    def make(out, scores, **train):
        left = dict(enumerate(scores, 1))
        monkeypatch.setattr(DevSet, "__call__", lambda self, model: {"dev_cer": left.pop(min(left))})
        settings = {"steps": len(scores), "eval_every": 1, "save_every": 99, "keep": 1, "log_every": 1, **train}
        train = TrainConfig(**{"health": HealthConfig(grace_steps=0), **settings})
        return with_device(out, "reset layer", reset_layers=0, train=train, dev=DataConfig(manifests=(corpus,)))

    return make


def test_a_run_ends_when_its_patience_does_and_goes_on_with_more(scored, tmp_path, capfd):
    scores = [0.9, 0.5, 0.6, 0.5, 0.7, 0.4, 0.8]
    last = finetune(scored(tmp_path / "run", scores, patience=3))
    state = read_state(last)
    assert (state.step, state.is_finished, state.best_step, state.since_best) == (5, True, 2, 3)
    assert "step 5: 3 evaluations without a better score, so the run ends here" in capfd.readouterr().err
    config = scored(tmp_path / "run", scores, patience=3)
    assert finetune(config) == last  # it stays ended
    config = scored(tmp_path / "run", scores[5:], patience=4)
    last = finetune(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=7)))
    assert (read_state(last).step, read_state(last).best_step) == (7, 6)


def test_patience_goes_on_counting_after_a_stop(scored, tmp_path):
    scores = [0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
    assert read_state(finetune(scored(tmp_path / "straight", scores, patience=4))).step == 5
    run = finetune(scored(tmp_path / "run", scores, patience=4, save_every=1, keep=9)).parent
    for step in (4, 5):
        shutil.rmtree(run / f"step_{step:08d}")
    config = scored(run, scores, patience=4, save_every=1, keep=9)
    assert read_state(finetune(config)).step == 5


def test_evaluations_in_the_grace_of_a_run_try_no_patience(scored, tmp_path):
    scores = [0.5] * 6
    health = HealthConfig(grace_steps=3)
    assert read_state(finetune(scored(tmp_path / "run", scores, patience=2, health=health))).step == 5


def test_patience_without_evaluations_is_refused():
    with pytest.raises(ConfigError, match=r"train\.patience counts evaluations: set train\.eval_every"):
        TrainConfig(patience=2)
