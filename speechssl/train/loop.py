"""The one training loop: pretraining with either method and CTC fine-tuning run through `fit`."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from speechssl.data.batching import Batch
from speechssl.errors import TrainingError
from speechssl.parallel import Ranks, start_ranks
from speechssl.train.checkpoint import (
    TrainState,
    check_same_run,
    last_checkpoint,
    load_training,
    newest_whole_checkpoint,
    save_checkpoint,
    software_versions,
    this_machine,
)
from speechssl.train.failures import explained_failures
from speechssl.train.gradients import gradient_norms
from speechssl.train.health import Alarm, Facts, Guard
from speechssl.train.learner import Learner, TrainConfig, Update
from speechssl.train.meter import Meter, peak_memory_gib
from speechssl.train.optim import OptimConfig, build_optimizer
from speechssl.train.ranking import note_score
from speechssl.train.runlog import RunLog
from speechssl.train.skipped_steps import note_skipped_step
from speechssl.train.spread import is_sharded, outline, spread, whole_model
from speechssl.train.stopping import StopRequest

__all__ = ["Learner", "TrainConfig", "fit"]

BatchesFrom = Callable[[int, int], Iterator[tuple[int, int, Batch]]]
Evaluate = Callable[[nn.Module], dict[str, float]]  # scores by name; the first, lower is better, picks the best step


def fit(
    model: nn.Module,
    batches_from: BatchesFrom,
    *,
    out: Path | str,
    seed: int = 0,
    optim: OptimConfig | None = None,
    config: TrainConfig | None = None,
    ranks: Ranks | None = None,
    title: str = "training",
    data: str = "",
    max_bad_share: float = 1.0,
    evaluate: Evaluate | None = None,
    probe: Evaluate | None = None,
) -> Path:
    """Train until `config.steps`, from the newest whole checkpoint in `out` if any; return the folder of the last.

    Args:
        model: called as `model(batch, step=..., generator=...)`, returns a `LossSum`.
        batches_from: gives this rank's batches from an (epoch, position) on, each with the (epoch, position) that
            follows.
        out: run folder.
        seed: of masks, distractors and dropout.
        optim: optimiser and schedule; None for the defaults.
        config: length and reports; None for the defaults.
        ranks: this process among the others; None for those of the torchrun job, if there is one.
        title: of the progress bar.
        data: fingerprint of what is trained on.
        max_bad_share: of the utterances of late may have bad audio before the run stops.
        evaluate: called every `config.eval_every` steps and after the last, on the first rank.
        probe: called every `config.health.probe_every` steps and after the last, on the first rank.

    Raises:
        CheckpointError: no checkpoint is whole, or the newest is of other data; or one cannot be written.
        TrainingError: too many steps in a row are not finite, too much audio is bad, or an alarm is to stop the
            run; what is done is saved.
        StoppedError: a signal asked to stop; the step it came in is done and saved.
    """
    out = Path(out)
    optim, config, ranks = optim or OptimConfig(), config or TrainConfig(), ranks or start_ranks()
    run = Run(
        model, out=out, seed=seed, optim=optim, config=config, ranks=ranks, data=data, max_bad_share=max_bad_share
    )
    state = run.state
    batches = batches_from(state.epoch, state.position)
    log = RunLog(out, title, steps=config.steps, done=state.step, config=config.log, enabled=ranks.is_first)
    with StopRequest() as stop, log, explained_failures(ranks, state):
        if state.step:
            log.say(where_it_stands(state, config.steps))
        if state.is_unscored and evaluate is not None:
            run.evaluate(evaluate, log)
            run.save()
        while state.step < config.steps and not run.is_out_of_patience:
            update = run.update(batches, log, wants_stop=stop.signal is not None)
            alarms, is_kept = run.look(evaluate, probe, log)
            must_stop = not state.is_finished and (update.must_stop or (ranks.world_size == 1 and bool(stop.signal)))
            alarmed = config.health.stop and bool(alarms) and not state.is_finished
            if must_stop or alarmed or is_kept or run.is_due(config.save_every):
                saved = run.save()
            if alarmed:
                raise stopped_by(alarms, saved)
            if must_stop:
                raise stop.error(state.step, saved)
        ranks.wait()
    return out / f"step_{state.step:08d}"


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


class Run:
    """What a run consists of while it is in memory: model, optimiser, state, open averages."""

    def __init__(
        self,
        model: nn.Module,
        *,
        out: Path,
        seed: int,
        optim: OptimConfig,
        config: TrainConfig,
        ranks: Ranks,
        data: str,
        max_bad_share: float,
    ) -> None:
        """Build the optimiser and load the newest whole checkpoint of `out`, if there is one.

        Raises:
            CheckpointError: as `fit`.
        """
        self.model, self.out, self.config, self.ranks = model.to(ranks.device), out, config, ranks
        self.outline = outline(model)
        called = spread(model, config.parallel, ranks, bfloat16=config.bfloat16, accumulate=config.accumulate)
        self.optimizer = build_optimizer(model, optim)
        self.state = TrainState()
        self.meter = Meter(ranks)
        batches_per_step = ranks.world_size * config.accumulate
        if ranks.is_first:
            newest_whole_checkpoint(out, lambda message: print(message, file=sys.stderr))
        ranks.wait()  # until broken ones are out of the way
        if (checkpoint := last_checkpoint(out)) is not None:
            self.state = load_training(checkpoint, model, self.optimizer)
            check_same_run(self.state, data=data, batches_per_step=batches_per_step, where=str(checkpoint))
            self.meter.restore(self.state.open_report)
        self.state.data, self.state.batches_per_step = data, batches_per_step
        self.state.versions = software_versions()
        self.machine = this_machine(self.state, ranks)
        self.guard = Guard(config.health, Facts.of(model), self.state.health)
        self.learner = Learner(
            called, self.optimizer, seed=seed, optim=optim, config=config, ranks=ranks, max_bad_share=max_bad_share
        )

    def update(self, batches: Iterator[tuple[int, int, Batch]], log: RunLog, *, wants_stop: bool) -> Update:
        """Take one step; count it, or note why it was skipped.

        Raises:
            TrainingError: too many steps in a row are not finite, or no batch has usable audio.
        """
        state = self.state
        started = time.perf_counter()
        will_report = (state.step + 1) % self.config.log_every == 0
        watch = partial(gradient_norms, self.model) if will_report else None
        update = self.learner.update(batches, state, say=log.say, wants_stop=wants_stop, watch=watch)
        spent = time.perf_counter() - started
        state.wall_seconds += spent
        self.machine["wall_seconds"] += spent
        state.is_finished = state.step == self.config.steps
        log.advance(state.step, f"{state.audio_seconds / max(state.wall_seconds, 1e-9):.0f} audio-s/s")
        if update.is_finite:
            state.skipped_in_a_row = 0
            self.meter.add(update.totals, update.counts, update.tallies)
            return update
        state.skipped_steps += 1
        state.skipped_in_a_row += 1
        reason = note_skipped_step(self.out, self.model, update, state.step - 1, self.ranks)
        if state.skipped_in_a_row >= self.config.stop_after_skipped:
            raise TrainingError(f"{reason}; {state.skipped_in_a_row} steps in a row, so the run stops")
        log.say(reason)
        return update

    def is_due(self, every: int) -> bool:
        """Whether the step just done is the last, or one of those that come `every` so often; 0 is the last alone."""
        return self.state.is_finished or (every > 0 and self.state.step % every == 0)

    def look(self, evaluate: Evaluate | None, probe: Evaluate | None, log: RunLog) -> tuple[list[Alarm], bool]:
        """Report, evaluate and probe, each when due; return alarms, and whether the step is kept for its score."""
        config = self.config
        alarms = self.report(log) if self.is_due(config.log_every) else []
        is_kept = evaluate is not None and self.is_due(config.eval_every) and self.evaluate(evaluate, log)
        if probe is not None and config.health.probe_every and self.is_due(config.health.probe_every):
            self.probe(probe, log)
        return alarms, is_kept

    def report(self, log: RunLog) -> list[Alarm]:
        """Log the averages since the last report, and where the run is; return the alarms, the same on all ranks."""
        state = self.state
        values = self.meter.report() | {
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "hours_seen": state.audio_seconds / 3600,
            "audio_s_per_s": state.audio_seconds / max(state.wall_seconds, 1e-9),
            "memory_gib": peak_memory_gib(self.ranks.device),
            "epoch": state.epoch,
            "skipped": state.skipped,
            "skipped_steps": state.skipped_steps,
        }
        log.write(state.step, values, wall_s=state.wall_seconds)
        return self._watch(values, log)

    def _watch(self, values: Mapping[str, float], log: RunLog) -> list[Alarm]:
        """Return the alarms that figures give, after saying so."""
        alarms = self.guard.check(self.state.step, self.config.steps, values)
        self.state.health = self.guard.state
        for alarm in alarms:
            log.alarm(alarm.step, alarm.name, alarm.message)
        return alarms

    def evaluate(self, evaluate: Evaluate, log: RunLog) -> bool:
        """Score the model, on the first rank, and return, on all ranks, whether it is kept for its score.

        The run is finished where too many scores in a row were no better than one before. Where scoring fails, what
        was learned is saved first; the run that goes on scores it again.

        Raises:
            TrainingError: scoring failed, on a rank that does not score.
        """
        is_kept, failure = False, None
        model = whole_model(self.learner.model, self.outline, self.ranks)
        if model is not None:
            state = self.state
            model.eval()
            try:
                with torch.no_grad():
                    state.scores = evaluate(model)
            except Exception as error:
                failure = error
            else:
                log.write(state.step, state.scores, wall_s=state.wall_seconds)
                self._watch(state.scores, log)
                is_kept = note_score(
                    state,
                    next(iter(state.scores.values())),
                    keep_best=self.config.keep_best,
                    counts=state.step > self.guard.grace(self.config.steps),
                )
        since_best = self.state.since_best if self.ranks.is_first else 0
        noted = torch.tensor([is_kept, since_best, failure is not None], device=self.ranks.device)
        is_kept_anywhere, self.state.since_best, self.state.is_unscored = self.ranks.sum(noted.long()).tolist()
        self.state.is_unscored = bool(self.state.is_unscored)
        if self.state.is_unscored:
            saved = self.save()
            log.say(f"step {self.state.step}: scoring failed; saved {saved}, from which the same command goes on")
            raise failure or TrainingError(f"scoring failed on the first rank at step {self.state.step}; see its words")
        if self.is_out_of_patience and not self.state.is_finished:
            self.state.is_finished = True
            log.say(
                f"step {self.state.step}: {self.state.since_best} evaluations without a better score, so the run ends "
                "here; the same command goes on with a larger train.patience, or 0"
            )
        return bool(is_kept_anywhere)

    @property
    def is_out_of_patience(self) -> bool:
        """Whether so many evaluations in a row were no better than one before that the run ends."""
        return 0 < self.config.patience <= self.state.since_best

    def probe(self, probe: Evaluate, log: RunLog) -> None:
        """Log what the probe says of the model, on the first rank."""
        model = whole_model(self.learner.model, self.outline, self.ranks)
        if model is not None:
            log.write(self.state.step, probe(model), wall_s=self.state.wall_seconds)

    def save(self) -> Path:
        """Write a checkpoint, with the other ranks, and return its folder."""
        self.state.open_report = self.meter.state()
        saved = save_checkpoint(
            self.out,
            self.model,
            self.optimizer,
            self.state,
            keep=self.config.keep,
            ranks=self.ranks,
            in_shares=self.config.parallel.sharded_checkpoints and is_sharded(self.model),
        )
        self.ranks.wait()
        return saved
