"""Loads batches ahead of the training step, with processes of torch or threads of fairseq2's pipeline.

Both yield the same batches in the same order, from any position and for any number of workers; integer PCM (wav, flac)
is identical bit for bit. `data/batching.py` plans which utterances a batch holds.
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
    """Return the start method of loader processes: `fork` on Linux, unless the program chose `spawn`.

    From Python 3.14 on the default there is `forkserver`, whose processes import torch again and share no memory.
    """
    default = multiprocessing.get_start_method()
    return "fork" if sys.platform == "linux" and default != "spawn" else default


class SharedPlaces:
    """Shared memory for batches: each process uses a few places, of the size of the largest batch, in turn."""

    def __init__(self, workers: int, ahead: int, samples: int) -> None:
        """Allocate shared memory; pages take up memory only once they are written.

        Args:
            workers: number of processes, which are forked from this one later.
            ahead: batches that each process prefetches.
            samples: float32 samples in the largest batch.
        """
        shape = (workers, ahead + 1, samples)
        memory = mmap.mmap(-1, 4 * workers * (ahead + 1) * samples)
        self._places = torch.frombuffer(memory, dtype=torch.float32).view(shape)
        self._turn = -1

    @classmethod
    def where_processes_are_forked(cls, workers: int, ahead: int, samples: int) -> "SharedPlaces | None":
        """Allocate shared memory, or return None where processes do not inherit it."""
        return cls(workers, ahead, samples) if start_method() == "fork" else None

    def take(self) -> tuple[tuple[int, int], Tensor]:
        """Return, in a loader process, the index of the next place and its memory, (samples,) float32."""
        info = get_worker_info()
        assert info is not None
        self._turn = (self._turn + 1) % self._places.shape[1]
        where = (info.id, self._turn)
        return where, self._places[where]

    def at(self, where: tuple[int, int]) -> Tensor:
        """Return the memory of a place, (samples,) float32."""
        return self._places[where]


@dataclass(frozen=True)
class Packed:
    """A batch as it is sent between processes: arrays by value, waveforms by their place in shared memory."""

    batch: Batch  # the batch without tensors
    arrays: dict[str, Any]  # tensors as arrays, by field
    where: tuple[int, int] | None  # place of the waveforms; None: they are among the arrays
    shape: tuple[int, int]

    def unpack(self, places: SharedPlaces | None, *, is_pinned: bool) -> Batch:
        """Return the batch in memory of this process."""
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        if self.where is not None:
            assert places is not None
            shared = places.at(self.where)[: self.shape[0] * self.shape[1]].view(self.shape)
            tensors["waveforms"] = torch.empty(self.shape, pin_memory=is_pinned).copy_(shared)
        batch = replace(self.batch, **tensors)
        return batch.pin_memory() if is_pinned else batch


def pack(batch: Batch, where: tuple[int, int] | None, place: Tensor | None) -> Packed:
    """Prepare a batch to be sent to another process.

    Args:
        batch: the batch; its waveforms may lie at the place already.
        where: index of the place; None for none.
        place: (samples,) float32, its memory; waveforms that do not fit are sent by value.
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
AHEAD = 4  # batches that each worker prefetches


@dataclass(frozen=True)
class _Planned:
    """A batch to be read, and the position of all ranks after it."""

    epoch: int
    following: int  # next position; past the end it means the next epoch
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
    """Yield this rank's batches endlessly from a position, the same for any loader and number of workers.

    The batches of all epochs are one sequence, and ranks take them in turn. A stand-in replaces a batch without usable
    audio, so that every rank has the same number.

    Args:
        dataset: reads the crops.
        sampler: plans the epochs.
        epoch: first epoch.
        position: index in this epoch of the first batch, over all ranks.
        workers: loader processes (torch) or threads (fairseq2); 0 reads synchronously.
        rank: rank of this process.
        world_size: number of ranks.
        loader: library that loads; `auto` is fairseq2 for wav where it is installed, else torch: the faster one as
            measured (recipes/benchmarks/README.md, Feeding).

    Yields:
        Epoch and position of all ranks after this batch, and the batch.

    Raises:
        SpeechSSLError: an error of the dataset, also in a worker.
        TrainingError: a worker died.
        ConfigError: `loader` is fairseq2, which is not installed.
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
    """Stop the workers on leaving the context, even where a traceback keeps the frame alive, or at exit.

    Loader processes ignore signals and threads wait for Python's lock, so that either would block the exit.
    """
    atexit.register(loaded.close)
    try:
        yield
    finally:
        atexit.unregister(loaded.close)
        loaded.close()


def _is_wav(manifest: Manifest) -> bool:
    """Return whether most of a hundred utterances, evenly spaced in the manifest, are wav files."""
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
    """Reads planned batches, in any worker."""

    def __init__(self, dataset: SpeechDataset, read: PcmReader) -> None:
        self.dataset, self.read = dataset, read

    def __call__(self, planned: _Planned, place: Tensor | None = None) -> _Loaded:
        batch = self.dataset.batch(planned.crops, epoch=planned.epoch, read=self.read, place=place)
        return _Loaded(planned.epoch, planned.following, batch)


class _Sender(Dataset[_Sent]):
    """Reads planned batches in a loader process, and packs them to be sent."""

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
    """Load with torch's `DataLoader`, whose processes serve all epochs."""
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
        generator=torch.Generator(),  # the default draws from the global generator, and a resumed run would differ
    )
    is_pinned = torch.cuda.is_available()  # copies from pinned memory do not block the step
    sending = iter(loader)
    with explained_deaths(), deaths_at_batches() as waiting:
        while True:
            with waiting():
                sent = next(sending, None)
            if sent is None:
                return
            yield _Loaded(sent.epoch, sent.following, sent.packed.unpack(places, is_pinned=is_pinned))


def _by_threads(read: _Reader, planned: Iterator[_Planned], workers: int) -> Generator[_Loaded]:
    """Load with fairseq2's pipeline, whose C++ threads rarely hold Python's lock.

    The destructor of the pipeline joins its threads while holding the lock that they need, so they are stopped first.
    """
    from fairseq2.data.data_pipeline import read_iterator  # optional; `native_reader` raises if it is missing

    is_pinned, is_closed = torch.cuda.is_available(), threading.Event()

    def work(plan: _Planned) -> _Loaded | None:
        if is_closed.is_set():
            return None
        done = read(plan)
        return replace(done, batch=done.batch.pin_memory()) if is_pinned else done

    def close() -> None:
        is_closed.set()
        with suppress(Exception):  # errors of batches that are no longer needed
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
    """Wraps an iterator as a sampler for torch's `DataLoader`."""

    def __init__(self, planned: Iterator[_Planned]) -> None:
        self.planned = planned

    def __iter__(self) -> Iterator[_Planned]:
        return self.planned


def _as_it_is(thing: Any) -> Any:
    return thing


def _ignore_stops(_: int) -> None:
    """Ignore Ctrl-C and schedulers' signals to the process group: the training process handles them, and saves."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
