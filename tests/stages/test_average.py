"""Means of checkpoints: speechssl.stages.average and speechssl.train.run."""

import dataclasses
import json
import math

import pytest
import torch

from speechssl.__main__ import main
from speechssl.errors import CheckpointError, ConfigError
from speechssl.hub.saved import SavedModel
from speechssl.model.lora import LoraConfig
from speechssl.stages.average import average, average_tensors, best_steps, last_steps
from speechssl.stages.dev_scores import DevSet
from speechssl.stages.finetune import finetune
from speechssl.stages.reading_data import DataConfig
from speechssl.train.checkpoint import TrainState
from speechssl.train.learner import TrainConfig
from speechssl.train.run import note_score

SCORES = [0.9, 0.4, 0.3, 0.4, 0.8]


@pytest.fixture
def run(finetune_config, corpus, tmp_path, monkeypatch):
    """Give a function that trains with adapters, with the scores above."""

    def make(name="run", **changes):
        left = [*SCORES, 0.25]
        monkeypatch.setattr(DevSet, "__call__", lambda self, model: {"dev_cer": left.pop(0)})
        config = finetune_config(tmp_path / name, dev=DataConfig(manifests=(corpus,)))
        ctc = dataclasses.replace(config.ctc, freeze_steps=0, lora=LoraConfig(rank=2))
        optim = dataclasses.replace(config.optim, lr=0.05, warmup=0.0)
        train = TrainConfig(steps=5, eval_every=1, save_every=99, keep=1, keep_best=3, log_every=1)
        return finetune(dataclasses.replace(config, ctc=ctc, optim=optim, train=train, **changes)).parent

    return make


def test_the_best_checkpoints_and_the_last_are_kept_and_found(run):
    folder = run()
    assert [step.name for step in best_steps(folder, 3)] == ["step_00000003", "step_00000002", "step_00000004"]
    assert [step.name for step in last_steps(folder, 2)] == ["step_00000004", "step_00000005"]
    assert sorted(step.name for step in folder.glob("step_*")) == [f"step_{step:08d}" for step in (2, 3, 4, 5)]
    with pytest.raises(CheckpointError, match=r"expected 4 checkpoints kept for their dev score, found 3; train with"):
        best_steps(folder, 4)
    with pytest.raises(CheckpointError, match=r"expected 9 checkpoints, found 4; train with train\.keep=9"):
        last_steps(folder, 9)


def test_the_mean_is_of_merged_weights_and_reads_as_any_model(run, tmp_path, capsys):
    folder = run()
    assert main(["average", str(folder), "--best", "3", "-o", str(tmp_path / "mean")]) == 0
    assert "mean of run: step_00000003, step_00000002, step_00000004" in capsys.readouterr().out
    mean = SavedModel.read(tmp_path / "mean")
    parts = [SavedModel.read(step).tensors for step in best_steps(folder, 3)]
    name = "encoder.transformer.layers.0.attention.project_in.weight"
    assert not torch.equal(parts[0][name], parts[1][name])
    torch.testing.assert_close(mean.tensors[name], (parts[0][name] + parts[1][name] + parts[2][name]) / 3)
    mean.recogniser()
    assert main(["average", str(folder), "--last", "2", "-o", str(tmp_path / "mean")]) == 2  # it is there
    assert main(["average", str(folder), "-o", str(tmp_path / "other")]) == 2


def test_a_run_averages_its_best_at_the_end_and_scores_the_mean(run, finetune_config, tmp_path, capsys):
    folder = run(average=2)
    assert json.loads((folder / "average/scores.json").read_text()) == {"dev_cer": 0.25}
    assert "mean of the 2 best checkpoints, dev_cer 0.2500; the best alone 0.3000" in capsys.readouterr().out
    expected = average(folder, tmp_path / "mean", best_steps(folder, 2)).tensors
    found = SavedModel.read(folder / "average").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert run(average=2) == folder  # finished: nothing is scored again
    with pytest.raises(ConfigError, match=r"average=2 takes that many checkpoints with the best dev scores: give dev"):
        finetune_config(tmp_path / "other", average=2)


def test_checkpoints_of_other_runs_or_shapes_are_never_mixed(run, tmp_path):
    one, other = run("one"), run("other")
    steps = [*best_steps(one, 1), *best_steps(other, 1)]
    with pytest.raises(CheckpointError, match=r"one: expected checkpoints of this run, found \[.*other/step_00000003"):
        average(one, tmp_path / "mean", steps)
    a, b = {"x": torch.zeros(2), "y": torch.zeros(1)}, {"x": torch.zeros(3), "y": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"here: checkpoints differ in 1 parameters \(x\); average those of one"):
        average_tensors([a, b], where="here")
    with pytest.raises(CheckpointError, match=r"checkpoints differ in 1 parameters \(y\)"):
        average_tensors([a, {"x": torch.zeros(2)}], where="here")


def test_of_equal_scores_the_first_is_the_better_and_what_is_no_number_is_the_worst():
    state, kept = TrainState(), []
    for step, score in enumerate([math.nan, 0.5, 0.7, 0.5, 0.4, math.nan], 1):
        state.step = step
        kept.append(note_score(state, score, keep_best=2, counts=True))
    assert kept == [True, True, True, True, True, False]
    assert (state.best, state.best_step, state.since_best) == ([(0.4, 5), (0.5, 2)], 5, 1)


def test_a_run_begun_before_ranks_were_kept_goes_on_with_its_best():
    state = TrainState(step=7, best_score=0.3, best_step=4)
    assert note_score(state, 0.6, keep_best=2, counts=True)
    assert state.best == [(0.3, 4), (0.6, 7)]
    assert (state.best_score, state.best_step) == (0.3, 4)
