"""Command line: training runs: compared, reported, and what broke a step of theirs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from speechssl.atomic import write_atomically

__all__ = ["replay_command", "report_command", "runs_command"]


def replay_command(
    step: Annotated[Path, typer.Argument(help="Folder skipped_step_* of a run, or the run: its newest one.")],
) -> None:
    """Repeat a step that training skipped, and say which utterance and which module broke it."""
    from speechssl.stages.replay import replay

    for row in replay(step):
        found = f"first not finite: {row.broken}" if row.broken else ""
        print(f"{row.name}  loss {row.loss:.4g}  gradient norm {row.norm:.4g}  peak {row.peak:.3g}  {found}".rstrip())


def report_command(run: Annotated[Path, typer.Argument(help="Folder that a recipe filled.")]) -> None:
    """Print what a recipe measured, as tables."""
    from speechssl.report import report_run

    text = report_run(run)
    write_atomically(run / "report.md", text + "\n")
    print(text)


def runs_command(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, of pretraining or fine-tuning.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML page to write; opens offline.")] = None,
    png: Annotated[Path | None, typer.Option(help="PNG to write: figures that two or more runs share.")] = None,
) -> None:
    """Compare training runs: a table, curves over steps, hours of audio seen and wall time."""
    from speechssl.runs.read import read_runs
    from speechssl.runs.table import print_runs

    runs = read_runs(folders)
    for note in (note for run in runs for note in run.notes):
        print(note, file=sys.stderr)
    print_runs(runs)
    if out is not None:
        from speechssl.runs.page import write_page

        write_page(runs, out)
        print(out)
    if png is not None:
        from speechssl.runs.draw import plot_runs

        plot_runs(runs, png)
        print(png)
