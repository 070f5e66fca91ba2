"""Command line: phone ABX of features on disk."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from speechssl.cli.arguments import Root
from speechssl.corpus.named import read_named

__all__ = ["abx_command"]


def abx_command(
    features: Annotated[
        Path, typer.Argument(help="Folder of `speechssl extract`, or of files ID.npy, (frames, dim), with --hop.")
    ],
    phones: Annotated[
        Path, typer.Argument(help="Zerospeech's .item file; or alignments (CTM, TextGrid, festival, phones.tsv).")
    ],
    manifest: Annotated[Path | None, typer.Option(help="Manifest with the speakers, for alignments.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer, if the folder holds several.")] = None,
    hop: Annotated[
        int | None, typer.Option(help="Samples at 16 kHz from frame to frame, for files ID.npy: 320 is 50 a second.")
    ] = None,
    tier: Annotated[str, typer.Option(help="Tier of a TextGrid.")] = "phones",
    distance: Annotated[
        Literal["angular", "euclidean", "identical"], typer.Option(help="identical: features are units, one a frame.")
    ] = "angular",
    max_items: Annotated[
        int, typer.Option(help="Items of a phone, context and speaker, drawn at random; 0: all.")
    ] = 10,
    max_speakers: Annotated[int, typer.Option(help="Speakers of X for A and its speaker; 0: all.")] = 5,
    max_pairs: Annotated[int, typer.Option(help="Pairs of items to compare in a condition; 0: all.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    root: Root = None,
) -> None:
    """Measure how well features tell phones apart without training: ABX within and across speakers."""
    from speechssl.downstream.abx_cells import AbxConfig
    from speechssl.stages.feature_abx import abx_of_features, read_phone_items

    config = AbxConfig(
        distance=distance,
        max_items=max_items or None,
        max_speakers=max_speakers or None,
        max_pairs=max_pairs or None,
        seed=seed,
    )
    items = read_phone_items(phones, read_named(manifest, root=root) if manifest else None, tier=tier)
    found = abx_of_features(features, items, config, layer=layer, hop=hop)
    for task, score in found.scores:
        spread = score.interval
        between = f" ({100 * spread.low:.2f} to {100 * spread.high:.2f} for other speakers)" if spread else ""
        share = "" if task.drawn_share == 1 else f", {100 * task.drawn_share:.1f} % of the pairs"
        print(f"{task.name}: {100 * score.error:.2f} %{between}, {score.triples} triples in {score.cells} cells{share}")
        if task.items_left_out:
            print(f"{task.name}: {task.items_left_out} phones over --max-items", file=sys.stderr)
        if task.single:
            print(f"{task.name}: only once, so never X: {', '.join(task.single)}", file=sys.stderr)
        if task.alone:
            print(f"{task.name}: speakers with one phone, left out: {', '.join(task.alone)}", file=sys.stderr)
    for reason in found.no_triples:
        print(reason, file=sys.stderr)
    _tell(found.no_features, "utterances without features")
    _tell(found.no_frames, "phones without a frame, or past the last")


def _tell(ids: Sequence[str], what: str) -> None:
    if ids:
        named = ", ".join(list(dict.fromkeys(ids))[:3])
        print(f"left out: {len(ids)} {what}, of {named}{', ...' if len(set(ids)) > 3 else ''}", file=sys.stderr)
