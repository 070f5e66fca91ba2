"""Worker processes that look at files, of which any may crash: the file it crashed on is named, the rest goes on.

concurrent.futures gives up the whole pool with its first dead process and does not say which task killed it; pebble
does, and was weighed, but plans every task before the first begins and would be one more dependency. Processes are
forked: a spawned one imports the command line again, seconds before its first file.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

__all__ = ["Death", "work"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_BATCH = 8  # tasks sent to a worker at once; it gets more when half of them are done


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
                _hand_out(worker, waiting, tasks)
            for line in wait(list(crew)):
                worker = crew[line]  # type: ignore[index]
                try:
                    result = worker.line.recv()
                except (EOFError, OSError):
                    reason = _bury(crew.pop(worker.line), limit_s)
                    if worker.in_hand:
                        yield worker.in_hand.popleft(), Death(reason)
                    waiting.extendleft(reversed(worker.in_hand))
                else:
                    yield worker.in_hand.popleft(), result
    finally:
        for worker in crew.values():
            worker.process.terminate()
            _bury(worker, limit_s)


@dataclass
class _Worker:
    process: ForkProcess
    line: Connection
    in_hand: deque[int] = field(default_factory=deque)  # sent and not answered, in the order they are done


def _hire(do: Callable[[Task], Result], limit_s: float) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(ours, theirs, do, limit_s), daemon=True)
    process.start()
    theirs.close()  # so that its death ends the line
    return _Worker(process=process, line=ours)


def _hand_out(worker: _Worker, waiting: deque[int], tasks: Sequence[Task]) -> None:
    if not waiting or len(worker.in_hand) > _BATCH // 2:
        return
    batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
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


def _serve(of_parent: Connection, line: Connection, do: Callable[[Task], Result], limit_s: float) -> None:
    """Live as a worker: answer task after task, until the line ends."""
    of_parent.close()  # inherited; left open, the line would not end with the parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keyboard interrupts the parent, which ends its workers
    for kind in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)
    while True:
        tasks = _talk(line.recv)
        for task in tasks:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            try:
                result = do(task)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
                os._exit(1)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _talk(partial(line.send, result))


def _talk(call: Callable[[], Any]) -> Any:
    """Receive or send; end the process at once if the parent is gone, or needs no more.

    At once: what Python does at its end waits for locks of files that another thread of the parent, such as a
    progress bar's, may have held when the process was forked.
    """
    try:
        return call()
    except (EOFError, OSError):
        os._exit(0)
