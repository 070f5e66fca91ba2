"""Checkpoints: a folder a step, safetensors and JSON, written to a temporary name and renamed. Never a pickle.

out/step_00001000/model.safetensors      parameters
                  optimizer.safetensors  Adam's moments, by parameter name
                  state.json             step, position in the data, scores, hours of audio seen, open averages
                  checksums.json         of the files; a checkpoint without it, or with others, is broken
out/config.json                          the configuration of the run, written at its start

Ranks that hold shares of the model may write them side by side, see `sharded`; all the rest is the same.

No state of a random generator is kept: all draws are functions of (seed, step, number of the batch in it), learning
rate and temperature of the step, masks and negatives of the draws. So a run goes on bit for bit, and on any number
of ranks.
"""

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import speechssl
from speechssl import fingerprint
from speechssl.errors import CheckpointError
from speechssl.parallel import Ranks, whole_tensors
from speechssl.provenance import source_commit
from speechssl.train.sharded import has_shares, load_shares, optimizer_tensors, read_shares, save_shares

__all__ = [
    "DESCRIPTION",
    "TrainState",
    "check_same_run",
    "fill",
    "is_finished",
    "last_checkpoint",
    "load_tensors",
    "load_training",
    "newest_whole_checkpoint",
    "publish",
    "read_config",
    "read_parameters",
    "read_state",
    "run_folder",
    "save_checkpoint",
    "software_versions",
    "this_machine",
    "verify",
]

