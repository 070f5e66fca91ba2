"""Command line: plan a run before it is paid for."""

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["plan_command"]


def plan_command(
    hours: Annotated[float, typer.Option(help="Hours of unlabelled audio.")],
    days: Annotated[float, typer.Option(help="Days of training.")],
    device: Annotated[
        str, typer.Option(help="cpu, a100, h100, h200, l4, rtx3090, rtx4090; any other with --rate.")
    ] = "cpu",
    memory: Annotated[float | None, typer.Option(help="GB of one device, if not all of it.")] = None,
    devices: Annotated[int, typer.Option(help="How many of them.")] = 1,
    method: Annotated[str, typer.Option(help="wav2vec2, hubert, or that of an installed task.")] = "wav2vec2",
    size: Annotated[
        Literal["small", "base", "large"] | None, typer.Option(help="The largest worth it, if not given.")
    ] = None,
    batch: Annotated[float | None, typer.Option(help="Seconds of audio an update; as published, if not given.")] = None,
    rate: Annotated[float | None, typer.Option(help="Audio-seconds a second of one device, measured.")] = None,
    utilisation: Annotated[float, typer.Option(help="Assumed share of a spec sheet's peak rate.")] = 0.1,
    measure: Annotated[bool, typer.Option(help="Measure the planned size on this machine's device.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Recipe to write for pretrain.")] = None,
) -> None:
    """Plan a pretraining run: size, batch, learning rate, and what published runs reached."""
    from speechssl.stages.plan import PlanRequest, make_plan, measured_plan
    from speechssl.stages.plan_text import describe_plan, write_recipe

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
