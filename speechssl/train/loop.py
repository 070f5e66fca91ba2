"""The one training loop: pretraining with any task and CTC fine-tuning run through `fit`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from speechssl.data.batching import Batch
from speechssl.errors import TrainingError
from speechssl.train.checkpoint import TrainState
from speechssl.train.failures import explained_failures
from speechssl.train.health import Alarm
from speechssl.train.run import Run
from speechssl.train.stopping import StopRequest

__all__ = ["BatchesFrom", "fit"]

BatchesFrom = Callable[[int, int], Iterator[tuple[int, int, Batch]]]


def fit(run: Run, batches_from: BatchesFrom) -> Path:
    """Train until `run.config.steps`; return the folder of the last checkpoint.

    Args:
        run: the model and all that goes with it, new or as its last checkpoint left it.
        batches_from: gives this rank's batches from an (epoch, position) on, each with the (epoch, position) that
            follows.

    Raises:
        CheckpointError: a checkpoint cannot be written.
        TrainingError: too many steps in a row are not finite, too much audio is bad, or an alarm is to stop the
            run; what is done is saved.
        StoppedError: a signal asked to stop; the step it came in is done and saved.
    """
    state, config, log = run.state, run.config, run.log
    batches = batches_from(state.epoch, state.position)
    with StopRequest() as stop, log, explained_failures(run.ranks, state):
        if state.step:
            log.say(where_it_stands(state, config.steps))
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


def where_it_stands(state: TrainState, steps: int) -> str:
    """Say from where a run goes on, or that it does not."""
    if state.step < steps and not state.is_finished:
        return f"goes on from step {state.step} of {steps}"
    if state.step < steps:
        return f"ended at step {state.step} of {steps}, as train.patience said"
    return (
        f"already finished: {state.step} of {steps} steps. Its learning rate was planned for these; for more, give "
        "another out and train.steps=N"
    )


def stopped_by(alarms: Sequence[Alarm], saved: Path) -> TrainingError:
    """Say why a run stops that `health.stop` ends."""
    named = "; ".join(f"{alarm.name}: {alarm.message}" for alarm in alarms)
    return TrainingError(
        f"step {alarms[0].step}: stopped by an alarm, saved {saved}. {named} The same command goes on all the same; "
        "train.health.stop=false lets alarms pass"
    )
