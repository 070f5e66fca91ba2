"""What a run says: a JSON line per report, TensorBoard, and a progress bar with the time left."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

__all__ = ["RunLog", "progress_bar"]


@contextmanager
def progress_bar(title: str, total: int | None, *, done: int = 0) -> Iterator[tuple[Progress, TaskID]]:
    """Show a bar with count, time spent and time left on standard error while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal) as bar:
        yield bar, bar.add_task(title, total=total, completed=done, note="")


class RunLog:
    """Writes `log.jsonl` and TensorBoard events into a run folder, and one line to standard error for each report.

    Used as a context manager. Lines of a run that was interrupted stay; its repeated steps are written again.
    """

    def __init__(self, out: Path, title: str, *, steps: int, done: int, enabled: bool = True) -> None:
        """Open the log of a run; other ranks than the first pass `enabled=False`."""
        self.out, self.title, self.steps, self.done, self.enabled = out, title, steps, done, enabled
        self.started = time.monotonic()
        self.console = Console(stderr=True)

    def __enter__(self) -> Self:
        """Open the files."""
        if self.enabled:
            self.out.mkdir(parents=True, exist_ok=True)
            self.file: TextIO = (self.out / "log.jsonl").open("a", encoding="utf-8")
            self.board = SummaryWriter(self.out / "tensorboard")
            self._bar = progress_bar(self.title, self.steps, done=self.done)
            self.progress, self.task = self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the files."""
        if self.enabled:
            self._bar.__exit__(None, None, None)
            self.file.close()
            self.board.close()

    def advance(self, step: int, note: str) -> None:
        """Move the progress bar."""
        if self.enabled:
            self.progress.update(self.task, completed=step, note=note)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Report the values of a step everywhere."""
        if not self.enabled:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        spent = time.monotonic() - self.started
        left = spent / max(step - self.done, 1) * (self.steps - step)
        self.progress.console.print(
            f"{self.title} {step}/{self.steps}  {shown}  left {left / 60:.1f} min", highlight=False, soft_wrap=True
        )

    def say(self, message: str) -> None:
        """Print a message above the progress bar."""
        if self.enabled:
            self.progress.console.print(f"{self.title}: {message}", highlight=False, soft_wrap=True)
