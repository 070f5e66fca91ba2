"""Reports dead loader processes at the next batch, with an explanation.

torch's SIGCHLD handler raises wherever the program happens to be. In a destructor Python prints the error and goes on;
torch has then forgotten the process, and reports it again only when the prefetched batches have run out.
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
    """Turn torch's error about a dead loader process into a `TrainingError`.

    Raises:
        TrainingError: a loader process died.
    """
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for it
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads audio died ({str(error).splitlines()[0]}); memory may have run out: lower "
            "train.workers or batch.seconds, and run the same command again to continue"
        ) from error


class _Handler:
    """Wraps torch's SIGCHLD handler; its errors are raised only while waiting for a batch."""

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
            if self.is_waiting:  # the process may have died while sending this batch
                raise

    @contextmanager
    def waiting(self) -> Iterator[None]:
        if self.error is not None:  # an earlier death: no batch may come any more
            raise self.error
        self.is_waiting = True
        try:
            yield
        except RuntimeError as error:
            if self.error in (None, error):
                raise
            raise self.error from error  # `error` is from torch's own check, which does not say how the process died
        finally:
            self.is_waiting = False
        if self.error is not None:  # raised just now, but lost in a destructor
            raise self.error


@contextmanager
def deaths_at_batches() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Delay the errors of torch's SIGCHLD handler until the next wait for a batch.

    Yields:
        The context to wait for a batch in; it raises torch's RuntimeError if a process died, then or before.
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
    """Return whether this is the thread that runs signal handlers and may set them."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _no_wait() -> Iterator[None]:
    yield
