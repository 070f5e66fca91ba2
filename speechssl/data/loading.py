"""Batches without end, read ahead of the training step: by processes of torch, or by threads of fairseq2's pipeline.

Both give the same batches in the same order, from any position, for any number of workers; samples of integer PCM
(wav, flac) are the same bit for bit. Which utterances a batch holds is `batching`'s affair.
"""

import atexit
import mmap
import multiprocessing
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from speechssl.audio.pcm import PcmReader, has_fairseq2, native_reader, read_pcm
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.batching import Batch, BatchSampler, Crop
from speechssl.data.dataset import SpeechDataset
from speechssl.data.utterances import Manifest
from speechssl.data.worker_deaths import deaths_at_batches, explained_deaths

__all__ = ["AHEAD", "Loader", "Packed", "SharedPlaces", "load_batches", "pack", "start_method"]


def start_method() -> str:
    """Return how processes that read are started: forked on Linux, unless the program asked for `spawn`.

    Python's own default there is a server from 3.14 on, whose processes import torch anew and inherit no memory.
    """
    default = multiprocessing.get_start_method()
    return "fork" if sys.platform == "linux" and default != "spawn" else default


class SharedPlaces:
    """For each process a few places, of the size of the largest batch, used in turn."""

    def __init__(self, workers: int, ahead: int, samples: int) -> None:
        """Share memory; pages count only once they are written.

        Args:
            workers: processes, forked from this one later.
            ahead: batches that each may be asked for while the parent copies one.
            samples: float32, in the largest batch.
        """
        shape = (workers, ahead + 1, samples)
        memory = mmap.mmap(-1, 4 * workers * (ahead + 1) * samples)
        self._places = torch.frombuffer(memory, dtype=torch.float32).view(shape)
        self._turn = -1

    @classmethod
    def where_processes_are_forked(cls, workers: int, ahead: int, samples: int) -> "SharedPlaces | None":
        """Share memory, or None where processes do not inherit it."""
        return cls(workers, ahead, samples) if start_method() == "fork" else None

    def take(self) -> tuple[tuple[int, int], Tensor]:
        """Return, in a process that reads, the next place: where it is, and its (samples,) float32."""
        info = get_worker_info()
        assert info is not None
        self._turn = (self._turn + 1) % self._places.shape[1]
        where = (info.id, self._turn)
        return where, self._places[where]

    def at(self, where: tuple[int, int]) -> Tensor:
        """Return the (samples,) float32 of a place."""
        return self._places[where]


@dataclass(frozen=True)
class Packed:
    """A batch on its way: arrays, which are sent by value, and where its waveforms lie."""

    batch: Batch  # without tensors
    arrays: dict[str, Any]  # by field
    where: tuple[int, int] | None  # None: the waveforms are among the arrays
    shape: tuple[int, int]

    def unpack(self, places: SharedPlaces | None, *, is_pinned: bool) -> Batch:
        """Return the batch, in memory of this process."""
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        if self.where is not None:
            assert places is not None
            shared = places.at(self.where)[: self.shape[0] * self.shape[1]].view(self.shape)
            tensors["waveforms"] = torch.empty(self.shape, pin_memory=is_pinned).copy_(shared)
        batch = replace(self.batch, **tensors)
        return batch.pin_memory() if is_pinned else batch


def pack(batch: Batch, where: tuple[int, int] | None, place: Tensor | None) -> Packed:
    """Make a batch ready to be sent.

    Args:
        batch: whose waveforms may lie at the place already.
        where: the place is; None without one.
        place: (samples,) float32; waveforms that do not fit are sent by value.
    """
    size = batch.waveforms.numel()
    if place is None or not 0 < size <= len(place):
        where = None
    elif batch.waveforms.data_ptr() != place.data_ptr():
        place[:size] = batch.waveforms.reshape(-1)
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    sent = {name: value.numpy() for name, value in tensors.items() if where is None or name != "waveforms"}
    nothing = torch.empty(0)
    bare: dict[str, Any] = {name: nothing if name in ("waveforms", "num_samples") else None for name in tensors}
    rows, time = batch.waveforms.shape
    return Packed(replace(batch, **bare), sent, where, (rows, time))


Loader = Literal["auto", "torch", "fairseq2"]
AHEAD = 4  # batches that each worker has ready or at hand


@dataclass(frozen=True)
class _Planned:
    """A batch to be read, and where all ranks go on after it."""

    epoch: int
    following: int  # position; may lie past the end, and then means the next epoch
    crops: Sequence[Crop]


def load_batches(
    dataset: SpeechDataset,
    sampler: BatchSampler,
    *,
    epoch: int,
    position: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    loader: Loader = "torch",
) -> Iterator[tuple[int, int, Batch]]:
    """Yield this rank's batches without end, from any place; the same for any loader and number of workers.

    The batches of all epochs are one sequence, and ranks take them in turn. Where a batch has no usable audio, a
    stand-in comes in its place, so that every rank has as many.

    Args:
        dataset: reads the crops.
        sampler: plans the epochs.
        epoch: to begin with.
        position: in it of the first batch that any rank takes.
        workers: processes (torch) or threads (fairseq2) that read; 0 reads when a batch is asked for.
        rank: of this process.
        world_size: number of ranks.
        loader: what reads; `auto` is fairseq2 for wav where it is installed, else torch: the faster one as measured
            (recipes/benchmarks/README.md, Feeding).

    Yields:
        Epoch and position with which all ranks go on after this batch, and the batch.

    Raises:
        SpeechSSLError: what the dataset raises; also from a worker.
        TrainingError: a worker died.
        ConfigError: `loader` is fairseq2, and it is not installed.
    """
    is_native = loader == "fairseq2" or (loader == "auto" and has_fairseq2() and _is_wav(dataset.manifest))
    planned = _plan(sampler, epoch, position, rank=rank, world_size=world_size)
    read = _Reader(dataset, native_reader() if is_native else read_pcm)
    if workers == 0:
        loaded = (read(plan) for plan in planned)
    elif is_native:
        loaded = _by_threads(read, planned, workers)
    else:
        loaded = _by_processes(read, planned, workers, int(sampler.config.seconds * SAMPLE_RATE))
    with _ended_in_time(loaded):
        for done in loaded:
            if done.batch.error is not None:
                raise done.batch.error
            is_empty = not done.batch.ids
            batch = replace(dataset.stand_in(), skipped=done.batch.skipped) if is_empty else done.batch
            yield done.epoch, done.following, batch


