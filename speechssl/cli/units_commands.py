"""Command line: hidden units: print, plot, and convert to other toolkits' formats."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.cli.arguments import Root
from speechssl.corpus.named import read_named
from speechssl.data.fairseq_labels import is_km, read_km, with_ids_of, write_km
from speechssl.data.labels import read_labels, write_labels

__all__ = ["labels_command", "plot_command", "units_command"]


def labels_command(
    source: Annotated[Path, typer.Argument(help="Label file of speechssl, or fairseq's SPLIT.km.")],
    out: Annotated[
        Path, typer.Argument(help="SPLIT.km, with dict.km.txt beside it, or label file of speechssl to write.")
    ],
    manifest: Annotated[Path, typer.Option(help="Manifest in the order of the lines: fairseq's SPLIT.tsv, or ours.")],
    ids: Annotated[
        Path | None, typer.Option(help="Manifest of speechssl that gives ids to the paths of fairseq's.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(help="Labels per second in SPLIT.km. Default: 100 (MFCC) or 50 (HuBERT), as fits.")
    ] = None,
    window: Annotated[int, typer.Option(help="Samples in the window of a label of SPLIT.km.")] = 400,
    clusters: Annotated[
        int | None, typer.Option(help="Number of units in SPLIT.km. Default: from dict.km.txt.")
    ] = None,
    kmeans: Annotated[
        Path | None, typer.Option(help="File of the k-means of SPLIT.km: files with the same one may be mixed.")
    ] = None,
    piece: Annotated[
        int | None,
        typer.Option(
            "--max-chunk",
            help="Samples per chunk for SPLIT.km (fairseq: --max_chunk). Default: all or 1600000, as fits.",
        ),
    ] = None,
) -> None:
    """Convert frame labels from and to fairseq's format."""
    listed = read_named(manifest)
    if ids is not None:
        listed = with_ids_of(listed, read_named(ids))
    if is_km(source):
        labels = read_km(source, listed, rate=rate, window=window, clusters=clusters, kmeans=kmeans, piece=piece)
        write_labels(out, labels)
        _tell_pieces(labels.source.settings)
    elif (rate, window, clusters, kmeans, piece) != (None, 400, None, None, None):
        raise typer.BadParameter(f"{source} holds its own rate and units; leave the options out")
    else:
        labels = read_labels(source)
        write_km(out, labels, listed)
    made_by = labels.source
    print(f"{out}: {len(listed.utterances)} utterances, {made_by.clusters} units, k-means {made_by.kmeans}")
    print(f"fairseq: model.label_rate={SAMPLE_RATE / made_by.hop:g}")


def units_command(
    model: Annotated[str, typer.Argument(help="Model of any format, or hf://org/name.")],
    audio: Annotated[list[Path], typer.Argument(help="Audio files, of any length.")],
    kmeans: Annotated[
        Path | None, typer.Option(help="kmeans.safetensors of cluster. Default: the head of a HuBERT model.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer of the k-means, if its file does not hold it.")] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Merge repeats of a unit.")] = False,
    times: Annotated[
        bool, typer.Option("--times", help="Print one line per run of equal units: begin, end, unit.")
    ] = False,
    min_sample_rate: Annotated[int | None, typer.Option(help="Hz; lower rates are refused.")] = None,
) -> None:
    """Print the hidden units of audio files: one line per file, its name, a tab and the units."""
    from speechssl.inference.load import load

    found = load(model, min_sample_rate=min_sample_rate).units(audio, kmeans=kmeans, layer=layer)
    for path, units in zip(audio, found, strict=True):
        if times:
            for unit, begin, end in units.segments():
                print(f"{path}\t{begin:.3f}\t{end:.3f}\t{unit}")
        else:
            print(f"{path}\t{' '.join(map(str, units.merged() if merged else units.ids.tolist()))}")


def plot_command(
    labels: Annotated[list[Path], typer.Argument(help="Label files from cluster.")],
    manifest: Annotated[Path, typer.Option(help="Manifest of the utterance.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    utterance: Annotated[
        str | None, typer.Option(help="Id of the utterance. Default: the first of the manifest.")
    ] = None,
    root: Root = None,
) -> None:
    """Draw an utterance with its hidden units."""
    from speechssl.report.plot import plot_units

    plot_units(labels, read_named(manifest, root=root), out, utterance_id=utterance)
    print(out)


def _tell_pieces(settings: Mapping[str, str | int]) -> None:
    """Print to standard error how many labels were repeated where fairseq had processed audio in chunks."""
    if "piece" in settings:
        files, repeated = settings["in_pieces"], settings["repeated"]
        seconds = int(settings["piece"]) / SAMPLE_RATE
        print(
            f"{files} files of audio in pieces of {seconds:g} s: {repeated} labels repeated at seams",
            file=sys.stderr,
        )
