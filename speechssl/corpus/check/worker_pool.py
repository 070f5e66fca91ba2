"""A worker pool that survives crashes: the task that crashed a worker is named, and the other tasks go on.

concurrent.futures gives up the whole pool when a process dies and does not say which task killed it. pebble does, but
submits every task before the first one starts and would be one more dependency. Workers are forked, because a spawned
process imports the command line again, which takes seconds.
"""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

import torch

__all__ = ["Death", "work"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_BATCH = 8  # most tasks sent to a worker at once
_QUIET_S = 0.1  # seconds: a worker answers at the end of a batch, and after a task if this long passed since


@dataclass(frozen=True)
class Death:
    """The reason why a worker died during a task."""

    reason: str


def work(
    tasks: Sequence[Task], do: Callable[[Task], Result], *, jobs: int, limit_s: float
) -> Iterator[tuple[int, Result | Death]]:
    """Do every task in a pool of `jobs` processes.

    Args:
        tasks: the arguments of `do`; they are sent to the workers.
        do: runs in a worker; an exception ends the worker, as a crash would.
        jobs: number of processes.
        limit_s: time limit of one task, in seconds; the system ends a worker that exceeds it.

    Yields:
        The index of a task and its result, or how its worker died. Every index comes once, in the order of completion.
    """
    waiting = deque(range(len(tasks)))
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or any(worker.assigned for worker in workers.values()):
            while len(workers) < jobs and waiting:
                worker = _start_worker(do, limit_s)
                workers[worker.pipe] = worker
            for worker in workers.values():
                _send_tasks(worker, waiting, tasks, jobs)
            for pipe in wait(list(workers)):
                worker = workers[pipe]  # type: ignore[index]
                try:
                    results = worker.pipe.recv()
                except (EOFError, OSError):
                    reason = _reap(workers.pop(worker.pipe), limit_s)
                    fatal = worker.begun.value  # tasks before it were not answered, and are done again
                    if fatal < len(worker.assigned):
                        yield worker.assigned[fatal], Death(reason)
                        del worker.assigned[fatal]
                    waiting.extendleft(reversed(worker.assigned))
                else:
                    yield from [(worker.assigned.popleft(), result) for result in results]
    finally:
        for worker in workers.values():
            worker.process.terminate()
            _reap(worker, limit_s)


@dataclass
class _Worker:
    process: ForkProcess
    pipe: Connection
    begun: Any  # shared integer: index in `assigned` of the task that the worker is doing
    assigned: deque[int] = field(default_factory=deque)  # tasks sent and not answered, in order


def _start_worker(do: Callable[[Task], Result], limit_s: float) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    begun = context.RawValue("q", 0)
    process = context.Process(target=_serve, args=(ours, theirs, begun, do, limit_s), daemon=True)
    process.start()
    theirs.close()  # so that the death of the worker closes the pipe
    return _Worker(process=process, pipe=ours, begun=begun)


def _send_tasks(worker: _Worker, waiting: deque[int], tasks: Sequence[Task], jobs: int) -> None:
    """Send tasks ahead of time, so that the worker never waits."""
    size = max(1, min(_BATCH, len(waiting) // (4 * jobs)))  # smaller towards the end, so that all workers stay busy
    while waiting and len(worker.assigned) <= size:
        batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
        worker.assigned.extend(batch)
        with contextlib.suppress(OSError):  # the worker is dead; `work` notices when it reads the pipe
            worker.pipe.send([tasks[index] for index in batch])


def _reap(worker: _Worker, limit_s: float) -> str:
    """Wait for a worker to end and return the reason."""
    worker.pipe.close()
    worker.process.join()
    code = worker.process.exitcode or 0
    if code == -signal.SIGALRM:
        return f"not done after {limit_s:g} s"
    return f"the worker was ended by {signal.Signals(-code).name}" if code < 0 else f"the worker ended with {code}"


def _serve(parent_end: Connection, pipe: Connection, begun: Any, do: Callable[[Task], Result], limit_s: float) -> None:
    """Run a worker: answer task after task until the pipe closes."""
    parent_end.close()  # inherited; left open, the pipe would outlive the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C interrupts the parent, which ends its workers
    for kind in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)
    torch.set_num_threads(1)  # other workers use the other cores, and a fork inherits no threads
    while True:
        results: list[Result] = []
        last = time.monotonic()
        for task in _call_or_exit(pipe.recv):
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            try:
                results.append(do(task))
            except BaseException:
                os.write(2, traceback.format_exc().encode())
                os._exit(1)
            signal.setitimer(signal.ITIMER_REAL, 0)
            begun.value = len(results)
            if time.monotonic() - last > _QUIET_S:
                begun.value = 0
                _call_or_exit(partial(pipe.send, results))
                results, last = [], time.monotonic()
        begun.value = 0
        _call_or_exit(partial(pipe.send, results))


def _call_or_exit(call: Callable[[], Any]) -> Any:
    """Receive or send; exit at once if the parent has closed the pipe.

    A normal exit could deadlock: Python flushes files on exit, and another thread of the parent, such as a progress
    bar's, may have held a file's lock at the fork.
    """
    try:
        return call()
    except (EOFError, OSError):
        os._exit(0)
