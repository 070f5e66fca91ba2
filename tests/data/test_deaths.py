"""A process that reads and dies is noticed at the next batch, wherever the program was when it heard of it."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from speechssl.audio.reading import AudioConfig
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import load_batches
from speechssl.data.manifest import read_manifest
from speechssl.data.worker_deaths import deaths_at_batches
from speechssl.errors import TrainingError

HOP, WINDOW = 320, 325


@pytest.fixture
def batches(make_corpus, tmp_path):
    """Batches of one process that reads ahead, of which the first has come."""
    manifest = read_manifest(make_corpus(tmp_path))
    dataset = SpeechDataset(manifest, AudioConfig(), hop=HOP, window=WINDOW)
    config = BatchConfig(seconds=2.0, max_crop_s=0.7, min_s=0.1)
    sampler = BatchSampler(manifest.utterances, config, seed=3, hop=HOP)
    batches = load_batches(dataset, sampler, epoch=0, position=0, workers=1, loader="torch")
    next(batches)
    yield batches
    batches.close()


def kill_the_reader() -> None:
    """Kill it, and wait until this process has heard of it."""
    heard = threading.Event()
    handler = signal.getsignal(signal.SIGCHLD)

    def tell(number, frame):
        heard.set()
        handler(number, frame)

    signal.signal(signal.SIGCHLD, tell)
    try:
        (process,) = multiprocessing.active_children()
        os.kill(process.pid, signal.SIGKILL)
        end = time.monotonic() + 60
        while not heard.is_set() and time.monotonic() < end:
            time.sleep(0.01)  # handlers run between instructions of Python
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_a_death_heard_of_between_batches_is_raised_at_the_next(batches):
    kill_the_reader()
    with pytest.raises(TrainingError, match=r"a process that reads audio died \(DataLoader worker .* Killed"):
        next(batches)


def test_a_death_heard_of_in_a_destructor_is_not_lost(batches):
    class Dying:
        def __del__(self) -> None:
            kill_the_reader()

    dying = Dying()
    del dying  # an error would be printed here, and the test would fail for it
    with pytest.raises(TrainingError, match=r"a process that reads audio died"):
        next(batches)


@pytest.fixture
def dying():
    """Give a function that has this process hear of a death, and the context that waits for a batch."""

    def killed(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, killed)
    with deaths_at_batches() as waiting:
        yield lambda: os.kill(os.getpid(), signal.SIGCHLD), waiting
    signal.signal(signal.SIGCHLD, before)


def test_how_a_process_died_is_told_though_it_sent_nothing_after_the_last_batch(dying):
    die, waiting = dying
    die()
    with pytest.raises(RuntimeError, match="by signal: Killed"), waiting():
        pytest.fail("waits for what may never come")


def test_how_a_process_died_is_told_though_torch_looks_for_itself(dying):
    die, waiting = dying
    with pytest.raises(RuntimeError, match="by signal: Killed"), waiting():
        try:
            die()
        except RuntimeError:  # as in a destructor
            raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from None


def test_a_death_of_before_is_nothing_to_the_next_reader(batches, make_corpus, tmp_path):
    kill_the_reader()
    batches.close()
    with deaths_at_batches() as waiting, waiting():
        pass


def test_torchs_handler_is_back_when_nothing_is_read(batches):
    noting = signal.getsignal(signal.SIGCHLD)
    batches.close()
    assert signal.getsignal(signal.SIGCHLD) == noting.handler


def test_in_another_thread_nothing_is_changed():
    found = []

    def look() -> None:
        before = signal.getsignal(signal.SIGCHLD)
        with deaths_at_batches() as waiting, waiting():
            found.append(signal.getsignal(signal.SIGCHLD) == before)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [True]
