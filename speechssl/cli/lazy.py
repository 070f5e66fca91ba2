"""Groups of commands that are imported one at a time, when they run: `--help` lists them from a table."""

import importlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import speechssl

__all__ = ["Command", "Group", "Table", "app_of", "command_and_extras"]


@dataclass(frozen=True)
class Command:
    """A command, and where its function is."""

    summary: str  # what the group's `--help` says; the first line of the function's docstring
    where: str  # module:function, below speechssl.cli
    extras: tuple[str, ...] = ()  # of setup.py, without which it does not run, or not all of it

    def built(self, name: str) -> Any:
        """Import the function and make of it what typer runs."""
        module, _, function = self.where.partition(":")
        app = _plain_app()
        app.command(name)(getattr(importlib.import_module(f"speechssl.cli.{module}"), function))
        return typer.main.get_command(app)


@dataclass(frozen=True)
class Group:
    """Commands under a name of their own."""

    summary: str
    table: "Table"

    def built(self, name: str) -> Any:
        """Make what typer runs, without importing any of the commands."""
        return typer.main.get_command(app_of(self, name))


Table = Mapping[str, Command | Group]


def app_of(group: Group, name: str) -> typer.Typer:
    """Make an app of a group, which lists its commands in the order of their table."""

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands: Any = dict.fromkeys(group.table)  # of whose names it suggests one for a slip

        def list_commands(self, ctx: Any) -> list[str]:
            return list(group.table)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            entry = group.table.get(cmd_name)
            return entry.built(cmd_name) if entry is not None else None

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            width = formatter.width - 6 - max(map(len, group.table))
            with formatter.section("Commands"):
                formatter.write_dl([(name, _cut(entry.summary, width)) for name, entry in group.table.items()])

    is_whole = name == "speechssl"
    app = _plain_app(name=name, help=group.summary, cls=LazyGroup, no_args_is_help=True, add_completion=is_whole)
    app.callback()(_whole if is_whole else lambda: None)  # an app with neither commands nor a callback is a mistake
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"speechssl {speechssl.__version__}, torch {_version('torch')}, Python {platform.python_version()}")
        raise typer.Exit


def _whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print versions, and exit.")
    ] = False,
) -> None:
    """Take the options of the program itself."""


def _version(package: str) -> str:
    """Return an installed package's version without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(none)"


def command_and_extras(group: Group, arguments: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the whole name of the command that arguments start with, as `lm tune`, and the extras it needs."""
    name = ""
    for word in arguments:
        entry = group.table.get(word)
        if isinstance(entry, Group):
            group, name = entry, f"{word} "
        elif entry is not None:
            return f"{name}{word}", entry.extras
    return "this command", ()


def _plain_app(*, add_completion: bool = False, **settings: Any) -> typer.Typer:
    return typer.Typer(add_completion=add_completion, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else shorten(text, width, placeholder="...")
