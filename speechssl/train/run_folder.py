"""Who may write into a run folder: one run, by one process at a time."""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechssl.errors import CheckpointError
from speechssl.parallel import Ranks
from speechssl.train.checkpoint import claim_run_folder

__all__ = ["hold_run_folder", "locked"]


@contextmanager
def hold_run_folder(out: Path, config: object, ranks: Ranks) -> Iterator[None]:
    """Claim a run folder for `config`, on the first rank, and keep other processes out while the block runs.

    Raises:
        CheckpointError: another process works in it, it holds a run of another configuration, or cannot be written.
    """
    if not ranks.is_first:
        ranks.wait()
        yield
        return
    with locked(out):
        claim_run_folder(out, config)
        ranks.wait()
        yield


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if need be. The system gives it back however a process ends.

    Record locks, not those of `flock`: processes that read audio inherit the latter, and outlive a killed run.

    Raises:
        CheckpointError: another process holds it, or the folder cannot be written.
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
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise CheckpointError(
                    f"{out}: {holder} works in this folder; wait for its end, stop it, or name another out"
                ) from error
            print(f"{out}: cannot be locked here ({error.strerror}); let no other run write into it", file=sys.stderr)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
