"""Command line: plan, compare and report training runs, and replay skipped steps."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from speechssl.atomic import write_atomically

__all__ = ["plan_command", "replay_command", "report_command", "runs_command"]


def replay_command(
    step: Annotated[Path, typer.Argument(help="Folder skipped_step_* of a run, or the run: its newest such folder.")],
) -> None:
    """Repeat a step that training skipped, and report which utterance and which module broke it."""
    from speechssl.stages.replay import replay

    for row in replay(step):
        found = f"first not finite: {row.broken}" if row.broken else ""
        print(f"{row.name}  loss {row.loss:.4g}  gradient norm {row.norm:.4g}  peak {row.peak:.3g}  {found}".rstrip())


def report_command(run: Annotated[Path, typer.Argument(help="Folder that a recipe filled.")]) -> None:
    """Print the results of a recipe as tables."""
    from speechssl.report.run_report import report_run

    text = report_run(run)
    write_atomically(run / "report.md", text + "\n")
    print(text)


def runs_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders of pretraining or fine-tuning runs.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML page to write; works offline.")] = None,
    png: Annotated[Path | None, typer.Option(help="PNG to write: metrics that two or more runs share.")] = None,
) -> None:
    """Compare training runs: a table, curves over steps, hours of audio seen and wall time."""
    from speechssl.report.read_runs import read_runs
    from speechssl.report.runs_table import print_runs

    runs = read_runs(folders)
    for note in (note for run in runs for note in run.notes):
        print(note, file=sys.stderr)
    print_runs(runs)
    if out is not None:
        from speechssl.report.runs_page import write_page

        write_page(runs, out)
        print(out)
    if png is not None:
        from speechssl.report.runs_page import plot_runs

        plot_runs(runs, png)
        print(png)


def plan_command(
    hours: Annotated[float, typer.Option(help="Hours of unlabelled audio.")],
    days: Annotated[float, typer.Option(help="Days of training.")],
    device: Annotated[
        str, typer.Option(help="cpu, a100, h100, h200, l4, rtx3090, rtx4090; any other with --rate.")
    ] = "cpu",
    memory: Annotated[float | None, typer.Option(help="Memory of one device in GB. Default: all of it.")] = None,
    devices: Annotated[int, typer.Option(help="Number of devices.")] = 1,
    method: Annotated[
        str, typer.Option(help="wav2vec2, hubert, best-rq, data2vec, or the name of an installed task.")
    ] = "wav2vec2",
    size: Annotated[
        Literal["small", "base", "large"] | None,
        typer.Option(help="Model size. Default: the largest that the time allows."),
    ] = None,
    batch: Annotated[float | None, typer.Option(help="Seconds of audio per update. Default: as published.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Measured throughput of one device, in audio-seconds per second.")
    ] = None,
    utilisation: Annotated[float, typer.Option(help="Assumed share of a spec sheet's peak rate.")] = 0.1,
    measure: Annotated[
        bool, typer.Option(help="Measure the throughput of the planned size on this machine's device.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Recipe for pretrain to write.")] = None,
) -> None:
    """Plan a pretraining run: size, batch, learning rate, and what published runs reached."""
    from speechssl.plan.plan_text import describe_plan, write_recipe
    from speechssl.plan.planner import PlanRequest, make_plan, measured_plan

    request = PlanRequest(
        hours=hours,
        days=days,
        device=device,
        memory_gb=memory,
        devices=devices,
        method=method,
        size=size,
        batch_s=batch,
        rate=rate,
        utilisation=utilisation,
    )
    plan = measured_plan(request) if measure else make_plan(request)
    print(*describe_plan(plan), sep="\n")
    if out is not None:
        write_recipe(out, plan)
        print(f"{out}: try it with `speechssl pretrain {out} --dry-run`")
