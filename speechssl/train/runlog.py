"""Logging of a run: a JSON line per report, TensorBoard, optionally wandb, and a progress bar with the time left."""

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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

from speechssl.atomic import write_atomically
from speechssl.config import configuration
from speechssl.errors import ConfigError, PackageError, StoppedError, TrainingError
from speechssl.train.log_file import LogFile

__all__ = ["LogConfig", "RunLog", "not_installed", "progress_bar", "require_reports", "start_wandb"]

if TYPE_CHECKING:
    import wandb


def not_installed(project: str) -> ConfigError:
    """Return the error for a run that asks for wandb where it is not installed."""
    return ConfigError(
        f"train.log.wandb={project}: wandb is not installed; pip install wandb, or set train.log.wandb=null"
    )


def start_wandb(out: Path, project: str, title: str) -> "wandb.Run":
    """Start a wandb run, or resume the one of this run folder.

    The id of the wandb run is kept in `out/wandb_id`. wandb's environment variables apply: with WANDB_MODE=offline
    everything stays in `out/wandb`, and `wandb sync` uploads it later. The step is logged as a metric (`step`), because
    wandb's own counter cannot go back to the step that a run resumes from.

    Args:
        out: run folder; its `config.json`, if it exists, is uploaded as the configuration.
        project: wandb project.
        title: wandb group; the name of the run is that of the folder.

    Raises:
        ConfigError: wandb is not installed.
        TrainingError: wandb refuses, as it does without a login.
    """
    try:
        import wandb
    except ImportError as error:
        raise not_installed(project) from error
    path = out / "wandb_id"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex[:12] + "\n")
    settings = out / "config.json"
    try:
        run = wandb.init(
            project=project,
            id=path.read_text(encoding="utf-8").strip(),
            resume="allow",
            name=out.resolve().name,
            group=title,
            dir=out,
            config=json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else None,
            settings=wandb.Settings(console="off", silent=True),  # the console shows our own messages only
        )
    except wandb.Error as error:
        raise TrainingError(
            f"train.log.wandb={project}: wandb refuses ({error}); run `wandb login`, set WANDB_MODE=offline, or set "
            "train.log.wandb=null"
        ) from error
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


SAY_S = 60.0  # seconds between progress lines without a terminal
_NO_TENSORBOARD = (
    "TensorBoard cannot be imported ({}): pip install 'speechssl[train]', or set train.log.tensorboard=false; "
    "log.jsonl has the same metrics"
)


@configuration
class LogConfig:
    """Where a run logs to, besides the console, `log.jsonl` and `alarms.jsonl`."""

    tensorboard: bool = True
    wandb: str | None = None  # project of Weights & Biases; None: not used


def require_reports(config: LogConfig) -> None:
    """Check that the configured loggers are installed, before a run reads or writes anything.

    Raises:
        PackageError: TensorBoard is not installed.
        ConfigError: wandb is not installed.
    """
    if config.tensorboard and find_spec("tensorboard") is None:
        raise PackageError(_NO_TENSORBOARD.format("it is not installed"))
    if config.wandb is not None and find_spec("wandb") is None:
        raise not_installed(config.wandb)


@contextmanager
def progress_bar(title: str, total: int | None, *, done: int = 0) -> Iterator[tuple["_Bar", TaskID]]:
    """Show progress on standard error: a bar with count, time spent and time left, or lines, see `_Bar`."""
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
    with _Bar(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal) as bar:
        yield bar, bar.add_task(title, total=total, completed=done, note="")


class _Bar(Progress):
    """A progress bar; without a terminal, as in the log of a job, a line after each minute without other output."""

    said = begin = 0.0  # seconds; times of the last output and of the first count
    at_first = 0.0  # first count

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance the count."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change the displayed values."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        now, task = time.monotonic(), self._tasks[task_id]
        if not self.said:
            self.said, self.begin, self.at_first = now, now, task.completed
        if self.console.is_terminal or now - self.said < SAY_S:
            return
        self.said = now
        done = task.completed - self.at_first
        parts = [f"{task.description} {task.completed:.0f}" + (f"/{task.total:.0f}" if task.total else "")]
        parts += [task.fields["note"]] if task.fields["note"] else []
        if task.total and done > 0:
            parts.append(f"left {(task.total - task.completed) * (now - self.begin) / done / 60:.1f} min")
        self.console.print("  ".join(parts), highlight=False, markup=False, soft_wrap=True)


_HEADLINES = re.compile(  # metrics shown on the console; the files have all
    r"(valid_|dev_)?(loss|accuracy|(un)?masked_accuracy(_\d+)?|code_perplexity|ctc_loss|blank_share|cer|per|wer|skipped)"
    r"|(dev_)?empty_share|dev_(insertions|deletions|substitutions)"
    r"|grad_norm|lr|hours_seen|audio_s_per_s|epoch|skipped_steps|probe_\w+"
)


