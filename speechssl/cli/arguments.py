"""Parts shared by the commands: common options, lists of NAME=VALUE, progress bars."""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from speechssl.train.runlog import progress_bar

__all__ = [
    "Bfloat16",
    "Channels",
    "MinSampleRate",
    "Precision",
    "Root",
    "Shift",
    "ShiftSeed",
    "choose_precision",
    "name_numbers",
    "name_values",
    "with_bar",
]

Bfloat16 = Annotated[bool, typer.Option("--bfloat16", hidden=True, help="Earlier name of --precision bfloat16.")]

Channels = Annotated[
    str | None, typer.Option(help="For multichannel audio: mean or first. Default: as in the model's training.")
]
MinSampleRate = Annotated[
    int | None, typer.Option(help="Hz; audio with a lower rate is refused. Default: as in the model's training.")
]
Precision = Annotated[
    Literal["float32", "bfloat16", "int8", "auto"],
    typer.Option(help="Numbers of matrix products; int8 is for CPUs, auto the fastest on this processor."),
]
Root = Annotated[Path | None, typer.Option(help="Root folder of the audio. Default: that of the manifest.")]
Shift = Annotated[
    str | None,
    typer.Option(
        "--shift",
        help="Read the audio under a shift: noise:DB, noise:DB:babble, noise:DB:FILES, reverb:SECONDS, reverb:FILES, "
        "band:HZ, gain:DB, clip:PERCENT or speed:FACTOR.",
    ),
]
ShiftSeed = Annotated[int, typer.Option("--shift-seed", help="Seed of the noise and rooms of --shift.")]


def with_bar(title: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Return a function that wraps items, given their number, in a progress bar.

    On a terminal the bar shows rate and remaining time; elsewhere, such as in the log of a job, a line is printed each
    minute.
    """

    def wrap(items: Iterable[Any], total: int) -> Iterable[Any]:
        begin = time.monotonic()
        with progress_bar(title, total) as (bar, task):
            for done, item in enumerate(items, start=1):
                yield item
                bar.update(task, completed=done, note=f"{done / (time.monotonic() - begin):.0f}/s")

    return wrap


def choose_precision(asked: Precision, bfloat16: bool) -> Literal["float32", "bfloat16", "int8"]:
    """Return the precision to compute in on this process's device, and say which one it is unless it is float32.

    Args:
        asked: value of `--precision`.
        bfloat16: whether `--bfloat16` was given.

    Raises:
        typer.BadParameter: the options contradict each other.
        ConfigError: the device does not have the precision.
    """
    if bfloat16 and asked not in ("float32", "bfloat16"):
        raise typer.BadParameter(f"--bfloat16 and --precision {asked} exclude each other; give --precision alone")
    from speechssl.model import precision
    from speechssl.parallel import pick_device

    wanted, device = "bfloat16" if bfloat16 else asked, pick_device()
    chosen = precision.choose_precision(wanted, device)
    if wanted != "float32":
        print(precision.reason_for(chosen, wanted, device), file=sys.stderr)
    return chosen


def name_values(text: str) -> dict[str, str]:
    """Read NAME=VALUE,NAME=VALUE, each name once.

    Raises:
        typer.BadParameter: it is something else.
    """
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name and value for name, _, value in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        raise typer.BadParameter(f"expected NAME=VALUE,NAME=VALUE, each name once, found {text}")
    return {name: value for name, _, value in pairs}


def name_numbers(text: str) -> dict[str, float]:
    """Read NAME=NUMBER,NAME=NUMBER, each name once.

    Raises:
        typer.BadParameter: it is something else.
    """
    try:
        return {name: float(value) for name, value in name_values(text).items()}
    except ValueError as error:
        raise typer.BadParameter(f"expected NAME=NUMBER,NAME=NUMBER, found {text}") from error
