"""Processes that read audio and died: noticed at the next batch, and told in words.

torch's handler of SIGCHLD raises wherever the program happens to be. In a destructor Python prints the error and goes
on; torch has forgotten the process by then, and tells of it once more only when the batches read ahead have run out.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from speechssl.errors import TrainingError

__all__ = ["deaths_at_batches", "explained_deaths"]


@contextmanager
def explained_deaths() -> Iterator[None]:
    """Turn torch's error for a process that died into a `TrainingError`.

    Raises:
        TrainingError: instead of it.
    """
    try:
        yield
    except RuntimeError as error:  # torch has no class for it
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads audio died ({str(error).splitlines()[0]}); memory may have run out: lower "
            "train.workers or batch.seconds, and run the same command again to go on"
        ) from error


class _Handler:
    """Torch's handler of SIGCHLD, whose errors wait for a batch unless one is being waited for."""

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self.handler = handler
        self.error: RuntimeError | None = None
        self.is_waiting = False
        self.users = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            self.error = error
            if self.is_waiting:  # for a process that may have died in the middle of sending
                raise

    @contextmanager
    def waiting(self) -> Iterator[None]:
        if self.error is not None:  # of before: nothing may come any more
            raise self.error
        self.is_waiting = True
        try:
            yield
        except RuntimeError as error:
            if self.error in (None, error):
                raise
            raise self.error from error  # which is torch's own look at its processes, and does not say how one died
        finally:
            self.is_waiting = False
        if self.error is not None:  # lost in a destructor just now
            raise self.error


@contextmanager
def deaths_at_batches() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Let deaths be raised by the waits for batches alone, while torch's loader is in use.

    Yields:
        The context to wait for a batch in; raises torch's RuntimeError if a process died, then or before.
    """
    current = signal.getsignal(signal.SIGCHLD)
    if not _is_main_thread() or not callable(current):
        yield _no_wait
        return
    noting: _Handler = current if isinstance(current, _Handler) else _Handler(current)
    if noting.users == 0:
        noting.error = None
        signal.signal(signal.SIGCHLD, noting)
    noting.users += 1
    try:
        yield noting.waiting
    finally:
        noting.users -= 1
        is_installed: bool = signal.getsignal(signal.SIGCHLD) == noting
        if noting.users == 0 and is_installed and _is_main_thread():
            signal.signal(signal.SIGCHLD, noting.handler)


def _is_main_thread() -> bool:
    """Whether this is the thread in which handlers run, and may be set."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _no_wait() -> Iterator[None]:
    yield
