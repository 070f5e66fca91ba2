"""Sharded checkpoints as several ranks would write them; tests with several ranks are in tests/distributed."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechssl.errors import CheckpointError
from speechssl.train.checkpoint import TrainState, load_training, read_parameters, save_checkpoint
from speechssl.train.sharded import has_shares, optimizer_tensors


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7))
    model[1].bias.requires_grad_(False)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 5)).square().sum().backward()
    model[0].bias.grad = None  # as of a layer that was dropped: it has no moments
    optimizer.step()
    optimizer.zero_grad()


def cut(whole: Path, folder: Path, rows: list[slice]) -> Path:
    """Write an unsharded checkpoint again as one of several ranks, one per slice of rows."""
    folder.mkdir()
    (folder / "state.json").write_bytes((whole / "state.json").read_bytes())
    for number, name in enumerate(("model", "optimizer"), start=1):
        for rank, part in enumerate(rows, start=1):
            tensors: dict[str, Tensor] = {}
            for key, tensor in load_file(whole / f"{name}.safetensors").items():
                if tensor.ndim or rank == 1:
                    tensors[key] = tensor[part].clone() if tensor.ndim else tensor
            offsets = {key: {"saved_offsets": [part.start] + [0] * (t.ndim - 1)} for key, t in tensors.items()}
            offsets |= {key: {"saved_offsets": []} for key, t in tensors.items() if not t.ndim}
            path = folder / f"shard-{rank:05d}-model-{number:05d}-of-00002.safetensors"
            save_file(tensors, path, metadata={"DCP_SHARDING_INFO": json.dumps(offsets)})
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Return a checkpoint after one step."""
    model, optimizer = build()
    step(model, optimizer)
    return save_checkpoint(tmp_path, model, optimizer, TrainState(step=1), keep=1)


THREE = [slice(0, 3), slice(3, 4), slice(4, 7)]


@pytest.mark.parametrize("rows", [[slice(0, 7)], [slice(0, 4), slice(4, 7)], THREE], ids=["one", "two", "three"])
def test_shares_of_any_number_of_ranks_continue_like_the_whole(whole, tmp_path, rows):
    shares = cut(whole, tmp_path / "shares", rows)
    ends = []
    for checkpoint in (whole, shares):
        model, optimizer = build()
        assert load_training(checkpoint, model, optimizer) == TrainState(step=1)
        assert "0.bias/exp_avg" not in optimizer_tensors(model, optimizer)
        step(model, optimizer)
        ends.append(model.state_dict() | optimizer_tensors(model, optimizer))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_the_moments_and_their_steps_are_loaded(whole):
    model, optimizer = build()
    load_training(whole, model, optimizer)
    stored = load_file(whole / "optimizer.safetensors")
    assert stored["0.weight/step"] == 1
    assert stored.keys() == {f"{name}/{key}" for name in ("0.weight", "1.weight") for key in MOMENTS}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in optimizer_tensors(model, optimizer).items())


MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def test_parameters_are_read_from_shares_without_the_moments(whole, tmp_path):
    shares = cut(whole, tmp_path / "shares", THREE)
    assert (has_shares(shares), has_shares(whole)) == (True, False)
    found, expected = read_parameters(shares), read_parameters(whole)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("rank", [1, 2])
def test_a_missing_share_is_seen(whole, tmp_path, rank):
    shares = cut(whole, tmp_path / "shares", THREE)
    (shares / f"shard-0000{rank}-model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shares are missing \(0\.\w+, .*copy the folder again with the files"):
        read_parameters(shares)


def test_a_missing_last_share_does_not_fit_the_model(whole, tmp_path):
    shares = cut(whole, tmp_path / "shares", THREE)
    (shares / "shard-00003-model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="4 parameters do not fit this model"):
        load_training(shares, *build())


def test_a_torn_share_is_named(whole, tmp_path):
    shares = cut(whole, tmp_path / "shares", THREE)
    path = shares / "shard-00002-model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=rf"{path.name}: cannot be read .*; copy it again, or remove this check"):
        load_training(shares, *build())


def test_an_empty_folder_holds_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no safetensors file is there"):
        load_training(tmp_path, *build())


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_loaded(whole):
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"2 parameters do not fit this model: 2\.bias, 2\.weight; the checkpoint"
    ):
        load_training(whole, model, torch.optim.AdamW(model.parameters()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Bomb:
    def __reduce__(self) -> tuple:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("name", [".metadata", "optimizer.pt", "__0_0.distcp"])
def test_a_pickle_beside_the_shares_is_left_alone(whole, tmp_path, name):
    shares = cut(whole, tmp_path / "shares", THREE)
    (shares / name).write_bytes(pickle.dumps(Bomb()))
    load_training(shares, *build())
    read_parameters(shares)
