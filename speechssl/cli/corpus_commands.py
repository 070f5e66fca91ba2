"""Command line: real corpora, fetched and split."""

from pathlib import Path
from typing import Annotated

import typer

from speechssl.cli.arguments import with_bar
from speechssl.corpus.fetch import all_corpora, corpora_named, describe_corpora, prepare_corpus
from speechssl.data.manifest import read_manifest

__all__ = ["corpus_command"]


def corpus_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE.py[:NAME]",
            help="Name of a corpus. Without it, or with a file alone, the corpora are listed.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to fill.")] = None,
    source: Annotated[Path | None, typer.Option(help="Folder with the packages or the published layout.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of split lists to follow, as in manifests/.")] = None,
) -> None:
    """Prepare a real corpus and its splits.

    A corpus comes with the toolkit or with an installed package, or is defined in a Python file like those of
    recipes/corpora: FILE.py:NAME, or FILE.py if it defines one corpus.
    """
    if name is None:
        print(*describe_corpora(all_corpora()), sep="\n")
        return
    corpora = corpora_named(name)
    if name.endswith(".py") and out is None and source is None and splits is None:
        print(*describe_corpora({corpus.name: corpus for corpus in corpora}), sep="\n")
        return
    if len(corpora) > 1:
        names = ", ".join(corpus.name for corpus in corpora)
        raise typer.BadParameter(f"{name} defines {len(corpora)} corpora; expected {name}:NAME with one of {names}")
    if out is None:
        raise typer.BadParameter("name the folder to fill with --out")
    (corpus,) = corpora
    progress = with_bar(f"corpus {corpus.name}")
    manifests = prepare_corpus(corpus, out, source=source, splits=splits, progress=progress)
    for path in manifests.values():
        manifest = read_manifest(path)
        print(f"{path}  {len(manifest.utterances)} utterances, {manifest.duration_s / 60:.1f} min")
