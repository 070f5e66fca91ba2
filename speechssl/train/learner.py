"""One update: micro-batches of all ranks -> gradients -> weights; non-finite updates are skipped."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from speechssl.config import configuration
from speechssl.data.batching import Batch, seeded_generator
from speechssl.errors import ConfigError, TrainingError
from speechssl.model.context import StepContext
from speechssl.model.host import send
from speechssl.parallel import Ranks
from speechssl.tasks.model import LossSum, TaskModel
from speechssl.train.checkpoint import TrainState
from speechssl.train.distributed import ParallelConfig, exchanging
from speechssl.train.monitor import HealthConfig
from speechssl.train.optim import OptimConfig, scale_gradients, set_learning_rate
from speechssl.train.runlog import LogConfig

__all__ = ["Learner", "MicroBatch", "TrainConfig", "Update", "seeded_context"]

EMPTY_IN_A_ROW = 100  # attempts of a step without usable audio on any rank before the run fails
RECENT = 2000  # number of recent examples at which the counts for the share of bad audio are halved
FEWEST = 200  # smallest divisor of the share of bad audio, so that one bad file among the first ten does not stop a run


@configuration
class TrainConfig:
    """Length of a run, evaluation, checkpoints and logs."""

    steps: int = 400_000
    accumulate: int = 1  # batches per step on each rank (fairseq: update_freq)
    log_every: int = 100
    save_every: int = 1000
    eval_every: int = 0  # steps between evaluations; 0 for none
    keep: int = 2  # newest checkpoints to keep beside the best: one to go back to if the newest is broken
    keep_best: int = 1  # checkpoints with the best scores to keep, for `speechssl average`
    patience: int = 0  # evaluations in a row without a better score, after the grace, that end the run; 0: no limit
    bfloat16: bool = False  # autocast to bfloat16
    parallel: ParallelConfig = ParallelConfig()
    log: LogConfig = LogConfig()
    workers: int = 0  # processes that read audio, on each rank
    stop_after_skipped: int = 10  # steps in a row with non-finite loss or gradient after which the run stops
    health: HealthConfig = HealthConfig()

    def __post_init__(self) -> None:
        if self.keep_best < 1 or self.patience < 0:
            raise ConfigError(
                "train.keep_best must be 1 or more and train.patience not negative, found "
                f"{self.keep_best} and {self.patience}"
            )
        if self.patience and not self.eval_every:
            raise ConfigError("train.patience counts evaluations: set train.eval_every, or leave train.patience at 0")
        if min(self.steps, self.accumulate, self.log_every, self.save_every, self.keep, self.stop_after_skipped) < 1:
            raise ConfigError(
                "train.steps, accumulate, log_every, save_every, keep and stop_after_skipped must be 1 or more, found "
                f"{self.steps}, {self.accumulate}, {self.log_every}, {self.save_every}, {self.keep}, "
                f"{self.stop_after_skipped}"
            )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The result of this rank for one batch of a step."""

    number: int  # number of the batch in the step, over all ranks
    epoch: int
    index: int  # index of the batch in the epoch
    ids: tuple[str, ...]  # ids of the utterances
    value: Tensor  # (), loss summed over predictions
    count: Tensor  # () int64, number of predictions


