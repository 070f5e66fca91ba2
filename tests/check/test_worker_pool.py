"""Workers that crash, raise or hang are named with their task, and the other tasks are done."""

import faulthandler
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from speechssl.corpus.check.worker_pool import Death, work


def squared(number: int) -> int:
    return number * number


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_every_task_is_done_once(jobs, count):
    done = list(work(range(count), squared, jobs=jobs, limit_s=60))
    assert sorted(done) == [(i, i * i) for i in range(count)]


def end(number: int) -> int:
    match number:
        case 3:
            os.kill(os.getpid(), signal.SIGKILL)
        case 4:
            os._exit(7)
        case 11:
            faulthandler.disable()  # pytest would print a trace
            os.kill(os.getpid(), signal.SIGSEGV)
        case 19:
            time.sleep(60)
    return number


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_worker_that_ends_is_named_with_its_task_and_the_others_go_on(jobs):
    started = time.monotonic()
    done = dict(work(range(20), end, jobs=jobs, limit_s=0.5))
    assert time.monotonic() - started < 30
    deaths = {i: result.reason for i, result in done.items() if isinstance(result, Death)}
    assert deaths == {
        3: "the worker was ended by SIGKILL",
        4: "the worker ended with 7",
        11: "the worker was ended by SIGSEGV",
        19: "not done after 0.5 s",
    }
    assert {i: result for i, result in done.items() if i not in deaths} == {i: i for i in range(20) if i not in deaths}


def raising(number: int) -> int:
    raise OSError("a mistake of ours")


def test_an_exception_ends_the_worker_and_is_printed(capfd):
    assert list(work([1], raising, jobs=1, limit_s=60)) == [(0, Death("the worker ended with 1"))]
    assert "a mistake of ours" in capfd.readouterr().err


def test_no_worker_outlives_a_reader_that_stops():
    results = work(range(1000), squared, jobs=2, limit_s=60)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_workers_end_with_their_parent_however_it_ends():
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        results = work(range(1000), squared, jobs=3, limit_s=60)
        next(results)
        os.write(writer, " ".join(str(child.pid) for child in multiprocessing.active_children()).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    workers = [int(pid) for pid in os.read(reader, 1000).decode().split()]
    os.waitpid(parent, 0)
    assert len(workers) == 3
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [pid for pid in workers if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
