"""Checkpoints: a folder a step, safetensors and JSON, written to a temporary name and renamed. Never a pickle.

out/step_00001000/model.safetensors      parameters
                  optimizer.safetensors  Adam's moments, by parameter name
                  state.json             step, position in the data, scores, hours of audio seen
out/config.json                          the configuration of the run, written at its start
"""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechssl.config import from_dict, to_dict
from speechssl.data.manifest import write_atomically
from speechssl.errors import CheckpointError, ConfigError

__all__ = [
    "TrainState",
    "claim_run_folder",
    "fill",
    "last_checkpoint",
    "load_tensors",
    "load_training",
    "read_config",
    "read_state",
    "run_folder",
    "save_checkpoint",
]


@dataclass
class TrainState:
    """Where a run is; changes as it goes."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # next batch of the epoch
    audio_seconds: float = 0.0  # seen so far, padding not counted
    wall_seconds: float = 0.0  # spent so far, over all interruptions
    best_score: float | None = None
    best_step: int | None = None
    skipped: int = 0  # examples left out because their audio was bad
    is_finished: bool = False
    scores: dict[str, float] = field(default_factory=dict)  # of the last evaluation


def claim_run_folder(out: Path, config: object) -> None:
    """Write the configuration into a new run folder, or compare it with the one of the run already there.

    Raises:
        CheckpointError: the folder holds a run of another configuration.
    """
    path = out / "config.json"
    mine = to_dict(config)
    if path.exists():
        before = _with_later_keys(read_config(out), type(config))
        old, new = (_flat(values) | {"out": None} for values in (before, mine))  # a run may be moved
        different = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if different:
            changes = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in different[:3])
            raise CheckpointError(
                f"{out}: holds a run of another configuration ({changes}); name another out, or remove the folder"
            )
    else:
        write_atomically(path, json.dumps(mine, indent=1) + "\n")


def _with_later_keys(values: dict[str, Any], config_type: type) -> dict[str, Any]:
    """Give keys that came with a later version their defaults, which leave the run as it was."""
    try:
        return to_dict(from_dict(values, config_type, where="config.json"))
    except ConfigError:  # has a key that is gone: it will be named as a difference
        return values


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest complete checkpoint of a run folder, or None."""
    return max(out.glob("step_*[0-9]"), default=None)


def save_checkpoint(
    out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState, *, keep: int
) -> Path:
    """Write a checkpoint and remove all but the last `keep`; the best by score is always kept."""
    final = out / f"step_{state.step:08d}"
    temporary = out / f".{final.name}.{os.getpid()}.tmp"
    for left_behind in out.glob(".step_*.tmp"):  # by a process that was killed while saving
        shutil.rmtree(left_behind)
    temporary.mkdir(parents=True)
    save_file(_parameters(model), temporary / "model.safetensors")
    save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    for old in sorted(out.glob("step_*[0-9]"))[:-keep]:
        if state.best_step is None or old.name != f"step_{state.best_step:08d}":
            shutil.rmtree(old)
    return final


def load_training(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Continue from a checkpoint: load everything that `save_checkpoint` wrote, in place."""
    fill(model, load_tensors(checkpoint / "model.safetensors"), where=str(checkpoint))
    tensors = load_tensors(checkpoint / "optimizer.safetensors")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    entries = {
        index: {key.rpartition("/")[2]: value for key, value in tensors.items() if key.rpartition("/")[0] == name}
        for index, name in enumerate(names)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {i: entry for i, entry in entries.items() if entry}, "param_groups": groups})
    return read_state(checkpoint)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, whole.

    Raises:
        CheckpointError: it is missing or broken.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); copy it again, or remove this checkpoint and use the one before"
        ) from error


def fill(model: nn.Module, tensors: dict[str, Tensor], *, where: str, prefix: str = "") -> None:
    """Load parameters into a model, strictly.

    Args:
        model: to be filled.
        tensors: by the model's names.
        where: they come from, for errors.
        prefix: load only the names that start with it, and take it off: `encoder.` gives the trunk alone.

    Raises:
        CheckpointError: names or shapes are not the model's.
    """
    chosen = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    own = _parameters(model)
    wrong = sorted({*chosen} ^ {*own}) + [k for k in chosen if k in own and chosen[k].shape != own[k].shape]
    if wrong:
        raise CheckpointError(
            f"{where}: {len(wrong)} parameters do not fit this model: {', '.join(wrong[:3])}; "
            "the checkpoint belongs to another configuration"
        )
    model.load_state_dict(chosen)


def run_folder(path: Path) -> Path:
    """Return the folder of the run that `path` names, itself or by one of its checkpoints."""
    return path.parent if path.name.startswith("step_") else path


def read_config(out: Path) -> dict[str, Any]:
    """Return the configuration of the run in a folder, as nested values."""
    try:
        return json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{out}: holds no readable config.json ({error}); name the folder of a run") from error


def read_state(checkpoint: Path) -> TrainState:
    """Return the state of a checkpoint."""
    try:
        return TrainState(**json.loads((checkpoint / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint}: state.json cannot be read ({error}); remove this checkpoint") from error


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{key}": torch.as_tensor(value).cpu().contiguous()
        for index, entry in state.items()
        for key, value in entry.items()
    }


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