@dataclass(frozen=True, kw_only=True)
class Update:
    """The result of one update."""

    loss: float  # loss summed over all ranks
    count: int  # number of predictions over all ranks
    norm: float  # norm of the gradients
    must_stop: bool  # whether a rank was asked to stop
    micro_batches: tuple[MicroBatch, ...]  # batches of this rank
    totals: dict[str, Tensor]  # sums of this rank's metrics for the meter: () each, on the device
    counts: dict[str, int]  # number of values in each sum
    tallies: dict[str, Tensor]  # sums of this rank's tallies, on the device

    @property
    def is_finite(self) -> bool:
        """Whether the weights were updated."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Learner:
    """Makes updates of a model with its optimiser."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        optim: OptimConfig,
        config: TrainConfig,
        ranks: Ranks,
        max_bad_share: float = 1.0,
    ) -> None:
        """Set up the updates of `model`, a plain module or the result of `distribute`.

        Parameter groups of the optimiser without `lr_scale` learn at the full rate.
        """
        self.model, self.optimizer, self.max_bad_share = model, optimizer, max_bad_share
        self.seed, self.optim, self.config, self.ranks = seed, optim, config, ranks
        self.plain_model = model.module if isinstance(model, DistributedDataParallel) else model
        for group in optimizer.param_groups:
            group.setdefault("lr_scale", 1.0)

    def update(
        self,
        batches: Iterator[tuple[int, int, Batch]],
        state: TrainState,
        *,
        say: Callable[[str], None],
        wants_stop: bool = False,
        watch: Callable[[], dict[str, Tensor]] | None = None,
    ) -> Update:
        """Take one step on the next batches, and count it in `state`.

        If loss or gradient is not finite on any rank, no rank updates its weights.

        Args:
            batches: iterator over (epoch, position after the batch, batch).
            state: progress of the run; changed only after the gradients are computed, so that a failure before leaves
                it consistent.
            say: called with the reason for each skipped utterance.
            wants_stop: whether this rank was asked to stop after the step.
            watch: returns metrics of the gradients, () each, proportional to the gradients.

        Raises:
            TrainingError: no batch has usable audio, or too much of the recent audio is bad; on all ranks.
        """
        self.model.train()
        set_learning_rate(self.optimizer, state.step, self.config.steps, self.optim)
        for _ in range(EMPTY_IN_A_ROW):
            seen = _Seen(self.ranks)
            for turn in range(self.config.accumulate):
                batch, number = seen.take(batches, turn, say)
                context = seeded_context(self.seed, state.step, number)
                with exchanging(self.model, is_last=turn == self.config.accumulate - 1):
                    with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.bfloat16):
                        loss: LossSum = self.model(batch.to(self.ranks.device), context)
                    (loss.value * (0 if batch.is_stand_in else 1)).backward()  # a stand-in has no effect
                seen.add(batch, number, loss)
            sums = self.ranks.sum(seen.sums(wants_stop))
            factor = (self.ranks.world_size / sums[1].clamp(min=1)).float()  # DDP and FSDP average over ranks
            watched = {name: metric * factor for name, metric in (watch() if watch else {}).items()}
            norm = scale_gradients(self.model, factor, self.optim.max_grad_norm)
            # the only synchronisation of an update, after all its work is queued
            done = _Done(*torch.cat([sums, norm[None]]).cpu().tolist())
            self._count(state, seen, done)
            if done.predicted:
                break
            self.optimizer.zero_grad(set_to_none=True)  # all batches were stand-ins
        else:
            raise TrainingError(f"{EMPTY_IN_A_ROW} batches in a row hold no usable audio; see the reasons above")
        update = seen.update(done, {"loss": (sums[0] / sums[1]).to(norm.dtype), "grad_norm": norm} | watched)
        state.step += 1
        if update.is_finite:
            self.optimizer.step()
            if isinstance(self.plain_model, TaskModel):
                self.plain_model.after_step(state.step)
        self.optimizer.zero_grad(set_to_none=True)
        return update

    def _count(self, state: TrainState, seen: "_Seen", done: "_Done") -> None:
        """Update `state`; fail if more than the allowed share of the last 1,000 to 2,000 examples was bad."""
        state.epoch, state.position = seen.epoch, seen.position
        state.audio_seconds += done.seconds
        state.skipped += int(done.skipped)
        state.recent, state.recent_bad = state.recent + int(done.examples), state.recent_bad + int(done.skipped)
        if state.recent_bad > self.max_bad_share * max(state.recent, FEWEST):
            raise TrainingError(
                f"step {state.step}: the audio of {state.recent_bad} of the last {state.recent} utterances is bad, "
                f"expected at most {self.max_bad_share:.1%} (data.max_bad_share); see the reasons above, and "
                "`speechssl manifest check`; repair the files or raise the share, and the same command goes on from "
                "the last checkpoint"
            )
        if state.recent >= RECENT:
            state.recent, state.recent_bad = state.recent // 2, state.recent_bad // 2


