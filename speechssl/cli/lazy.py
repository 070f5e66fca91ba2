"""Lazy groups of commands: each is imported when it runs, and `--help` lists them from a table."""

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
    """A command and the location of its function."""

    summary: str  # line in the group's `--help`; equals the first line of the function's docstring
    where: str  # module:function, below speechssl.cli
    extras: tuple[str, ...] = ()  # extras of setup.py that the command needs, in whole or in part

    def built(self, name: str) -> Any:
        """Import the function and build a command for typer."""
        module, _, function = self.where.partition(":")
        app = _plain_app()
        app.command(name)(getattr(importlib.import_module(f"speechssl.cli.{module}"), function))
        return typer.main.get_command(app)


@dataclass(frozen=True)
class Group:
    """A named group of commands."""

    summary: str
    table: "Table"

    def built(self, name: str) -> Any:
        """Build the group for typer without importing its commands."""
        return typer.main.get_command(app_of(self, name))


Table = Mapping[str, Command | Group]


def app_of(group: Group, name: str) -> typer.Typer:
    """Build an app from a group, which lists its commands in the order of their table."""

    class LazyGroup(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands: Any = dict.fromkeys(group.table)  # the names it suggests for a mistyped command

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
    app.callback()(_whole if is_whole else lambda: None)  # typer refuses an app with neither commands nor a callback
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
    """Accept the options of the program itself."""


def _version(package: str) -> str:
    """Return an installed package's version without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(none)"


def command_and_extras(group: Group, arguments: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the full name of the command that the arguments start with, such as `lm tune`, and its extras."""
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
