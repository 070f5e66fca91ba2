"""A training run: model, optimiser and progress, with reports, evaluation and checkpoints."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from speechssl.data.batching import Batch
from speechssl.errors import TrainingError
from speechssl.parallel import Ranks, start_ranks
from speechssl.tasks.model import TaskModel
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
from speechssl.train.distributed import distribute, is_sharded, outline, whole_model
from speechssl.train.gradients import gradient_norms
from speechssl.train.learner import Learner, TrainConfig, Update
from speechssl.train.meter import Meter, peak_memory_gib
from speechssl.train.monitor import Alarm, Monitor
from speechssl.train.optim import OptimConfig, build_optimizer
from speechssl.train.runlog import RunLog
from speechssl.train.skipped_steps import note_skipped_step

__all__ = ["Evaluate", "Run", "note_score"]


def note_score(state: TrainState, score: float, *, keep_best: int, counts: bool) -> bool:
    """Record the score of the current step, and return whether it is among the best.

    Of equal scores the earlier one is better; NaN is worse than all others.

    Args:
        state: progress of the run, changed in place.
        score: score of the current step; lower is better.
        keep_best: number of best scores to remember.
        counts: whether this evaluation counts against the patience; evaluations in the grace steps do not.
    """
    comparable = math.inf if math.isnan(score) else score
    ranked = [(float(old), int(step)) for old, step in state.best if step != state.step]  # JSON has lists, no tuples
    if not ranked and state.best_score is not None and state.best_step is not None:  # checkpoint of an early version
        ranked = [(state.best_score, state.best_step)]
    is_best = not ranked or comparable < ranked[0][0]
    state.best = sorted([*ranked, (comparable, state.step)])[:keep_best]
    if is_best:
        state.best_score, state.best_step = comparable, state.step
    state.since_best = 0 if is_best else state.since_best + counts
    return any(step == state.step for _, step in state.best)


Evaluate = Callable[[nn.Module], dict[str, float]]  # scores by name; the first (lower is better) selects the best step


class Run:
    """A training run for `fit`: a new one, or one resumed from the newest complete checkpoint of its folder."""

    def __init__(
        self,
        model: nn.Module,
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
    ) -> None:
        """Move the model to its device, build the optimiser, and load the newest complete checkpoint if there is one.

        Args:
            model: called as `model(batch, context)` with a `Batch` and a `StepContext`, returns a `LossSum`.
            out: run folder.
            seed: seed of masks, negatives and dropout.
            optim: optimiser and schedule; None for the defaults.
            config: length and reports; None for the defaults.
            ranks: this process among the others; None for the ranks of the torchrun job, if there is one.
            title: title of the progress bar.
            data: fingerprint of the training data.
            max_bad_share: share of recent utterances that may have bad audio before the run stops.
            evaluate: called every `config.eval_every` steps and after the last, on the first rank.
            probe: called every `config.health.probe_every` steps and after the last, on the first rank.

        Raises:
            CheckpointError: all checkpoints are broken, or the newest belongs to other data.
        """
        optim, config, ranks = optim or OptimConfig(), config or TrainConfig(), ranks or start_ranks()
        self.model, self.out, self.config, self.ranks = model.to(ranks.device), Path(out), config, ranks
        self.evaluates, self.probes = evaluate, probe
        self.outline = outline(model)
        called = distribute(model, config.parallel, ranks, bfloat16=config.bfloat16, accumulate=config.accumulate)
        self.optimizer = build_optimizer(model, optim)
        self.state = TrainState()
        self.meter = Meter(ranks)
        batches_per_step = ranks.world_size * config.accumulate
        if ranks.is_first:
            newest_whole_checkpoint(self.out, lambda message: print(message, file=sys.stderr))
        ranks.wait()  # until broken checkpoints are renamed
        if (checkpoint := last_checkpoint(self.out)) is not None:
            self.state = load_training(checkpoint, model, self.optimizer)
            check_same_run(self.state, data=data, batches_per_step=batches_per_step, where=str(checkpoint))
            self.meter.restore(self.state.open_report)
        self.state.data, self.state.batches_per_step = data, batches_per_step
        self.state.versions = software_versions()
        self.machine = this_machine(self.state, ranks)
        self.monitor = Monitor(
            config.health, model.health() if isinstance(model, TaskModel) else None, self.state.health
        )
        self.learner = Learner(
            called, self.optimizer, seed=seed, optim=optim, config=config, ranks=ranks, max_bad_share=max_bad_share
        )
        self.log = RunLog(
            self.out, title, steps=config.steps, done=self.state.step, config=config.log, enabled=ranks.is_first
        )

    def update(self, batches: Iterator[tuple[int, int, Batch]], *, wants_stop: bool) -> Update:
        """Take one step; count it, or save a skipped step for a replay.

        Raises:
            TrainingError: too many steps in a row are not finite, or no batch has usable audio.
        """
        state = self.state
        started = time.perf_counter()
        will_report = (state.step + 1) % self.config.log_every == 0
        watch = partial(gradient_norms, self.model) if will_report else None
        update = self.learner.update(batches, state, say=self.log.say, wants_stop=wants_stop, watch=watch)
        spent = time.perf_counter() - started
        state.wall_seconds += spent
        self.machine["wall_seconds"] += spent
        state.is_finished = state.step == self.config.steps
        self.log.advance(state.step, f"{state.audio_seconds / max(state.wall_seconds, 1e-9):.0f} audio-s/s")
        if update.is_finite:
            state.skipped_in_a_row = 0
            self.meter.add(update.totals, update.counts, update.tallies)
            return update
        state.skipped_steps += 1
        state.skipped_in_a_row += 1
        reason = note_skipped_step(self.out, self.model, update, state.step - 1, self.ranks)
        if state.skipped_in_a_row >= self.config.stop_after_skipped:
            raise TrainingError(f"{reason}; {state.skipped_in_a_row} steps in a row, so the run stops")
        self.log.say(reason)
        return update

    def is_due(self, every: int) -> bool:
        """Return whether the current step is the last one or a multiple of `every`; 0 means the last one only."""
        return self.state.is_finished or (every > 0 and self.state.step % every == 0)

    def look(self) -> tuple[list[Alarm], bool]:
        """Report, evaluate and probe if due; return the alarms, and whether the step is among the best."""
        config = self.config
        alarms = self.report() if self.is_due(config.log_every) else []
        is_kept = self.evaluates is not None and self.is_due(config.eval_every) and self.evaluate(self.evaluates)
        if self.probes is not None and config.health.probe_every and self.is_due(config.health.probe_every):
            self.probe(self.probes)
        return alarms, is_kept

    def report(self) -> list[Alarm]:
        """Log the averages since the last report and the progress; return the alarms, the same on all ranks."""
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
        self.log.write(state.step, values, wall_s=state.wall_seconds)
        return self._watch(values)

    def _watch(self, values: Mapping[str, float]) -> list[Alarm]:
        """Compare metrics with the health bands, and log and return the alarms."""
        alarms = self.monitor.check(self.state.step, self.config.steps, values)
        self.state.health = self.monitor.state
        for alarm in alarms:
            self.log.alarm(alarm.step, alarm.name, alarm.message)
        return alarms

    def evaluate(self, evaluate: Evaluate) -> bool:
        """Score the model on the first rank, and return on all ranks whether it is among the best.

        The run ends if too many scores in a row were not better than an earlier one. If scoring fails, the model is
        saved first, and a resumed run scores it again.

        Raises:
            TrainingError: scoring failed; the first rank raises the original error instead.
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
                self.log.write(state.step, state.scores, wall_s=state.wall_seconds)
                self._watch(state.scores)
                is_kept = note_score(
                    state,
                    next(iter(state.scores.values())),
                    keep_best=self.config.keep_best,
                    counts=state.step > self.monitor.grace(self.config.steps),
                )
        since_best = self.state.since_best if self.ranks.is_first else 0
        noted = torch.tensor([is_kept, since_best, failure is not None], device=self.ranks.device)
        is_kept_anywhere, self.state.since_best, self.state.is_unscored = self.ranks.sum(noted.long()).tolist()
        self.state.is_unscored = bool(self.state.is_unscored)
        if self.state.is_unscored:
            saved = self.save()
            self.log.say(f"step {self.state.step}: scoring failed; saved {saved}, from which the same command goes on")
            raise failure or TrainingError(
                f"scoring failed on the first rank at step {self.state.step}; see its message"
            )
        if self.is_out_of_patience and not self.state.is_finished:
            self.state.is_finished = True
            self.log.say(
                f"step {self.state.step}: {self.state.since_best} evaluations without a better score, so the run ends "
                "here; the same command goes on with a larger train.patience, or 0"
            )
        return bool(is_kept_anywhere)

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the run ends because too many evaluations in a row were not better than an earlier one."""
        return 0 < self.config.patience <= self.state.since_best

    def probe(self, probe: Evaluate) -> None:
        """Run the probe on the first rank and log its metrics."""
        model = whole_model(self.learner.model, self.outline, self.ranks)
        if model is not None:
            self.log.write(self.state.step, probe(model), wall_s=self.state.wall_seconds)

    def save(self) -> Path:
        """Write a checkpoint and return its folder; all ranks have to call it."""
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
