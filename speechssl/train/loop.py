"""The one training loop: pretraining with either method and CTC fine-tuning run through `fit`."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from speechssl.config import configuration
from speechssl.data.batching import Batch, seeded_generator
from speechssl.errors import TrainingError
from speechssl.objective.loss import LossSum
from speechssl.parallel import Ranks
from speechssl.train.checkpoint import TrainState, last_checkpoint, load_training, save_checkpoint
from speechssl.train.optim import OptimConfig, build_optimizer, learning_rate, scale_gradients
from speechssl.train.runlog import RunLog

__all__ = ["Learner", "TrainConfig", "fit"]

Evaluate = Callable[[nn.Module], dict[str, float]]  # scores by name; the first, lower is better, picks the best step


@configuration
class TrainConfig:
    """Length of a run and what it leaves behind."""

    steps: int = 400_000
    accumulate: int = 1  # batches summed into one step on each rank (fairseq: update_freq)
    log_every: int = 100
    save_every: int = 1000
    eval_every: int = 0  # steps between evaluations; 0 for none
    keep: int = 1  # newest checkpoints kept, next to the best
    bfloat16: bool = False  # autocast, where the device has it
    workers: int = 0  # processes that read audio, on each rank


def fit(
    model: nn.Module,
    batches_from: Callable[[int, int], Iterator[tuple[int, int, Batch]]],
    *,
    out: Path,
    seed: int,
    optim: OptimConfig,
    config: TrainConfig,
    ranks: Ranks,
    title: str,
    evaluate: Evaluate | None = None,
) -> Path:
    """Train until `config.steps`, from the newest checkpoint in `out` if there is one.

    Args:
        model: called as `model(batch, step=..., generator=...)`, returns a `LossSum`.
        batches_from: gives the batches from an (epoch, position) on, as (epoch, position, batch).
        out: run folder.
        seed: of masks, distractors and dropout; each rank draws its own.
        optim: optimiser and schedule.
        config: length and reports.
        ranks: this process among the others.
        title: of the progress bar.
        evaluate: called every `config.eval_every` steps and after the last, on the first rank.

    Returns:
        The folder of the last checkpoint.

    Raises:
        TrainingError: a loss or gradient is not finite, or no batch has usable audio.
    """
    model.to(ranks.device)
    optimizer = build_optimizer(model, optim)
    state = TrainState()
    if (checkpoint := last_checkpoint(out)) is not None:
        state = load_training(checkpoint, model, optimizer)
    learner = Learner(ranks.wrap(model), optimizer, seed=seed, optim=optim, config=config, ranks=ranks)
    batches = batches_from(state.epoch, state.position)
    meter = Meter()
    with RunLog(out, title, steps=config.steps, done=state.step, enabled=ranks.is_first) as log:
        while state.step < config.steps:
            started = time.perf_counter()
            losses, norm = learner.update(batches, state, say=log.say)
            state.wall_seconds += time.perf_counter() - started
            state.is_finished = state.step == config.steps
            meter.add(losses, norm)
            if state.step % config.log_every == 0 or state.is_finished:
                log.write(state.step, meter.report() | _progress(state, optimizer))
            log.advance(state.step, f"{state.audio_seconds / max(state.wall_seconds, 1e-9):.0f} audio-s/s")
            if evaluate and (state.is_finished or (config.eval_every and state.step % config.eval_every == 0)):
                _evaluate(evaluate, model, state, ranks, log)
            is_best = state.best_step == state.step
            if ranks.is_first and (is_best or state.is_finished or state.step % config.save_every == 0):
                save_checkpoint(out, model, optimizer, state, keep=config.keep)
        ranks.wait()
    return out / f"step_{state.step:08d}"


class Learner:
    """A model with its optimiser, and how one update goes."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        optim: OptimConfig,
        config: TrainConfig,
        ranks: Ranks,
    ) -> None:
        """Hold what all updates need; `model` may be wrapped for several ranks."""
        self.model, self.optimizer = model, optimizer
        self.seed, self.optim, self.config, self.ranks = seed, optim, config, ranks
        self.generator = torch.Generator(ranks.device)

    def update(
        self, batches: Iterator[tuple[int, int, Batch]], state: TrainState, *, say: Callable[[str], None]
    ) -> tuple[LossSum, Tensor]:
        """Take one step on the next batches, and count it in `state`.

        Args:
            batches: as (epoch, position, batch).
            state: of the run.
            say: told why an utterance was skipped.

        Returns:
            The loss summed over the batches, and the norm of the gradients, () float.

        Raises:
            TrainingError: a loss or gradient is not finite, or no batch has usable audio.
        """
        self.model.train()
        _seed_step(self.seed, state.step, self.ranks.rank, self.generator)
        rate = learning_rate(state.step, self.config.steps, self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self._accumulate(batches, state, say)
        count = self.ranks.sum(losses.count)  # over all ranks and accumulated batches: the only right divisor
        factor = self.ranks.world_size / count  # DDP averages gradients
        norm = scale_gradients(self.model, factor, self.optim.max_grad_norm)
        _stop_if_not_finite(losses, norm, state.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        return losses, norm

    def _accumulate(
        self, batches: Iterator[tuple[int, int, Batch]], state: TrainState, say: Callable[[str], None]
    ) -> LossSum:
        """Add up the gradients of `config.accumulate` batches; batches whose audio is all bad are passed over."""
        device = self.ranks.device
        value = torch.zeros((), device=device)
        count = torch.zeros((), dtype=torch.long, device=device)
        parts: dict[str, Tensor] = {}
        done = empty = 0
        while done < self.config.accumulate:
            state.epoch, state.position, batch = next(batches)
            state.position += 1
            for reason in batch.skipped:
                state.skipped += 1
                say(f"skipped: {reason}")
            if not batch.ids:
                empty += 1
                if empty == 100:
                    raise TrainingError("100 batches in a row hold no usable audio; see the reasons above")
                continue
            batch = batch.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bfloat16):
                loss = self.model(batch, step=state.step, generator=self.generator)
            loss.value.backward()
            value, count = value + loss.value.detach(), count + loss.count
            for name, part in loss.parts.items():
                parts[name] = parts.get(name, 0) + part.detach() / self.config.accumulate
            state.audio_seconds += batch.duration_s * self.ranks.world_size
            done += 1
        return LossSum(value=value, count=count, parts=parts)


def _seed_step(seed: int, step: int, rank: int, generator: torch.Generator) -> None:
    """Make what a step draws depend on (seed, step, rank) alone: a resumed run draws the same, on any device."""
    torch.manual_seed(seeded_generator(seed, "dropout", step, rank).initial_seed())
    generator.manual_seed(seeded_generator(seed, "masks", step, rank).initial_seed())


class Meter:
    """Averages over the steps since the last report."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, losses: LossSum, norm: Tensor) -> None:
        """Count one step."""
        values = {"loss": losses.value.detach() / losses.count.clamp(min=1), **losses.parts, "grad_norm": norm}
        for name, value in values.items():
            value = value.detach().float()  # stays on its device: to fetch it would make the next step wait
            self.totals[name] = self.totals[name] + value if name in self.totals else value
        self.steps += 1

    def report(self) -> dict[str, float]:
        """Return the averages and start anew."""
        means = {name: float(total) / self.steps for name, total in self.totals.items()}
        self.totals, self.steps = {}, 0
        return means


def _stop_if_not_finite(losses: LossSum, norm: Tensor, step: int) -> None:
    if not (bool(torch.isfinite(losses.value)) and bool(torch.isfinite(norm))):
        raise TrainingError(
            f"step {step}: loss {float(losses.value)}, gradient norm {float(norm)}: not finite, nothing was updated; "
            "lower optim.lr, set optim.max_grad_norm, or look for bad audio; the last checkpoint is kept"
        )


def _progress(state: TrainState, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return {
        "lr": optimizer.param_groups[0]["lr"],
        "hours_seen": state.audio_seconds / 3600,
        "audio_s_per_s": state.audio_seconds / max(state.wall_seconds, 1e-9),
        "epoch": state.epoch,
        "skipped": state.skipped,
    }


def _evaluate(evaluate: Evaluate, model: nn.Module, state: TrainState, ranks: Ranks, log: RunLog) -> None:
    if not ranks.is_first:
        return
    model.eval()
    with torch.no_grad():
        scores = evaluate(model)
    state.scores = scores
    log.write(state.step, scores)
    score = next(iter(scores.values()))
    if state.best_score is None or score < state.best_score:
        state.best_score, state.best_step = score, state.step
