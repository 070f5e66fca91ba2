"""A run that is stopped, and goes on, equals one that was left alone, bit for bit."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from speechssl.data import loading
from speechssl.data.loading import AHEAD
from speechssl.errors import CheckpointError, ManifestError, StoppedError, TrainingError
from speechssl.stages.cluster import cluster
from speechssl.stages.finetune import finetune
from speechssl.stages.pretrain import pretrain
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.sweep import SweepConfig, sweep
from speechssl.tasks.contrastive_targets import CopyConfig
from speechssl.train import run as running
from speechssl.train.checkpoint import last_checkpoint, load_tensors, read_state
from speechssl.train.learner import TrainConfig

TIMES = {"audio_s_per_s", "wall_s", "data_wait_s", "memory_gib"}  # what may differ between two equal runs
RUNS = [(task, workers) for task in ("masked_prediction", "contrastive", "teacher", "ctc") for workers in (0, 2)]
RUNS += [("refined_projection", 0), ("targets", 0)]  # targets: a changed copy's log-mel frames


def reports(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.fixture
def signalled(monkeypatch):
    """Give a function that has a signal sent to this process during the step of that number, once."""
    waiting: list[tuple[int, int]] = []
    update = running.Learner.update

    def sending(self: running.Learner, batches, state, **rest):
        if waiting and waiting[0][0] == state.step:
            os.kill(os.getpid(), waiting.pop(0)[1])
        return update(self, batches, state, **rest)

    monkeypatch.setattr(running.Learner, "update", sending)
    return lambda step, number: waiting.append((step, number))


@pytest.fixture
def run_task(pretrain_config, finetune_config):
    """Give a function that trains one of the tasks, two batches a step."""

    def run(task: str, out: Path, workers: int = 0, **train: int) -> Path:
        config = TrainConfig(**{"steps": 7, "accumulate": 2, "log_every": 3, "workers": workers, **train})
        if task == "ctc":
            return finetune(finetune_config(out, train=config))
        made = pretrain_config(out, "contrastive" if task == "targets" else task, train=config)
        if task == "targets":
            copy = CopyConfig(gain_db=6.0, tilt=0.5)
            changed = dataclasses.replace(made.objective, targets="log_mel", copy=copy, loudness_neighbours=3)
            made = dataclasses.replace(made, objective=changed)
        return pretrain(made)

    return run


@pytest.mark.parametrize(("task", "workers"), RUNS)
def test_a_run_stopped_by_signals_and_resumed_equals_the_uninterrupted_one(
    run_task, signalled, tmp_path, task, workers
):
    straight = run_task(task, tmp_path / "straight")
    for step, number in ((1, signal.SIGTERM), (4, signal.SIGINT)):
        signalled(step, number)
        with pytest.raises(StoppedError, match=rf"stopped by {number.name} after step {step + 1}, saved in .*step_"):
            run_task(task, tmp_path / "stopped", workers)
        assert not read_state(tmp_path / "stopped" / f"step_{step + 1:08d}").is_finished
    resumed = run_task(task, tmp_path / "stopped", workers)
    for name in ("model.safetensors", "optimizer.safetensors"):
        expected, found = load_tensors(straight / name), load_tensors(resumed / name)
        assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    for one, other in zip(reports(tmp_path / "stopped"), reports(tmp_path / "straight"), strict=True):
        assert one == other  # also averages begun before a stop
    assert [row["step"] for row in reports(tmp_path / "straight")] == [3, 6, 7]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(run_task, tmp_path, capfd):
    straight = run_task("contrastive", tmp_path / "straight", save_every=2, keep=3)
    expected = load_tensors(straight / "model.safetensors")
    model = straight / "model.safetensors"
    content = model.read_bytes()
    model.unlink()  # `expected` looks at the old file's pages
    model.write_bytes(content[:-9])
    again = run_task("contrastive", tmp_path / "straight", save_every=2, keep=3)
    said = capfd.readouterr().err
    assert "step_00000007: is not whole (model.safetensors: another checksum than when written)" in said
    assert "moved to damaged_step_00000007, going on from step_00000006" in said
    assert all(torch.equal(tensor, expected[key]) for key, tensor in load_tensors(again / "model.safetensors").items())


def test_a_clock_that_jumps_changes_nothing(run_task, tmp_path, monkeypatch):
    straight = run_task("contrastive", tmp_path / "straight")
    real, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86_400)
    jumped = run_task("contrastive", tmp_path / "jumped")
    expected, found = (load_tensors(run / "model.safetensors") for run in (straight, jumped))
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    assert read_state(jumped).wall_seconds > 0


def test_manifests_that_changed_are_refused(pretrain_config, make_corpus, tmp_path):
    lengths = list(range(8_000, 16_000, 1_000))
    data = DataConfig(manifests=(make_corpus(tmp_path / "corpus", lengths),))
    config = pretrain_config(tmp_path / "run", "contrastive", data=data)
    pretrain(config)
    make_corpus(tmp_path / "corpus", lengths[:-1])
    with pytest.raises(CheckpointError, match=r"step_00000003: the utterances of data\.manifests are others than"):
        pretrain(config)


def test_another_number_of_batches_a_step_is_refused(pretrain_config, tmp_path):
    config = pretrain_config(tmp_path / "run", "contrastive")
    pretrain(config)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=3))
    with pytest.raises(CheckpointError, match=r"takes 1 batches a step, these ranks would take 3; choose"):
        pretrain(other)


def test_a_full_disk_ends_the_run_with_what_was_saved_before(pretrain_config, tmp_path, monkeypatch):
    saved = []

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        saved.append(path)
        if len(saved) > 2:  # two files a checkpoint
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    save_file = running.save_checkpoint.__globals__["save_file"]
    monkeypatch.setitem(running.save_checkpoint.__globals__, "save_file", full)
    config = pretrain_config(tmp_path / "run", "contrastive", train=TrainConfig(steps=4, save_every=2))
    with pytest.raises(
        CheckpointError, match=r"step_00000004: cannot be written \(.*No space left.*\); free some space"
    ):
        pretrain(config)
    monkeypatch.undo()
    assert [path.name for path in sorted((tmp_path / "run").glob("step_*"))] == ["step_00000002"]
    assert read_state(pretrain(config)).is_finished


def test_a_worker_that_dies_stops_the_run_which_goes_on_later(pretrain_config, tmp_path, monkeypatch):
    last = AHEAD + 4  # batches of the worker; it reads so many ahead, so some steps are saved when it dies
    training = TrainConfig(steps=last + 2, save_every=1, workers=1)
    config = pretrain_config(tmp_path / "run", "contrastive", train=training)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, loader="torch"))
    straight = pretrain(dataclasses.replace(config, out=tmp_path / "straight"))
    sent = loading._Sender.__getitem__

    def deadly(sender, planned):
        sender.count = getattr(sender, "count", 0) + 1
        if sender.count > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return sent(sender, planned)

    with monkeypatch.context() as patch:
        patch.setattr(loading._Sender, "__getitem__", deadly)
        with pytest.raises(TrainingError, match=r"a process that reads audio died \(.*\); memory may have run out"):
            pretrain(config)
    assert 2 <= read_state(last_checkpoint(tmp_path / "run")).step < last + 2
    resumed = pretrain(config)
    expected, found = (load_tensors(run / "model.safetensors") for run in (straight, resumed))
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())


def test_a_stage_that_took_no_step_does_not_hold_its_folder(
    cluster_config, pretrain_config, finetune_config, corpus, units, tmp_path, capfd
):
    phones = tmp_path / "phones.tsv"
    phones.write_text("id\tphones\n" + "".join(f"u{i:04d}\t0.2:a 0.5:b\n" for i in range(8)))
    gone = DataConfig(manifests=(tmp_path / "gone.tsv",))
    for stage, config in (
        (cluster, cluster_config(tmp_path / "cluster", data=gone)),
        (cluster, cluster_config(tmp_path / "given", data=gone, kmeans=units.parent / "kmeans.safetensors")),
        (sweep, SweepConfig(out=tmp_path / "sweep", data=gone, phones=phones, clusters=(3,), iterations=5)),
        (pretrain, pretrain_config(tmp_path / "pretrain", data=gone)),
        (finetune, finetune_config(tmp_path / "finetune", data=gone)),
    ):
        with pytest.raises(ManifestError, match=r"gone\.tsv"):
            stage(config)
        mended = dataclasses.replace(config, data=DataConfig(manifests=(corpus,)), seed=1)
        assert stage(mended).exists()
        assert f"{config.out}: the run there computed nothing, so this one takes its place" in capfd.readouterr().err
        with pytest.raises(CheckpointError, match="holds a run of another configuration"):
            stage(config)


def test_a_description_of_texts_that_were_mended_does_not_hold_a_folder(finetune_config, corpus, tmp_path, monkeypatch):
    short = tmp_path / "short.tsv"
    short.write_text(corpus.read_text().replace("ten", "zen"))
    config = finetune_config(tmp_path / "run", data=DataConfig(manifests=(short,), root=corpus.parent))
    with monkeypatch.context() as patch:
        patch.setattr("speechssl.stages.finetune.train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    assert (tmp_path / "run/model.json").exists()
    short.write_text(corpus.read_text())
    assert finetune(config).exists()


def test_a_run_says_from_where_it_goes_on_and_that_it_is_finished(run_task, signalled, tmp_path, capfd):
    signalled(1, signal.SIGTERM)
    with pytest.raises(StoppedError):
        run_task("ctc", tmp_path / "run")
    assert "goes on" not in capfd.readouterr().err.replace("the same command goes on", "")
    run_task("ctc", tmp_path / "run")
    steps = read_state(last_checkpoint(tmp_path / "run")).step
    assert f"finetune: goes on from step 2 of {steps}" in capfd.readouterr().err
    run_task("ctc", tmp_path / "run")
    said = capfd.readouterr().err
    assert f"finetune: already finished: {steps} of {steps} steps. Its learning rate was planned for these; for" in said


def test_more_steps_than_a_run_was_planned_for_are_explained(pretrain_config, pretrained):
    message = r"go on as it began, with train\.steps=3\. Its learning rate was planned .* another run\. checkpoint="
    with pytest.raises(CheckpointError, match=message):
        pretrain(pretrain_config(pretrained, train=TrainConfig(steps=9, log_every=1)))


def test_a_run_notes_where_it_was_and_for_how_long(run_task, signalled, tmp_path):
    signalled(1, signal.SIGTERM)
    with pytest.raises(StoppedError):
        run_task("ctc", tmp_path / "run")
    run_task("ctc", tmp_path / "run")
    state = read_state(last_checkpoint(tmp_path / "run"))
    (machine,) = state.machines
    assert (machine["device"], machine["devices"], machine["cores"]) == ("cpu", 1, 1)
    assert machine["wall_seconds"] == pytest.approx(state.wall_seconds)
