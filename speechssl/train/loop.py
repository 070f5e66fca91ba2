"""The training loop `fit`, used by pretraining and CTC fine-tuning alike."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Self

import torch
import torch.distributed as distributed

from speechssl.data.batching import Batch
from speechssl.data.worker_deaths import explained_deaths
from speechssl.errors import StoppedError, TrainingError
from speechssl.parallel import Ranks
from speechssl.train.checkpoint import TrainState
from speechssl.train.monitor import Alarm
from speechssl.train.run import Run

__all__ = ["BatchesFrom", "StopRequest", "explained_failures", "fit"]

PATIENCE_S = 10.0  # seconds that the surviving ranks wait for each other's notes


@contextmanager
def explained_failures(ranks: Ranks, state: TrainState) -> Iterator[None]:
    """Turn torch's errors for a lost rank, a lost loader process and full memory into a `TrainingError`.

    Raises:
        TrainingError: one of these errors occurred.
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
        # gloo raises plain RuntimeErrors
        is_from_exchange = isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
        if ranks.world_size == 1 or not is_from_exchange:
            raise
        lost = _lost_ranks(ranks)
        who = f"rank {', '.join(map(str, lost))} died" if lost else "the ranks lost each other"
        raise TrainingError(
            f"step {state.step}: {who} (rank {ranks.rank} saw: {str(error).splitlines()[0]}); its own message says "
            "why; torchrun with --max-restarts starts all ranks again, or the same command goes on from the last "
            "checkpoint"
        ) from error


def _lost_ranks(ranks: Ranks) -> list[int]:
    """Return the ranks that do not answer; each surviving rank leaves a note in torchrun's store."""
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
        return [0]  # rank 0 holds the store


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # Slurm is often told to send SIGUSR1 before the time limit


class StopRequest:
    """Records signals while its block runs, instead of ending the process; a second SIGINT interrupts at once.

    Used as a context manager in the main thread. In other threads (a notebook's worker, a test) it does nothing.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # the first signal received
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Install the signal handlers."""
        for number in _SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)

    def error(self, step: int, where: object) -> StoppedError:
        """Return the exception that ends the run, with what was saved."""
        name = "another rank" if self.signal is None else self.signal.name
        return StoppedError(
            f"stopped by {name} after step {step}, saved in {where}; the same command goes on from there"
        )


BatchesFrom = Callable[[int, int], Iterator[tuple[int, int, Batch]]]


def fit(run: Run, batches_from: BatchesFrom) -> Path:
    """Train until `run.config.steps`; return the folder of the last checkpoint.

    Args:
        run: the run, new or loaded from its last checkpoint.
        batches_from: returns an iterator over this rank's batches from an (epoch, position) on, each with its epoch
            and the position that follows it.

    Raises:
        CheckpointError: a checkpoint cannot be written.
        TrainingError: too many steps in a row are not finite, too much audio is bad, or an alarm stops the run after
            a checkpoint.
        StoppedError: a signal asked to stop; the current step was finished and saved.
    """
    if not isinstance(run, Run):
        raise TypeError(f"expected a Run, found {type(run).__name__}: call fit(Run(model, out=...), batches_from)")
    state, config, log = run.state, run.config, run.log
    batches = batches_from(state.epoch, state.position)
    with StopRequest() as stop, log, explained_failures(run.ranks, state):
        if state.step:
            log.say(where_it_stands(state, config.steps, is_out_of_patience=run.is_out_of_patience))
        if state.is_unscored and run.evaluates is not None:
            run.evaluate(run.evaluates)
            run.save()
        while state.step < config.steps and not run.is_out_of_patience:
            update = run.update(batches, wants_stop=stop.signal is not None)
            alarms, is_kept = run.look()
            is_alone = run.ranks.world_size == 1
            must_stop = not state.is_finished and (update.must_stop or (is_alone and bool(stop.signal)))
            alarmed = config.health.stop and bool(alarms) and not state.is_finished
            if must_stop or alarmed or is_kept or run.is_due(config.save_every):
                saved = run.save()
            if alarmed:
                raise stopped_by(alarms, saved)
            if must_stop:
                raise stop.error(state.step, saved)
        run.ranks.wait()
    return run.out / f"step_{state.step:08d}"


def where_it_stands(state: TrainState, steps: int, *, is_out_of_patience: bool) -> str:
    """Return a message that says from where a run goes on, or why it does not."""
    if state.step < steps and not is_out_of_patience:
        return f"goes on from step {state.step} of {steps}"
    if state.step < steps:
        return f"ended at step {state.step} of {steps}, as train.patience said"
    return (
        f"already finished: {state.step} of {steps} steps. Its learning rate was planned for these; for more, give "
        "another out and train.steps=N"
    )


def stopped_by(alarms: Sequence[Alarm], saved: Path) -> TrainingError:
    """Return the error of a run that `health.stop` ends."""
    named = "; ".join(f"{alarm.name}: {alarm.message}" for alarm in alarms)
    return TrainingError(
        f"step {alarms[0].step}: stopped by an alarm, saved {saved}. {named} The same command goes on from there; "
        "with train.health.stop=false, alarms do not stop a run"
    )