DESCRIPTION = "model.json"  # what a run's or a converted model is (speechssl.hub.saved)
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


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
    best: list[tuple[float, int]] = field(default_factory=list)  # score and step of those kept for it, best first
    since_best: int = 0  # evaluations that count against `train.patience`
    skipped: int = 0  # examples left out because their audio was bad
    recent: int = 0  # examples of late, and how many of them were bad; halved when a window of them is full
    recent_bad: int = 0
    skipped_steps: int = 0  # not updated because loss or gradient was not finite
    skipped_in_a_row: int = 0  # of these, up to now
    is_finished: bool = False
    scores: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    is_unscored: bool = False  # an evaluation failed at this step, and is to be done before the next one
    batches_per_step: int = 0  # over all ranks
    data: str = ""  # fingerprint of the utterances, in which `position` counts
    open_report: dict[str, Any] = field(default_factory=dict)  # sums, counts and tallies since the last report
    health: dict[str, Any] = field(default_factory=dict)  # what the monitor remembers
    versions: dict[str, str] = field(default_factory=dict)  # of the software that wrote the checkpoint
    machines: list[dict[str, Any]] = field(default_factory=list)  # that the run was on, with its seconds there


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest complete checkpoint of a run folder, or None."""
    return max(out.glob("step_*[0-9]"), default=None)


def is_finished(out: Path) -> bool:
    """Whether the run in a folder has done its last step, as far as its newest checkpoint can be read."""
    checkpoint = last_checkpoint(out)
    try:
        return checkpoint is not None and read_state(checkpoint).is_finished
    except CheckpointError:
        return False


def newest_whole_checkpoint(out: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint whose checksums are right, or None where there is none at all.

    Newer, broken ones get a name that starts with `damaged_`, and are kept.

    Args:
        out: run folder.
        say: told which checkpoints are broken.

    Raises:
        CheckpointError: there are checkpoints, and all are broken.
    """
    reasons: list[CheckpointError] = []
    broken: list[Path] = []
    for checkpoint in sorted(out.glob("step_*[0-9]"), reverse=True):
        try:
            verify(checkpoint)
        except CheckpointError as error:
            reasons.append(error)
            broken.append(checkpoint)
            continue
        for path, reason in zip(broken, reasons, strict=True):
            aside = path.with_name(f"damaged_{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            say(f"{reason}; moved to {aside.name}, going on from {checkpoint.name}")
        return checkpoint
    if reasons:
        raise CheckpointError(f"{out}: no checkpoint is whole ({reasons[0]}); copy one again, or name another out")
    return None


def verify(checkpoint: Path) -> None:
    """Compare the files of a checkpoint with its checksums.

    Raises:
        CheckpointError: one is missing or was changed.
    """
    try:
        expected = json.loads((checkpoint / "checksums.json").read_text(encoding="utf-8"))
        found = {name: fingerprint.of_file(checkpoint / name) for name in expected}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{checkpoint}: is not whole ({error})") from error
    if changed := [name for name in expected if found[name] != expected[name]]:
        raise CheckpointError(f"{checkpoint}: is not whole ({', '.join(changed)}: another checksum than when written)")


def save_checkpoint(
    out: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    *,
    keep: int,
    ranks: Ranks = ALONE,
    in_shares: bool = False,
) -> Path:
    """Write a checkpoint and remove all but the last `keep`; the best by score are always kept.

    It gets its name when everything is on the disk, so that a rank that dies on the way leaves the one before.

    Args:
        out: run folder.
        model: to be saved.
        optimizer: of its parameters.
        state: of the run, on the first rank.
        keep: how many.
        ranks: all of them have to call this.
        in_shares: each rank writes what it holds; else the first writes all.

    Raises:
        CheckpointError: it cannot be written; those before it are as they were.
    """
    final = out / f"step_{state.step:08d}"
    temporary = out / f".{final.name}.tmp"  # one that every rank knows, which `atomic` does not give
    try:
        if ranks.is_first:
            for left_behind in out.glob(".step_*"):  # by a process that was killed while saving
                shutil.rmtree(left_behind)
            temporary.mkdir(parents=True)
        if in_shares:
            ranks.wait()
            save_shares(temporary, model, optimizer)
        else:
            _save_whole(temporary, model, optimizer, ranks)
        if not ranks.is_first:
            return final
        (temporary / "state.json").write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
        publish(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: cannot be written ({error}); free some space or make the folder writable, and run the same "
            "command again: it goes on from the checkpoint before"
        ) from error
    best = {f"step_{step:08d}" for step in (state.best_step, *(step for _, step in state.best)) if step is not None}
    for old in sorted(out.glob("step_*[0-9]"))[:-keep]:
        if old.name not in best:
            shutil.rmtree(old)
    return final


def _save_whole(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    for name, tensors in (("model", model.state_dict()), ("optimizer", optimizer_tensors(model, optimizer))):
        gathered = whole_tensors(tensors, ranks, torch.device("cpu"))
        if ranks.is_first:
            save_file(gathered, folder / f"{name}.safetensors")


def publish(temporary: Path, final: Path) -> None:
    """Give a folder its checksums and its name, once all of it is on the disk: `atomic` waits for no disk."""
    sums = {path.name: fingerprint.of_file(path) for path in sorted(temporary.iterdir())}
    (temporary / "checksums.json").write_text(json.dumps(sums, indent=1), encoding="utf-8")
    os.umask(mask := os.umask(0))
    for path in temporary.iterdir():
        path.chmod(0o666 & ~mask)  # safetensors writes for its owner alone
        _sync(path)
    _sync(temporary)
    if final.exists():  # written before, by a run that was interrupted later
        final.rename(final.with_name(f".{final.name}.old"))
    temporary.rename(final)
    _sync(final.parent)
    shutil.rmtree(final.with_name(f".{final.name}.old"), ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_training(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Continue from a checkpoint: load everything that `save_checkpoint` wrote, in place, on any number of ranks."""
    load_shares(checkpoint, model, optimizer)
    return read_state(checkpoint)


def read_parameters(checkpoint: Path) -> dict[str, Tensor]:
    """Read the parameters alone, whole.

    Raises:
        CheckpointError: they are missing or broken.
    """
    if has_shares(checkpoint):
        return read_shares(checkpoint)
    return load_tensors(checkpoint / "model.safetensors")


def check_same_run(state: TrainState, *, data: str, batches_per_step: int, where: str) -> None:
    """Compare what a run goes on with: the same data, in the same global batches.

    Raises:
        CheckpointError: the utterances changed, or ranks x train.accumulate is another number.
    """
    if state.data != data:
        raise CheckpointError(
            f"{where}: the utterances of data.manifests are others than those the run began with; restore the "
            "manifests, or start a new run from this one with checkpoint="
        )
    if state.batches_per_step != batches_per_step:
        raise CheckpointError(
            f"{where}: the run takes {state.batches_per_step} batches a step, these ranks would take "
            f"{batches_per_step}; choose train.accumulate so that ranks x train.accumulate is {state.batches_per_step}"
        )


def software_versions() -> dict[str, str]:
    """Return the versions that a checkpoint notes."""
    commit = source_commit()
    ours = speechssl.__version__ + (f" at {commit}" if commit else "")
    return {"python": platform.python_version(), "torch": torch.__version__, "speechssl": ours}


def this_machine(state: TrainState, ranks: Ranks) -> dict[str, Any]:
    """Return the entry of `state.machines` for where the run is now, a new one if it was elsewhere before."""
    is_cuda = ranks.device.type == "cuda"
    here = {
        "device": torch.cuda.get_device_name(ranks.device) if is_cuda else ranks.device.type,
        "devices": ranks.world_size,
        "cores": ranks.world_size * torch.get_num_threads(),
    }
    for entry in state.machines:
        if {**entry, **here} == entry:
            return entry
    state.machines.append({**here, "wall_seconds": 0.0})
    return state.machines[-1]


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
    own = model.state_dict()
    wrong = sorted({*chosen} ^ {*own}) + [k for k in chosen if k in own and chosen[k].shape != own[k].shape]
    if wrong:
        raise CheckpointError(
            f"{where}: {len(wrong)} parameters do not fit this model: {', '.join(wrong[:3])}; "
            "the checkpoint belongs to another configuration"
        )
    model.load_state_dict(chosen)


def run_folder(path: Path) -> Path:
    """Return the folder of the run that `path` names, itself or by one of its checkpoints.

    A folder that says itself what its model is, as a converted one does, is none of them, whatever its name.
    """
    return path.parent if path.name.startswith("step_") and not (path / DESCRIPTION).exists() else path


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
