"""Locks and ownership of run folders: one run per folder, one process at a time.

A run that computed nothing does not own its folder: the next configuration takes its place.
"""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechssl.atomic import write_atomically
from speechssl.config import flatten, from_dict, to_dict, to_stored
from speechssl.errors import CheckpointError, ConfigError
from speechssl.parallel import Ranks
from speechssl.text.policy import with_known_language
from speechssl.train.checkpoint import DESCRIPTION, read_config

__all__ = ["claim_run_folder", "hold_run_folder", "holds_work", "locked"]

_OF_TRAINING = (  # keys and sections of `learner.TrainConfig`
    *("accumulate", "keep", "log_every", "save_every", "workers", "stop_after_skipped", "patience"),
    *("health", "parallel", "log"),
)
MAY_CHANGE = (  # keys and sections that may differ in a resumed run: its folder, and keys that do not change results
    "out",
    *(
        f"{section}.{key}"
        for section in ("train", "tuning.train")  # the second is that of encoders in a probe
        for key in _OF_TRAINING
    ),
    *("data.loader", "data.max_bad_share"),
    # which audio is refused, not how it is read: so that bad audio that stops a run can be dealt with in the same run
    *(
        f"{section}.{key}"
        for section in ("data", "dev")
        for key in ("bad_audio", "audio.min_sample_rate", "audio.max_duration_s")
    ),
)
MOST_NAMED = 8  # maximum number of changed keys whose old values an error repeats
CONFIG, KMEANS = "config.json", "kmeans.safetensors"
SET_UP = (CONFIG, DESCRIPTION, "tensorboard", "wandb")  # files that a run writes before its first step
PEOPLES = (".err", ".log", ".out", ".sh", ".txt", ".yaml", ".yml")  # files of users; no stage writes such files


@contextmanager
def hold_run_folder(out: Path, config: object, ranks: Ranks) -> Iterator[None]:
    """Claim a run folder for `config` on the first rank, and lock it while the block runs.

    Raises:
        CheckpointError: another process uses the folder, it holds a run of another configuration, or it cannot be
            written.
    """
    if not ranks.is_first:
        ranks.wait()
        yield
        return
    with locked(out) as is_locked:
        claim_run_folder(out, config, may_replace=is_locked)
        ranks.wait()
        yield


def claim_run_folder(out: Path, config: object, *, may_replace: bool = True) -> None:
    """Write the configuration into a new run folder, or compare it with that of the run already there.

    A run that computed nothing, see `holds_work`, is replaced.

    Args:
        out: run folder, locked.
        config: configuration of the new run.
        may_replace: False if the folder could not be locked, since the other run may have just started.

    Raises:
        CheckpointError: the folder holds a run of another configuration.
    """
    path = out / CONFIG
    mine = to_dict(config)
    if not path.exists():
        write_atomically(path, json.dumps(to_stored(config), indent=1) + "\n")
        return
    written = read_config(out)
    before = _with_later_keys(written, type(config))
    old, new = ({k: v for k, v in flatten(values).items() if not _may_change(k)} for values in (before, mine))
    different = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    changes = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in different[:3])
    changes += f", and {len(different) - 3} more" if len(different) > 3 else ""
    if may_replace and "out" in written and not holds_work(out):
        for left in (DESCRIPTION, KMEANS):  # may describe data that have changed since
            (out / left).unlink(missing_ok=True)
        if different:
            write_atomically(path, json.dumps(to_stored(config), indent=1) + "\n")
            print(f"{out}: the run there computed nothing, so this one takes its place ({changes})", file=sys.stderr)
        return
    if different:
        again = " ".join(
            f"{key}={json.dumps(old[key], separators=(',', ':'))}" for key in different if key in old and key in new
        )
        raise CheckpointError(
            f"{out}: holds a run of another configuration ({changes}); name another out, or remove the folder"
            + (f", or go on as it began, with {again}" if len(different) <= MOST_NAMED and again else "")
            + (_more_steps(out, mine) if different == ["train.steps"] else "")
        )


def _more_steps(out: Path, config: dict[str, Any]) -> str:
    """Return the advice for a run that is to have more steps."""
    from_it = f" checkpoint={out} starts that one from what this one learned" if "fresh_head" in config else ""
    return f". Its learning rate was planned for its steps, so more of them are another run.{from_it}".rstrip()


def holds_work(out: Path) -> bool:
    """Return whether a folder holds any results, such as a checkpoint, labels, or a line of metrics.

    Everything counts except files that a run writes before its first step, and files of users.
    """
    return any(_is_work(path) for path in out.iterdir()) if out.is_dir() else False


def _is_work(path: Path) -> bool:
    if path.name in SET_UP or path.name.startswith(".") or path.suffix in PEOPLES:
        return False
    if path.is_dir():
        return any(each.is_file() for each in path.rglob("*"))
    if path.name == KMEANS and (path.parent / CONFIG).exists():
        return read_config(path.parent).get("kmeans") is None  # else it is a copy of the k-means named in the recipe
    return path.suffix != ".jsonl" or path.stat().st_size > 0  # logs are created empty


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def _with_later_keys(values: dict[str, Any], config_type: type) -> dict[str, Any]:
    """Add keys of later versions with their defaults, which do not change the run."""
    values, _ = with_known_language(values)
    try:
        return to_dict(from_dict(values, config_type, where="config.json"))
    except ConfigError:  # a key no longer exists; it will be named as a difference
        return values


@contextmanager
def locked(out: Path) -> Iterator[bool]:
    """Create a folder if needed and hold its lock, which the system releases however the process ends.

    This uses record locks instead of `flock`: loader processes would inherit the latter and may outlive a killed run.

    Yields:
        Whether the folder could be locked; some file systems have no locks.

    Raises:
        CheckpointError: another process holds the lock, or the folder cannot be written.
    """
    path = out / ".lock"
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{out}: cannot be written ({error.strerror}); name another out, or make it writable"
        ) from error
    with file:
        is_locked = True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise CheckpointError(
                    f"{out}: {holder} works in this folder; wait until it ends, stop it, or name another out"
                ) from error
            is_locked = False
            print(f"{out}: cannot be locked here ({error.strerror}); let no other run write into it", file=sys.stderr)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield is_locked
