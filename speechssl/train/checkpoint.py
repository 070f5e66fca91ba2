"""Checkpoints: one folder per step with safetensors and JSON files, written atomically. No pickles.

out/step_00001000/model.safetensors      parameters
                  optimizer.safetensors  Adam's moments, by parameter name
                  state.json             step, position in the data, scores, audio seen, sums since the last report
                  checksums.json         checksums of the files; if they are missing or differ, the checkpoint is broken
out/config.json                          the configuration of the run, written at its start

Ranks that hold shards of the model may write them in parallel, see `sharded`; everything else stays the same.

Checkpoints hold no state of random generators: all random draws are functions of (seed, step, number of the batch in
the step), learning rate and temperature are functions of the step. So a run resumes bit for bit, on any number of
ranks.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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

DESCRIPTION = "model.json"  # description of a trained or converted model (speechssl.hub.saved)
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))


@dataclass
class TrainState:
    """The progress of a run, updated in place."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # index of the next batch in the epoch
    audio_seconds: float = 0.0  # audio seen so far, without padding
    wall_seconds: float = 0.0  # time spent so far, over all interruptions
    best_score: float | None = None
    best_step: int | None = None
    best: list[tuple[float, int]] = field(default_factory=list)  # scores and steps of the best checkpoints, best first
    since_best: int = 0  # evaluations that count against `train.patience`
    skipped: int = 0  # examples left out because their audio was bad
    recent: int = 0  # number of recent examples; halved, with `recent_bad`, when the window is full
    recent_bad: int = 0  # recent examples with bad audio
    skipped_steps: int = 0  # steps without an update because loss or gradient was not finite
    skipped_in_a_row: int = 0  # skipped steps since the last update
    is_finished: bool = False
    scores: dict[str, float] = field(default_factory=dict)  # scores of the last evaluation
    is_unscored: bool = False  # the evaluation of this step failed and has to be repeated before the next step
    batches_per_step: int = 0  # batches per step over all ranks
    data: str = ""  # fingerprint of the utterances; `position` is valid for these only
    open_report: dict[str, Any] = field(default_factory=dict)  # sums, counts and tallies since the last report
    health: dict[str, Any] = field(default_factory=dict)  # state of the monitor
    versions: dict[str, str] = field(default_factory=dict)  # versions of the software that wrote the checkpoint
    machines: list[dict[str, Any]] = field(default_factory=list)  # machines that the run used, with seconds on each


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest checkpoint of a run folder, or None."""
    return max(out.glob("step_*[0-9]"), default=None)


def is_finished(out: Path) -> bool:
    """Return whether the run in a folder is finished; False if its newest checkpoint cannot be read."""
    checkpoint = last_checkpoint(out)
    try:
        return checkpoint is not None and read_state(checkpoint).is_finished
    except CheckpointError:
        return False


def newest_whole_checkpoint(out: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint with correct checksums, or None if there is no checkpoint.

    Newer, broken checkpoints are kept and renamed to `damaged_...`.

    Args:
        out: run folder.
        say: called with a message for each broken checkpoint.

    Raises:
        CheckpointError: all checkpoints are broken.
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
        CheckpointError: a file is missing or was changed.
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

    The folder gets its final name when everything is on disk: if a rank dies while saving, the previous checkpoint
    remains the newest one.

    Args:
        out: run folder.
        model: model to save.
        optimizer: optimiser of its parameters.
        state: progress of the run, on the first rank.
        keep: number of newest checkpoints to keep.
        ranks: this process among the others; all ranks have to call this function.
        in_shares: True: each rank writes its shard; False: the first rank writes everything.

    Raises:
        CheckpointError: the checkpoint cannot be written; older ones are unchanged.
    """
    final = out / f"step_{state.step:08d}"
    temporary = out / f".{final.name}.tmp"  # a name that all ranks know, unlike those of `atomic`
    try:
        if ranks.is_first:
            for left_behind in out.glob(".step_*"):  # left by a process that was killed while saving
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
    """Write checksums, sync everything to disk, and rename the folder; `atomic` does not sync."""
    sums = {path.name: fingerprint.of_file(path) for path in sorted(temporary.iterdir())}
    (temporary / "checksums.json").write_text(json.dumps(sums, indent=1), encoding="utf-8")
    os.umask(mask := os.umask(0))
    for path in temporary.iterdir():
        path.chmod(0o666 & ~mask)  # safetensors makes files readable by their owner only
        _sync(path)
    _sync(temporary)
    if final.exists():  # written earlier by a run that resumed from an older checkpoint
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
    """Load model and optimiser in place from a checkpoint, on any number of ranks, and return the state of the run."""
    load_shares(checkpoint, model, optimizer)
    return read_state(checkpoint)


def read_parameters(checkpoint: Path) -> dict[str, Tensor]:
    """Read the parameters of a checkpoint, without the optimiser.

    Raises:
        CheckpointError: files are missing or broken.
    """
    if has_shares(checkpoint):
        return read_shares(checkpoint)
    return load_tensors(checkpoint / "model.safetensors")


def check_same_run(state: TrainState, *, data: str, batches_per_step: int, where: str) -> None:
    """Check that a run resumes with the same data in the same global batches.

    Raises:
        CheckpointError: the utterances or ranks x train.accumulate changed.
    """
    if state.data != data:
        raise CheckpointError(
            f"{where}: the utterances of data.manifests are others than those at the start of the run; restore the "
            "manifests, or start a new run from this one with checkpoint="
        )
    if state.batches_per_step != batches_per_step:
        raise CheckpointError(
            f"{where}: the run takes {state.batches_per_step} batches a step, these ranks would take "
            f"{batches_per_step}; choose train.accumulate so that ranks x train.accumulate is {state.batches_per_step}"
        )


def software_versions() -> dict[str, str]:
    """Return the software versions that are recorded in a checkpoint."""
    commit = source_commit()
    ours = speechssl.__version__ + (f" at {commit}" if commit else "")
    return {"python": platform.python_version(), "torch": torch.__version__, "speechssl": ours}


def this_machine(state: TrainState, ranks: Ranks) -> dict[str, Any]:
    """Return the entry of `state.machines` for this machine, which is added if it is missing."""
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
    """Read all tensors of a safetensors file.

    Each maps the file by itself, so that its memory is released with it and not with the last of all tensors.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        tensors = {}
        for name in names:
            with safe_open(path, framework="pt") as file:
                tensors[name] = file.get_tensor(name)
        return tensors
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); copy it again, or remove this checkpoint and use the one before"
        ) from error


def fill(model: nn.Module, tensors: dict[str, Tensor], *, where: str, prefix: str = "") -> None:
    """Load parameters into a model, strictly.

    Args:
        model: the model, changed in place.
        tensors: parameters by the model's names.
        where: origin of the tensors, for error messages.
        prefix: load only names with this prefix, and remove it: `encoder.` selects the encoder.

    Raises:
        CheckpointError: names or shapes do not match the model.
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
    """Return the run folder for `path`, which is a run folder or one of its checkpoints.

    A folder with its own `model.json`, such as a converted model, is never a checkpoint, whatever its name.
    """
    return path.parent if path.name.startswith("step_") and not (path / DESCRIPTION).exists() else path


def read_config(out: Path) -> dict[str, Any]:
    """Return the configuration of a run as nested values."""
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
