"""What the commands have in common: options that several take, lists of NAME=VALUE, how far a command is."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from speechssl.train.runlog import progress_bar

__all__ = ["Channels", "MinSampleRate", "Root", "name_numbers", "name_values", "with_bar"]

Channels = Annotated[str | None, typer.Option(help="Of several: mean or first; as the model heard if not given.")]
MinSampleRate = Annotated[
    int | None, typer.Option(help="Hz; audio recorded below is refused; as the model heard if not given.")
]
Root = Annotated[Path | None, typer.Option(help="Folder of the audio; the manifest's own if not given.")]


def with_bar(title: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Return a function that wraps items, given their number, to show how far they are gone through.

    On a terminal that is a bar with rate and time left; elsewhere, as in the log of a job, a line each minute.
    """

    def wrap(items: Iterable[Any], total: int) -> Iterable[Any]:
        begin = time.monotonic()
        with progress_bar(title, total) as (bar, task):
            for done, item in enumerate(items, start=1):
                yield item
                bar.update(task, completed=done, note=f"{done / (time.monotonic() - begin):.0f}/s")

    return wrap


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
