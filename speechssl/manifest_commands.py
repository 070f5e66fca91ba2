"""Command line: `speechssl manifest <what> ...`, everything that makes, looks at or changes lists of audio.

Each command reads its arguments, calls one function of the package and prints what came of it.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from speechssl.data.manifest import (
    Manifest,
    build_manifest,
    read_manifest,
    write_fairseq_manifest,
    write_manifest,
)
from speechssl.train.runlog import progress_bar

__all__ = ["Root", "manifest_app", "with_bar"]

manifest_app = typer.Typer(
    name="manifest",
    help="Make manifests, lists of audio with what is known of it, and work on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")]
Root = Annotated[Path | None, typer.Option(help="Folder of the audio; the manifest's own if not given.")]


@manifest_app.command("build")
def build_command(
    folder: Annotated[Path, typer.Argument(help="Folder tree of audio.")],
    out: Out,
    side_file: Annotated[Path | None, typer.Option(help="Table with id or path, and text, speaker, ...")] = None,
    skip_bad: Annotated[bool, typer.Option(help="List and count unreadable files instead of stopping.")] = False,
    fairseq: Annotated[bool, typer.Option(help="Write fairseq's tsv: root line, then path and samples.")] = False,
) -> None:
    """List the audio below a folder."""
    if folder.is_file():
        raise typer.BadParameter(f"{folder} is a file; a manifest is converted by `speechssl manifest export`")
    manifest, errors = build_manifest(folder, side_file=side_file, skip_bad=skip_bad, progress=with_bar("headers"))
    if fairseq:
        write_fairseq_manifest(out, manifest)
    else:
        write_manifest(out, manifest.utterances)
    for error in errors:
        print(f"skipped: {error}", file=sys.stderr)
    print(f"{_summary(out, manifest)}, {len(errors)} files skipped")
    if not fairseq and out.parent.resolve() != folder.resolve():
        print(f"paths are relative to {folder}: pass data.root={folder}, or --root, where the manifest is used")


@manifest_app.command("export")
def export_command(
    manifest: Annotated[Path, typer.Argument(help="Manifest to convert.")],
    out: Annotated[Path, typer.Argument(help="File or folder to write.")],
    to: Annotated[str, typer.Option(help="Format to write: fairseq.")],
    root: Root = None,
) -> None:
    """Write a manifest in another toolkit's format."""
    if to != "fairseq":
        raise typer.BadParameter(f"--to {to}: expected fairseq")
    listed = read_manifest(manifest, root=root)
    write_fairseq_manifest(out, listed)
    print(_summary(out, listed))


def with_bar(title: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """Return a function that wraps items, given their number, to show a progress bar while they are gone through."""

    def wrap(items: Iterable[Any], total: int) -> Iterable[Any]:
        with progress_bar(title, total) as (bar, task):
            yield from bar.track(items, task_id=task)

    return wrap


def _summary(out: Path, manifest: Manifest) -> str:
    return f"{out}: {len(manifest.utterances)} utterances, {manifest.duration_s / 3600:.2f} h"
