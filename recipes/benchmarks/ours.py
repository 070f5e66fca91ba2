"""Our own contenders: the steps of `speechssl.train.loop.fit` itself, and the trunk alone."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from threading import Thread

from learners import Runner
from measuring import Outcome
from sizes import VOCABULARY, Size
from torch import nn

from speechssl.data.batching import Batch
from speechssl.model.encoder import SpeechEncoder
from speechssl.objective.ctc import CTCModel
from speechssl.objective.loss import LossSum
from speechssl.objective.pretraining import PretrainModel, build_objective
from speechssl.parallel import start_ranks
from speechssl.train.loop import TrainConfig, fit
from speechssl.train.optim import OptimConfig

__all__ = ["OurLearner", "our_extractor", "our_learner"]

NEVER = 10**9  # steps until a report, a checkpoint, the end


class Stop(Exception):  # noqa: N818 - it ends a run, nothing is wrong
    """Ends `fit` from within its batches."""


class OurLearner:
    """A run of `fit` in a thread of its own, which gets one batch at a time: what is timed is what trains.

    A step lasts from the batch that is handed over to the request for the next one.
    """

    def __init__(self, model: PretrainModel | CTCModel, optim: OptimConfig, *, seed: int = 0) -> None:
        """Start the run, which waits for its first batch."""
        self.model = model
        self._optim, self._seed = optim, seed
        self._work: Queue[Batch | Callable[[], object]] = Queue()
        self._errors: Queue[BaseException | None] = Queue()  # one for each piece of work; None if all went well
        self._loss: LossSum | None = None
        model.register_forward_hook(self._keep_loss)
        Thread(target=self._run, daemon=True).start()

    def __call__(self, batch: Batch) -> Outcome:
        """Take one step."""
        self.run(batch)
        assert self._loss is not None
        count = int(self._loss.count)
        return Outcome(loss=self._loss.value.item() / count, predicted=count, audio_s=batch.duration_s)

    def run(self, work: Batch | Callable[[], object]) -> None:
        """Take a step, or call a function in the thread of the run, between two steps."""
        self._work.put(work)
        if (error := self._errors.get()) is not None:
            raise error

    def close(self) -> None:
        """End the run, which keeps the model in memory."""

        def stop() -> None:
            raise Stop

        with suppress(Stop):
            self.run(stop)

    def _keep_loss(self, _module: nn.Module, _inputs: object, loss: LossSum) -> None:
        self._loss = LossSum(value=loss.value.detach(), count=loss.count, parts={})

    def _run(self) -> None:
        try:
            with TemporaryDirectory() as folder:
                fit(
                    self.model,
                    lambda _epoch, _position: self._batches(),
                    out=Path(folder),
                    seed=self._seed,
                    optim=self._optim,
                    config=TrainConfig(steps=NEVER, log_every=NEVER, save_every=NEVER),
                    ranks=start_ranks(),
                    title="benchmark",
                )
        except BaseException as error:  # raised again in the thread that waits
            self._errors.put(error)

    def _batches(self) -> Iterator[tuple[int, int, Batch]]:
        position = 0
        while True:
            work = self._work.get()
            if isinstance(work, Batch):
                yield 0, position, work
                position += 1
            else:
                work()
            self._errors.put(None)


def our_learner(size: Size, task: str) -> OurLearner:
    """Build our model for `wav2vec2`, `hubert` or `ctc`."""
    dim, conv_dim = size.encoder.transformer.dim, size.encoder.conv[-1][0]
    match task:
        case "wav2vec2":
            objective = build_objective(size.contrastive, dim=dim, conv_dim=conv_dim, clusters=())
            return OurLearner(PretrainModel(SpeechEncoder(size.encoder), objective), size.optim)
        case "hubert":
            objective = build_objective(size.masked_prediction, dim=dim, conv_dim=conv_dim, clusters=size.clusters)
            return OurLearner(PretrainModel(SpeechEncoder(size.encoder), objective), size.optim)
        case "ctc":
            return OurLearner(CTCModel(SpeechEncoder(size.ctc_encoder), size.ctc, VOCABULARY), size.ctc_optim)
        case _:
            raise ValueError(f"no such task: {task}")


def our_extractor(size: Size) -> Runner:
    """Build our trunk for feature extraction."""
    encoder = SpeechEncoder(size.encoder).eval()
    return Runner(encoder, lambda batch: encoder(batch.waveforms, batch.num_samples).last)
