"""One update: micro-batches of all ranks -> gradients -> weights, or a step that is skipped and named."""

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

EMPTY_IN_A_ROW = 100  # times that no rank finds usable audio, after which a run gives up
RECENT = 2000  # examples after which those counted for the share of bad audio are halved
FEWEST = 200  # examples that the share is taken of, at least: one bad file among the first ten is no sign


@configuration
class TrainConfig:
    """Length of a run and what it leaves behind."""

    steps: int = 400_000
    accumulate: int = 1  # batches summed into one step on each rank (fairseq: update_freq)
    log_every: int = 100
    save_every: int = 1000
    eval_every: int = 0  # steps between evaluations; 0 for none
    keep: int = 2  # newest checkpoints kept, next to the best: one to go back to when the newest is broken
    keep_best: int = 1  # checkpoints with the best scores kept, for `speechssl average`
    patience: int = 0  # evaluations in a row without a better score that end the run, none in its grace; 0: it goes on
    bfloat16: bool = False  # autocast, where the device has it
    parallel: ParallelConfig = ParallelConfig()
    log: LogConfig = LogConfig()
    workers: int = 0  # processes that read audio, on each rank
    stop_after_skipped: int = 10  # steps in a row whose loss or gradient is not finite, before the run stops
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
    """What this rank computed on one batch of a step."""

    number: int  # in the step, over all ranks
    epoch: int
    index: int  # of the batch in the epoch
    ids: tuple[str, ...]
    value: Tensor  # () the loss, summed over what it predicts
    count: Tensor  # () int64


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update did."""

    loss: float  # summed over all ranks
    count: int  # what it predicts, over all ranks
    norm: float  # of the gradients
    must_stop: bool  # a rank was asked to
    micro_batches: tuple[MicroBatch, ...]  # of this rank
    totals: dict[str, Tensor]  # metrics of this rank for the meter, summed: () each, on the device
    counts: dict[str, int]  # of the values in each sum
    tallies: dict[str, Tensor]  # of this rank, summed, on the device

    @property
    def is_finite(self) -> bool:
        """Whether the weights were updated."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


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
        max_bad_share: float = 1.0,
    ) -> None:
        """Hold what all updates need; `model` may be what `distribute` returned.

        A group of the optimiser without `lr_scale` learns at the full rate.
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

        A step whose loss or gradient is not finite on any rank updates nothing on all of them.

        Args:
            batches: as (epoch, position to go on with, batch).
            state: of the run; changes when the step is done, so that a failure on the way leaves it whole.
            say: told why an utterance was skipped.
            wants_stop: this rank was asked to stop after the step.
            watch: gives metrics of the gradients, () each, in proportion to them.

        Raises:
            TrainingError: no batch has usable audio, or too much of the audio of late is bad; on all ranks.
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
                    (loss.value * (0 if batch.is_stand_in else 1)).backward()  # a stand-in only takes part
                seen.add(batch, number, loss)
            sums = self.ranks.sum(seen.sums(wants_stop))
            factor = (self.ranks.world_size / sums[1].clamp(min=1)).float()  # ranks average; the global count divides
            watched = {name: metric * factor for name, metric in (watch() if watch else {}).items()}
            norm = scale_gradients(self.model, factor, self.optim.max_grad_norm)
            # the one wait of an update for the device: all that comes before it is queued by now
            done = _Done(*torch.cat([sums, norm[None]]).cpu().tolist())
            self._count(state, seen, done)
            if done.predicted:
                break
            self.optimizer.zero_grad(set_to_none=True)  # of stand-ins
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
        """Note what was seen; stop where more than the allowed share of the last 1,000 to 2,000 examples was bad."""
        state.epoch, state.position = seen.epoch, seen.position
        state.audio_seconds += done.seconds
        state.skipped += int(done.skipped)
        state.recent, state.recent_bad = state.recent + int(done.examples), state.recent_bad + int(done.skipped)
        if state.recent_bad > self.max_bad_share * max(state.recent, FEWEST):
            raise TrainingError(
                f"step {state.step}: the audio of {state.recent_bad} of the last {state.recent} utterances is bad, "
                f"expected at most {self.max_bad_share:.1%} (data.max_bad_share); see the reasons above, and "
                "`speechssl manifest check`; mend the files or raise the share, and the same command goes on from the "
                "last checkpoint"
            )
        if state.recent >= RECENT:
            state.recent, state.recent_bad = state.recent // 2, state.recent_bad // 2


class _Done(NamedTuple):
    """What the batches of a step add up to, over all ranks."""

    loss: float
    predicted: float  # frames or utterances
    stops: float  # ranks that were asked to stop
    seconds: float  # of audio
    skipped: float  # examples
    examples: float  # also those skipped
    norm: float  # of the gradients


class _Seen:
    """What this rank saw of the batches of one step."""

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
        """Take the next batch, say what was skipped of it, and return it with its number in the step."""
        started = time.perf_counter()
        self.epoch, self.position, batch = next(batches)
        self._add("data_wait_s", torch.tensor(time.perf_counter() - started))
        self.skipped += len(batch.skipped)
        self.examples += len(batch.ids) + len(batch.skipped)
        for reason in batch.skipped:
            say(f"skipped: {reason}")
        return batch, turn * self.ranks.world_size + self.ranks.rank

    def add(self, batch: Batch, number: int, loss: LossSum) -> None:
        """Add up what a batch gave; every rank names the same metrics, so those of a stand-in count as nothing."""
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
        """Return what ranks add up, the first six of `_Done`: (6,) float64 on the device."""
        device = self.ranks.device
        nothing = torch.zeros((), dtype=torch.float64, device=device)
        loss = sum((batch.value.double() for batch in self.micro_batches), nothing)
        count = sum((batch.count.double() for batch in self.micro_batches), nothing)
        host = torch.tensor([wants_stop, self.seconds, self.skipped, self.examples], dtype=torch.float64)
        return torch.cat([torch.stack([loss, count]), send(host, device)])

    def update(self, done: _Done, each_step: Mapping[str, Tensor]) -> Update:
        """Describe the step, with metrics that it has one each of."""
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
    """Make what a micro-batch draws depend on (seed, step, number in the step) alone; seeds torch for its dropout.

    So a resumed run draws the same, on any device, and any number of ranks share the same global batch alike. Which
    layers are dropped depends on (seed, step): all ranks and batches of a step agree on it.
    """
    torch.manual_seed(seeded_generator(seed, "dropout", step, number).initial_seed())
    masks = torch.Generator().manual_seed(seeded_generator(seed, "masks", step, number).initial_seed())
    return StepContext(step=step, generator=masks, layer_seed=seeded_generator(seed, "layers", step).initial_seed())
