"""Failures of the machine in words a user can act on: a rank or a reader that died, memory that ran out."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as distributed

from speechssl.data.deaths import explained_deaths
from speechssl.errors import TrainingError
from speechssl.parallel import Ranks
from speechssl.train.checkpoint import TrainState

__all__ = ["explained_failures"]

PATIENCE_S = 10.0  # that the living ranks wait for each other to say so


@contextmanager
def explained_failures(ranks: Ranks, state: TrainState) -> Iterator[None]:
    """Turn torch's errors for a lost rank, a lost process that reads and full memory into a `TrainingError`.

    Raises:
        TrainingError: instead of them.
    """
    try:
        with explained_deaths():
            yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"step {state.step}: memory ran out on {ranks.device} ({str(error).splitlines()[0]}); lower batch.seconds "
            "and raise train.accumulate by as much; the same command goes on from the last checkpoint"
        ) from error
    except RuntimeError as error:
        if ranks.world_size == 1 or not _is_of_exchange(error):
            raise
        lost = _lost_ranks(ranks)
        who = f"rank {', '.join(map(str, lost))} died" if lost else "the ranks lost each other"
        raise TrainingError(
            f"step {state.step}: {who} (rank {ranks.rank} saw: {str(error).splitlines()[0]}); its own message says "
            "why; torchrun with --max-restarts starts all ranks again, or the same command goes on from the last "
            "checkpoint"
        ) from error


def _is_of_exchange(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()  # gloo's have no class


def _lost_ranks(ranks: Ranks) -> list[int]:
    """Return the ranks that do not answer: each living one leaves a note in torchrun's store and looks for others'."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    notes = [f"speechssl/alive/{attempt}/{rank}" for rank in range(ranks.world_size)]
    try:
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=PATIENCE_S)
        )
        store.set(notes[ranks.rank], "1")
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and not store.check(notes):
            time.sleep(0.1)
        return [rank for rank, note in enumerate(notes) if not store.check([note])]
    except (KeyError, distributed.DistError):
        return [0]  # it holds the store