class _Done(NamedTuple):
    """Sums over the batches of a step on all ranks."""

    loss: float
    predicted: float  # number of predicted frames or utterances
    stops: float  # number of ranks that were asked to stop
    seconds: float  # seconds of audio
    skipped: float  # number of skipped examples
    examples: float  # number of examples, including skipped ones
    norm: float  # norm of the gradients


class _Seen:
    """Sums over the batches of one step on this rank."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.epoch = self.position = self.skipped = self.examples = 0
        self.seconds = 0.0
        self.micro_batches: list[MicroBatch] = []
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.tallies: dict[str, Tensor] = {}

    def take(
        self, batches: Iterator[tuple[int, int, Batch]], turn: int, say: Callable[[str], None]
    ) -> tuple[Batch, int]:
        """Take the next batch, report its skipped utterances, and return it with its number in the step."""
        started = time.perf_counter()
        self.epoch, self.position, batch = next(batches)
        self._add("data_wait_s", torch.tensor(time.perf_counter() - started))
        self.skipped += len(batch.skipped)
        self.examples += len(batch.ids) + len(batch.skipped)
        for reason in batch.skipped:
            say(f"skipped: {reason}")
        return batch, turn * self.ranks.world_size + self.ranks.rank

    def add(self, batch: Batch, number: int, loss: LossSum) -> None:
        """Add the results of a batch; a stand-in adds metrics with count 0, so that all ranks have the same names."""
        is_counted = not batch.is_stand_in
        for name, metric in {"padding": torch.tensor(batch.padding), **loss.parts}.items():
            self._add(name, metric.detach(), is_counted=is_counted)
        for name, tally in loss.tallies.items():
            self.tallies[name] = self.tallies.get(name, 0) + tally * is_counted
        if is_counted:
            self.seconds += batch.duration_s
            index = self.position - self.ranks.world_size + self.ranks.rank
            self.micro_batches.append(
                MicroBatch(
                    number=number,
                    epoch=self.epoch,
                    index=index,
                    ids=batch.ids,
                    value=loss.value.detach(),
                    count=loss.count,
                )
            )

    def _add(self, name: str, metric: Tensor, *, is_counted: bool = True) -> None:
        metric = metric if is_counted else torch.zeros_like(metric)
        self.totals[name] = self.totals[name] + metric if name in self.totals else metric
        self.counts[name] = self.counts.get(name, 0) + is_counted

    def sums(self, wants_stop: bool) -> Tensor:
        """Return the first six fields of `_Done` for this rank: (6,) float64 on the device."""
        device = self.ranks.device
        nothing = torch.zeros((), dtype=torch.float64, device=device)
        loss = sum((batch.value.double() for batch in self.micro_batches), nothing)
        count = sum((batch.count.double() for batch in self.micro_batches), nothing)
        host = torch.tensor([wants_stop, self.seconds, self.skipped, self.examples], dtype=torch.float64)
        return torch.cat([torch.stack([loss, count]), send(host, device)])

    def update(self, done: _Done, each_step: Mapping[str, Tensor]) -> Update:
        """Make the `Update` of the step; `each_step` has the metrics with one value per step."""
        return Update(
            loss=done.loss,
            count=int(done.predicted),
            norm=done.norm,
            must_stop=done.stops > 0,
            micro_batches=tuple(self.micro_batches),
            totals=self.totals | dict(each_step),
            counts=self.counts | dict.fromkeys(each_step, 1),
            tallies=self.tallies,
        )


def seeded_context(seed: int, step: int, number: int) -> StepContext:
    """Return the context of a micro-batch, and seed torch's generators for dropout.

    All draws depend only on (seed, step, number in the step): a resumed run draws the same, on any device, and the
    draws for a global batch do not depend on the number of ranks. Layer drop depends on (seed, step) only, so that all
    ranks and batches of a step agree.
    """
    torch.manual_seed(seeded_generator(seed, "dropout", step, number).initial_seed())
    masks = torch.Generator().manual_seed(seeded_generator(seed, "masks", step, number).initial_seed())
    return StepContext(step=step, generator=masks, layer_seed=seeded_generator(seed, "layers", step).initial_seed())
