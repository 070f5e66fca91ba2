"""A skipped step, once more: which utterance and which module."""

import dataclasses
import math
import shutil

import pytest
import torch

from speechssl.data import dataset
from speechssl.errors import CheckpointError, TrainingError
from speechssl.stages.finetune import finetune
from speechssl.stages.pretrain import pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.replay import replay
from speechssl.train.learner import TrainConfig


@pytest.fixture
def poisoned(monkeypatch):
    """Have the audio of one utterance hold an infinite sample, which the reader would refuse."""
    read = dataset.read_utterance

    def loud(manifest, row, *arguments, **rest):
        waveform = read(manifest, row, *arguments, **rest)
        return waveform.index_fill(0, torch.tensor([99]), math.inf) if row.path == "u0003.wav" else waveform

    monkeypatch.setattr(dataset, "read_utterance", loud)


@pytest.fixture
def skipping(poisoned, pretrain_config, finetune_config, tmp_path):
    """Give the folder of a run that met the utterance."""

    def run(task: str) -> None:
        train = TrainConfig(steps=4, accumulate=2, stop_after_skipped=9)
        if task == "ctc":
            finetune(finetune_config(tmp_path / "run", train=train))
        else:
            pretrain(pretrain_config(tmp_path / "run", task, train=train))
        return tmp_path / "run"

    return run


@pytest.mark.parametrize("task", ["masked_prediction", "contrastive", "refined_projection", "ctc"])
def test_the_utterance_and_the_module_that_broke_a_step_are_named(skipping, capfd, task):
    run = skipping(task)
    assert "u0003" in capfd.readouterr().err
    rows = {row.name: row for row in replay(run)}
    assert len([name for name in rows if name.startswith("batch ")]) == 2
    broken = {name for name, row in rows.items() if not (math.isfinite(row.loss) and math.isfinite(row.norm))}
    assert "u0003" in broken
    assert all(name == "u0003" or name.startswith("batch") for name in broken)
    assert rows["u0003"].peak == math.inf
    assert rows["u0003"].broken.startswith("encoder.conv")
    assert all(row.broken is None for name, row in rows.items() if name not in broken)
    assert {name for name in rows if name.startswith("u")} >= {"u0003"}


def test_a_replay_repeats_the_numbers_of_the_step(skipping):
    run = skipping("masked_prediction")
    first, second = ([dataclasses.astuple(row) for row in replay(run)] for _ in range(2))
    assert repr(first) == repr(second)


def test_a_run_of_broken_steps_stops_and_can_be_replayed(poisoned, pretrain_config, tmp_path):
    config = pretrain_config(tmp_path / "run", "contrastive", train=TrainConfig(steps=40, stop_after_skipped=1))
    with pytest.raises(TrainingError, match=r"utterances: .*find the one with `speechssl replay .*skipped_step_\d+`"):
        pretrain(config)
    assert next(row.name for row in replay(tmp_path / "run")) == "batch 0"


def test_there_is_nothing_to_replay_where_nothing_was_skipped(pretrained, tmp_path):
    with pytest.raises(CheckpointError, match="the run has skipped no step"):
        next(replay(pretrained))
    with pytest.raises(CheckpointError, match="holds no skipped step"):
        next(replay(tmp_path / "skipped_step_00000001"))


@pytest.mark.parametrize("kept", [5, 1], ids=["other utterances", "fewer batches"])
def test_other_data_than_those_of_the_step_are_refused(poisoned, pretrain_config, make_corpus, tmp_path, kept):
    lengths = list(range(8_000, 16_000, 1_000))
    data = DataConfig(manifests=(make_corpus(tmp_path / "corpus", lengths),))
    pretrain(pretrain_config(tmp_path / "run", "contrastive", data=data, train=TrainConfig(steps=4)))
    shutil.rmtree(tmp_path / "corpus")
    make_corpus(tmp_path / "corpus", lengths[::-1][:kept])
    with pytest.raises(CheckpointError, match="the data changed since step"):
        list(replay(tmp_path / "run"))
