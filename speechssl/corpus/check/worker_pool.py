"""Worker processes that look at files, of which any may crash: the file it crashed on is named, the rest goes on.

concurrent.futures gives up the whole pool with its first dead process and does not say which task killed it; pebble
does, and was weighed, but plans every task before the first begins and would be one more dependency. Processes are
forked: a spawned one imports the command line again, seconds before its first file.
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

_BATCH = 8  # tasks sent to a worker at once, at most
_QUIET_S = 0.1  # a worker answers when a batch is done, and in between not later than this after a task


@dataclass(frozen=True)
class Death:
    """How the worker ended that had a task in hand."""

    reason: str


def work(
    tasks: Sequence[Task], do: Callable[[Task], Result], *, jobs: int, limit_s: float
) -> Iterator[tuple[int, Result | Death]]:
    """Do every task in one of `jobs` processes.

    Args:
        tasks: what `do` takes; sent to the workers.
        do: runs in a worker; an exception it raises ends the worker, as a crash would.
        jobs: processes.
        limit_s: seconds for one task; a worker that needs more is ended by the system, whatever it is doing.

    Yields:
        The index of a task and its result, or how its worker died; in the order they are done, each index once.
    """
    waiting = deque(range(len(tasks)))
    crew: dict[Connection, _Worker] = {}
    try:
        while waiting or any(worker.in_hand for worker in crew.values()):
            while len(crew) < jobs and waiting:
                worker = _hire(do, limit_s)
                crew[worker.line] = worker
            for worker in crew.values():
                _hand_out(worker, waiting, tasks, jobs)
            for line in wait(list(crew)):
                worker = crew[line]  # type: ignore[index]
                try:
                    results = worker.line.recv()
                except (EOFError, OSError):
                    reason = _bury(crew.pop(worker.line), limit_s)
                    fatal = worker.begun.value  # what came before it was not answered, and is done again
                    if fatal < len(worker.in_hand):
                        yield worker.in_hand[fatal], Death(reason)
                        del worker.in_hand[fatal]
                    waiting.extendleft(reversed(worker.in_hand))
                else:
                    yield from [(worker.in_hand.popleft(), result) for result in results]
    finally:
        for worker in crew.values():
            worker.process.terminate()
            _bury(worker, limit_s)


@dataclass
class _Worker:
    process: ForkProcess
    line: Connection
    begun: Any  # shared number: how many of the tasks in hand came before the one that it is at
    in_hand: deque[int] = field(default_factory=deque)  # sent and not answered, in the order they are done


def _hire(do: Callable[[Task], Result], limit_s: float) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    begun = context.RawValue("q", 0)
    process = context.Process(target=_serve, args=(ours, theirs, begun, do, limit_s), daemon=True)
    process.start()
    theirs.close()  # so that its death ends the line
    return _Worker(process=process, line=ours, begun=begun)


def _hand_out(worker: _Worker, waiting: deque[int], tasks: Sequence[Task], jobs: int) -> None:
    """Send tasks, so that the worker has more when it is done with those it is at."""
    size = max(1, min(_BATCH, len(waiting) // (4 * jobs)))  # fewer at the end, or one would have them all
    while waiting and len(worker.in_hand) <= size:
        batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
        worker.in_hand.extend(batch)
        with contextlib.suppress(OSError):  # it is dead: its line has ended, which `work` finds when it reads
            worker.line.send([tasks[index] for index in batch])


def _bury(worker: _Worker, limit_s: float) -> str:
    worker.line.close()
    worker.process.join()
    code = worker.process.exitcode or 0
    if code == -signal.SIGALRM:
        return f"not done after {limit_s:g} s"
    return f"the worker was ended by {signal.Signals(-code).name}" if code < 0 else f"the worker ended with {code}"


def _serve(of_parent: Connection, line: Connection, begun: Any, do: Callable[[Task], Result], limit_s: float) -> None:
    """Live as a worker: answer task after task, until the line ends."""
    of_parent.close()  # inherited; left open, the line would not end with the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard interrupts the parent, which ends its workers
    for kind in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)
    torch.set_num_threads(1)  # there are others beside it, and threads of the parent did not come along
    while True:
        results: list[Result] = []
        last = time.monotonic()
        for task in _talk(line.recv):
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
                _talk(partial(line.send, results))
                results, last = [], time.monotonic()
        begun.value = 0
        _talk(partial(line.send, results))


def _talk(call: Callable[[], Any]) -> Any:
    """Receive or send; end the process at once if the parent is gone, or needs no more.

    At once: what Python does at its end waits for locks of files that another thread of the parent, such as a
    progress bar's, may have held when the process was forked.
    """
    try:
        return call()
    except (EOFError, OSError):
        os._exit(0)