def _writer(folder: Path, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import
    except ImportError as error:
        raise PackageError(_NO_TENSORBOARD.format(error)) from error
    return SummaryWriter(folder, purge_step=purge_step)


class RunLog:
    """Writes the reports of a run to `log.jsonl`, TensorBoard, wandb, and standard error.

    Used as a context manager. `log.jsonl` has one object per line, with "step" and named metrics; the reports of a step
    may take several lines. A resumed run writes the steps after its checkpoint again; `LogFile` and TensorBoard set the
    earlier ones aside.
    """

    def __init__(
        self, out: Path, title: str, *, steps: int, done: int, config: LogConfig | None = None, enabled: bool = True
    ) -> None:
        """Open the log of a run.

        Args:
            out: run folder.
            title: title of the progress bar and of console lines.
            steps: number of steps of the whole run.
            done: step that the run resumes from.
            config: where to log to; None for the defaults.
            enabled: False on all ranks but the first, which then log nothing.
        """
        self.out, self.title, self.steps, self.done = out, title, steps, done
        self.config, self.enabled = config or LogConfig(), enabled
        self.started = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Open everything.

        Raises:
            ConfigError: wandb is configured and not installed.
            PackageError: TensorBoard is configured and not installed.
            TrainingError: a file cannot be written, or wandb refuses.
        """
        if self.enabled:
            with ExitStack() as opened:
                self._log = LogFile(self.out / "log.jsonl", done=self.done)
                opened.callback(self._log.close)
                self._alarms = LogFile(self.out / "alarms.jsonl", done=self.done)
                opened.callback(self._alarms.close)
                self._board = None
                if self.config.tensorboard:
                    with self._naming(self.out / "tensorboard"):
                        self._board = _writer(self.out / "tensorboard", purge_step=self.done + 1)
                    opened.push(self._close_board)
                self._wandb = None
                if self.config.wandb is not None:
                    self._wandb = start_wandb(self.out, self.config.wandb, self.title)
                    opened.push(self._finish_wandb)
                self.progress, self.task = opened.enter_context(progress_bar(self.title, self.steps, done=self.done))
                self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        self._open.__exit__(kind, error, trace)

    def advance(self, step: int, note: str) -> None:
        """Move the progress bar."""
        if self.enabled:
            self.progress.update(self.task, completed=step, note=note)

    def write(self, step: int, values: Mapping[str, float], *, wall_s: float | None = None) -> None:
        """Log the metrics of a step everywhere.

        Args:
            step: number of steps done.
            values: metrics by name.
            wall_s: seconds of training since the first step, over all interruptions; logged as a metric.

        Raises:
            TrainingError: a file cannot be written, for example on a full disk.
        """
        if not self.enabled:
            return
        metrics = {**({} if wall_s is None else {"wall_s": wall_s}), **values}
        self._log.write({"step": step, **metrics})
        if self._board is not None:
            with self._naming(self.out / "tensorboard"):
                for name, value in metrics.items():
                    self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({"step": step, **metrics})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if _HEADLINES.fullmatch(name))
        spent = time.monotonic() - self.started
        left = spent / max(step - self.done, 1) * (self.steps - step)
        self._print(f"{self.title} {step}/{self.steps}  {shown}  left {left / 60:.1f} min")

    def alarm(self, step: int, name: str, message: str) -> None:
        """Log an alarm: a line of `alarms.jsonl`, a red line on the console, an alert of wandb.

        Raises:
            TrainingError: the file cannot be written, for example on a full disk.
        """
        if not self.enabled:
            return
        self._print(f"{self.title}: ALARM at step {step}: {name}: {message}", style="bold red")
        self._alarms.write({"step": step, "name": name, "message": message})
        if self._wandb is not None:
            self._wandb.alert(title=f"{name} at step {step}", text=message)

    def say(self, message: str) -> None:
        """Print a message above the progress bar."""
        if self.enabled:
            self._print(f"{self.title}: {message}")

    def _print(self, text: str, *, style: str | None = None) -> None:
        """Print a text without markup, since utterance ids may contain brackets."""
        self.progress.said = time.monotonic()
        self.progress.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def _close_board(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        assert self._board is not None
        with self._naming(self.out / "tensorboard") if error is None else suppress(OSError):
            self._board.close()

    def _finish_wandb(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        assert self._wandb is not None
        self._wandb.finish(exit_code=0 if error is None or isinstance(error, StoppedError) else 1)

    @contextmanager
    def _naming(self, path: Path) -> Iterator[None]:
        """Turn an `OSError` into a `TrainingError` that names the path."""
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be written ({error.strerror}); make room, or set train.log.tensorboard=false, and run "
                "the same command again: training goes on from the last checkpoint"
            ) from error
