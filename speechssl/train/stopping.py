"""Asked to stop: finish the step, save, and say so. SIGTERM from schedulers and torchrun, SIGINT from the keyboard."""

import signal
from types import FrameType
from typing import Self

from speechssl.errors import StoppedError

__all__ = ["StopRequest"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # SIGUSR1: what Slurm is often told to send before the end


class StopRequest:
    """Notes a signal while its block runs, instead of dying of it; a second SIGINT interrupts at once.

    Used as a context manager in the main thread. Elsewhere (a notebook's worker, a test) signals are left alone.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # the first that came
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Take over the signals."""
        for number in _SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)

    def error(self, step: int, where: object) -> StoppedError:
        """Say what was done, for the one who asked."""
        name = "another rank" if self.signal is None else self.signal.name
        return StoppedError(
            f"stopped by {name} after step {step}, saved in {where}; the same command goes on from there"
        )
