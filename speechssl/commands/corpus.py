"""Command line: real corpora, fetched and split."""

from pathlib import Path
from typing import Annotated

import typer

from speechssl.commands.arguments import with_bar
from speechssl.corpora import CORPORA, describe_corpora, prepare_corpus
from speechssl.data.manifest import read_manifest

__all__ = ["corpus_command"]


def corpus_command(
    name: Annotated[str | None, typer.Argument(help="Which one; without it, the corpora are listed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to fill.")] = None,
    source: Annotated[Path | None, typer.Option(help="Folder with the packages or the published layout.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of split lists to follow, as in manifests/.")] = None,
) -> None:
    """Prepare a real corpus and its splits."""
    if name is None:
        print(*describe_corpora(), sep="\n")
        return
    if out is None and name in CORPORA:
        raise typer.BadParameter("name the folder to fill with --out")
    manifests = prepare_corpus(name, out or Path(), source=source, splits=splits, progress=with_bar(f"corpus {name}"))
    for path in manifests.values():
        manifest = read_manifest(path)
        print(f"{path}  {len(manifest.utterances)} utterances, {manifest.duration_s / 60:.1f} min")