@contextmanager
def _ended_in_time(loaded: "Generator[_Loaded]") -> Iterator[None]:
    """End the workers with this context, even where an error's traceback keeps the frame, and before the interpreter.

    Processes that ignore signals, and threads that want Python's lock, would keep it from ending.
    """
    atexit.register(loaded.close)
    try:
        yield
    finally:
        atexit.unregister(loaded.close)
        loaded.close()


def _is_wav(manifest: Manifest) -> bool:
    """Whether most of a hundred utterances, spread over the manifest, are files that nothing compresses."""
    rows = manifest.utterances
    looked_at = [rows[place].path for place in range(0, len(rows), -(-len(rows) // 100))]
    return 2 * sum(path.lower().endswith(".wav") for path in looked_at) > len(looked_at)


@dataclass(frozen=True)
class _Loaded:
    epoch: int
    following: int
    batch: Batch


@dataclass(frozen=True)
class _Sent:
    epoch: int
    following: int
    packed: Packed


class _Reader:
    """What a worker does."""

    def __init__(self, dataset: SpeechDataset, read: PcmReader) -> None:
        self.dataset, self.read = dataset, read

    def __call__(self, planned: _Planned, place: Tensor | None = None) -> _Loaded:
        batch = self.dataset.batch(planned.crops, epoch=planned.epoch, read=self.read, place=place)
        return _Loaded(planned.epoch, planned.following, batch)


class _Sender(Dataset[_Sent]):
    """What a process does."""

    def __init__(self, read: _Reader, places: SharedPlaces | None) -> None:
        self.read, self.places = read, places

    def __getitem__(self, planned: _Planned) -> _Sent:
        where, place = (None, None) if self.places is None else self.places.take()
        done = self.read(planned, place)
        return _Sent(done.epoch, done.following, pack(done.batch, where, place))


def _plan(sampler: BatchSampler, epoch: int, position: int, *, rank: int, world_size: int) -> Iterator[_Planned]:
    position += rank
    while True:
        batches = sampler.epoch(epoch)
        for crops in batches[position::world_size]:
            position += world_size
            yield _Planned(epoch, position - rank, crops)
        epoch, position = epoch + 1, position - len(batches)


def _by_processes(read: _Reader, planned: Iterator[_Planned], workers: int, samples: int) -> Generator[_Loaded]:
    """Read with torch's loader; one set of processes serves all epochs."""
    places = SharedPlaces.where_processes_are_forked(workers, AHEAD, samples)
    loader: DataLoader[_Sent] = DataLoader(
        _Sender(read, places),
        batch_size=None,  # an item is a batch
        sampler=_Once(planned),
        num_workers=workers,
        collate_fn=_as_it_is,
        prefetch_factor=AHEAD,
        worker_init_fn=_ignore_stops,
        multiprocessing_context=start_method(),
        generator=torch.Generator(),  # or it would draw from the global one, and a resumed run would differ
    )
    is_pinned = torch.cuda.is_available()  # or its copy to the device makes the step wait
    sending = iter(loader)
    with explained_deaths(), deaths_at_batches() as waiting:
        while True:
            with waiting():
                sent = next(sending, None)
            if sent is None:
                return
            yield _Loaded(sent.epoch, sent.following, sent.packed.unpack(places, is_pinned=is_pinned))


def _by_threads(read: _Reader, planned: Iterator[_Planned], workers: int) -> Generator[_Loaded]:
    """Read with fairseq2's pipeline, whose threads are in C++ and hold Python's lock for little of their time.

    The pipeline waits for its threads when it goes, with the lock that they need: so they are sent home before that.
    """
    from fairseq2.data.data_pipeline import read_iterator  # optional; `native_reader` has said so if it is missing

    is_pinned, is_closed = torch.cuda.is_available(), threading.Event()

    def work(plan: _Planned) -> _Loaded | None:
        if is_closed.is_set():
            return None
        done = read(plan)
        return replace(done, batch=done.batch.pin_memory()) if is_pinned else done

    def close() -> None:
        is_closed.set()
        with suppress(Exception):  # of a batch that nobody waits for
            for _ in pipeline:
                pass

    pipeline = (
        read_iterator(takewhile(lambda _: not is_closed.is_set(), planned), _as_it_is, False, True)
        .map(work, num_parallel_calls=workers)  # in order
        .prefetch(AHEAD * workers)
        .and_return()
    )
    try:
        yield from pipeline
    finally:
        close()


class _Once:
    """An iterator as torch's loader wants its sampler."""

    def __init__(self, planned: Iterator[_Planned]) -> None:
        self.planned = planned

    def __iter__(self) -> Iterator[_Planned]:
        return self.planned


def _as_it_is(thing: Any) -> Any:
    return thing


def _ignore_stops(_: int) -> None:
    """Leave Ctrl-C, and what schedulers send to a whole process group, to the process that trains and will save."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
