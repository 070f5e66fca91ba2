"""Checkpoints: atomic, strict, and without pickles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from speechssl.errors import CheckpointError
from speechssl.train import checkpoint as checkpoint_module
from speechssl.train.checkpoint import (
    TrainState,
    check_same_run,
    fill,
    last_checkpoint,
    load_tensors,
    load_training,
    newest_whole_checkpoint,
    read_config,
    read_state,
    save_checkpoint,
    verify,
)
from speechssl.train.optim import OptimConfig, build_optimizer


class Run:
    """A model after some steps."""

    def __init__(self, out: Path, *, seed: int = 0, frozen: bool = False) -> None:
        torch.manual_seed(seed)
        self.out = out
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.model[0].requires_grad_(not frozen)
        self.optimizer = build_optimizer(self.model, OptimConfig())
        self.state = TrainState()

    def step(self) -> None:
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(self.state.step))
        self.optimizer.zero_grad()
        self.model(inputs).square().sum().backward()
        self.optimizer.step()
        self.state.step += 1

    def save(self, keep: int = 10) -> Path:
        return save_checkpoint(self.out, self.model, self.optimizer, self.state, keep=keep)

    def load(self, checkpoint: Path) -> None:
        self.state = load_training(checkpoint, self.model, self.optimizer)

    def weights(self) -> list[float]:
        return torch.cat([tensor.double().flatten() for tensor in self.model.state_dict().values()]).tolist()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_loaded_run_goes_on_bit_for_bit(tmp_path, frozen):
    run = Run(tmp_path, frozen=frozen)
    run.step()
    run.step()
    run.state.best_score, run.state.scores = 0.5, {"dev_cer": 0.5}
    checkpoint = run.save()
    other = Run(tmp_path, seed=99, frozen=frozen)
    other.load(checkpoint)
    assert other.state == run.state
    other.step()
    expected = other.weights()
    run.load(checkpoint)
    run.step()
    assert run.weights() == expected


def test_a_checkpoint_before_the_first_step_is_loaded(tmp_path):
    run, other = Run(tmp_path), Run(tmp_path, seed=1)
    other.load(run.save())
    assert other.weights() == run.weights()


def test_a_checkpoint_holds_safetensors_and_json_alone(tmp_path):
    run = Run(tmp_path)
    run.step()
    assert {path.name for path in run.save().iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "checksums.json",
    }


@pytest.mark.parametrize("failing", [1, 2])
def test_a_crash_while_saving_leaves_no_half_checkpoint(tmp_path, monkeypatch, failing):
    run = Run(tmp_path)
    run.step()
    before = run.save()
    run.step()
    calls, save_file = [], checkpoint_module.save_file

    def crash(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        if len(calls) == failing:
            path.write_bytes(b"half")
            raise OSError("No space left on device")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "save_file", crash)
        with pytest.raises(
            CheckpointError, match=r"step_00000002: cannot be written \(No space left on device\); free"
        ):
            run.save()
    assert list(tmp_path.iterdir()) == [before]
    after = run.save()
    assert last_checkpoint(tmp_path) == after
    Run(tmp_path).load(after)


def test_others_may_read_a_checkpoint_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        modes = {path.stat().st_mode & 0o777 for path in Run(tmp_path).save().iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o640}


def test_a_crash_before_the_renaming_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.step()

    def crash(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            run.save()
    assert last_checkpoint(tmp_path) is None


def test_files_are_on_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    run, events = Run(tmp_path), []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1])
    run.save()
    assert events == ["fsync"] * 5 + ["rename", "fsync"]  # four files and their folder, then the one above


def test_what_a_killed_process_left_behind_is_no_checkpoint_and_is_cleared_away(tmp_path):
    left = tmp_path / ".step_00000009.123.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert last_checkpoint(tmp_path) is None
    saved = Run(tmp_path).save()
    assert list(tmp_path.iterdir()) == [saved]


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path):
    run = Run(tmp_path)
    for step in (9, 10, 100_000_000):
        run.state.step = step
        newest = run.save()
    assert last_checkpoint(tmp_path) == newest


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path, keep):
    run = Run(tmp_path)
    for _ in range(5):
        run.step()
        run.save(keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{i:08d}" for i in range(6 - keep, 6)]


def test_the_best_is_kept_beside_the_newest_until_a_better_one_comes(tmp_path):
    run = Run(tmp_path)
    kept = []
    for best in (1, 2, 2, 2, 5):
        run.step()
        run.state.best_step = best
        run.save(keep=1)
        kept.append(sorted(int(path.name[5:]) for path in tmp_path.iterdir()))
    assert kept == [[1], [2], [2, 3], [2, 4], [5]]


def test_saving_a_step_again_replaces_it(tmp_path):
    run = Run(tmp_path)
    run.save()
    with torch.no_grad():
        run.model[0].weight.fill_(7)
    Run(tmp_path).load(path := run.save())
    model = Run(tmp_path, seed=4).model
    fill(model, load_tensors(path / "model.safetensors"), where="run")
    assert model[0].weight.unique().tolist() == [7]


def test_each_tensor_of_a_file_can_be_released_by_itself(tmp_path):
    tensors = load_tensors(Run(tmp_path).save() / "model.safetensors")
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == len(tensors) > 1


def test_a_part_of_a_model_is_loaded_by_its_prefix(tmp_path):
    run = Run(tmp_path)
    part = nn.Linear(3, 4)
    fill(part, load_tensors(run.save() / "model.safetensors"), prefix="0.", where="run")
    assert torch.equal(part.weight, run.model[0].weight)


def torch_pickle(path: Path) -> None:
    torch.save({"0.weight": torch.zeros(4, 3)}, path)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "spoil",
    [torch_pickle, cut_in_half, Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_text("x")],
)
def test_a_broken_or_foreign_model_file_is_refused_with_its_name(tmp_path, spoil):
    checkpoint = Run(tmp_path).save()
    spoil(checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read \(.*\); copy it again, or remove"):
        fill(Run(tmp_path).model, load_tensors(checkpoint / "model.safetensors"), where=str(checkpoint))


def test_a_pickle_with_code_inside_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "exploded",)

    checkpoint = Run(tmp_path).save()
    torch.save({"0.weight": Bomb()}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError):
        fill(Run(tmp_path).model, load_tensors(checkpoint / "model.safetensors"), where=str(checkpoint))
    assert not (tmp_path / "exploded").exists()


def test_a_broken_optimizer_is_refused(tmp_path):
    run = Run(tmp_path)
    run.step()
    checkpoint = run.save()
    cut_in_half(checkpoint / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: cannot be read"):
        run.load(checkpoint)


def saved_run(out: Path, steps: int) -> Run:
    run = Run(out)
    for _ in range(steps):
        run.step()
        run.save()
    return run


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("spoil", [change_a_byte, cut_in_half, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_broken_newest_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path, name, spoil):
    saved_run(tmp_path, 3)
    spoil(tmp_path / "step_00000003" / name)
    said: list[str] = []
    assert newest_whole_checkpoint(tmp_path, said.append) == tmp_path / "step_00000002"
    assert len(said) == 1
    assert "step_00000003: is not whole" in said[0]
    assert said[0].endswith("moved to damaged_step_00000003, going on from step_00000002")
    assert (tmp_path / "damaged_step_00000003").is_dir()
    assert newest_whole_checkpoint(tmp_path, said.append) == tmp_path / "step_00000002"
    assert len(said) == 1


def test_whole_checkpoints_are_found_without_a_word(tmp_path):
    saved_run(tmp_path, 2)
    assert newest_whole_checkpoint(tmp_path, pytest.fail) == tmp_path / "step_00000002"
    assert newest_whole_checkpoint(tmp_path / "none", pytest.fail) is None


def test_a_run_whose_checkpoints_are_all_broken_does_not_start_anew(tmp_path):
    saved_run(tmp_path, 2)
    for checkpoint in tmp_path.iterdir():
        change_a_byte(checkpoint / "model.safetensors")
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"no checkpoint is whole \(.*step_00000002.*model\.safetensors: another"
        ):
            newest_whole_checkpoint(tmp_path, pytest.fail)


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from torch import nn
from speechssl.errors import CheckpointError
from speechssl.train.checkpoint import TrainState, save_checkpoint
from speechssl.train.optim import OptimConfig, build_optimizer

model = nn.Linear(300, 300)
optimizer = build_optimizer(model, OptimConfig())
save_checkpoint(Path(sys.argv[1]), model, optimizer, TrainState(step=1), keep=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a disk that fills up on the way
try:
    save_checkpoint(Path(sys.argv[1]), model, optimizer, TrainState(step=2), keep=1)
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_to_do(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True)
    assert "step_00000002: cannot be written (" in done.stdout
    assert "free some space" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    verify(tmp_path / "step_00000001")


def test_a_run_goes_on_with_the_same_data_alone():
    state = TrainState(data="a", batches_per_step=4)
    check_same_run(state, data="a", batches_per_step=4, where="run")
    with pytest.raises(CheckpointError, match=r"run: the utterances of data\.manifests are others"):
        check_same_run(state, data="b", batches_per_step=4, where="run")
    with pytest.raises(CheckpointError, match=r"takes 4 batches a step, these ranks would take 2; choose .* is 4"):
        check_same_run(state, data="a", batches_per_step=2, where="run")


@pytest.mark.parametrize("text", [None, "{", '{"steps": 3}', "[1]"])
def test_a_broken_state_is_refused(tmp_path, text):
    checkpoint = Run(tmp_path).save()
    (checkpoint / "state.json").unlink()
    if text is not None:
        (checkpoint / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read \(.*\); remove this checkpoint"):
        read_state(checkpoint)


def other_width() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def more_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Linear(2, 2))


def fewer_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("build", "wrong"),
    [
        (other_width, r"2 parameters do not fit this model: 2\.weight, 2\.bias|2\.bias, 2\.weight"),
        (more_layers, r"2 parameters do not fit this model: 3\.bias, 3\.weight"),
        (fewer_layers, r"2 parameters do not fit this model: 2\.bias, 2\.weight"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_with_the_parameters(tmp_path, build, wrong):
    checkpoint = Run(tmp_path).save()
    with pytest.raises(CheckpointError, match=wrong):
        fill(build(), load_tensors(checkpoint / "model.safetensors"), where=str(checkpoint))


@pytest.mark.parametrize("text", [None, "{"])
def test_a_folder_without_a_readable_configuration_is_no_run(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"holds no readable config\.json .*; name the folder of a run"):
        read_config(tmp_path)
