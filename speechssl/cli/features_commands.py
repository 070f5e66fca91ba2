"""Command line: write features of a model, or of a front end, to disk."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from speechssl.cli.arguments import Bfloat16, Precision, Root, Shift, ShiftSeed, choose_precision

__all__ = ["extract_command", "parse_layers", "parse_numbers"]


def extract_command(
    model: Annotated[str, typer.Argument(help="Folder or file of a model, hf://org/name, or mfcc or log_mel.")],
    manifests: Annotated[list[Path], typer.Argument(help="Manifests of the audio.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    layers: Annotated[
        str, typer.Option(help="Numbers such as 6 or 3,6,9; all; or weighted, their sum. Default: the last one.")
    ] = "",
    weights: Annotated[
        str,
        typer.Option(help="Weights separated by commas, one per layer, for --layers weighted. Default: equal weights."),
    ] = "",
    form: Annotated[
        Literal["npy", "safetensors", "shards", "hdf5", "zarr", "parquet", "lhotse"],
        typer.Option("--format", help="File format; shards are for k-means on more frames than fit into memory."),
    ] = "npy",
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Number type in the files.")] = "float32",
    pool: Annotated[Literal["none", "mean"], typer.Option(help="mean: one row per utterance.")] = "none",
    segments: Annotated[
        Path | None, typer.Option(help="Label file: one row per run of equal units, their mean.")
    ] = None,
    cmn: Annotated[
        bool, typer.Option("--cmn", help="Subtract the mean of each utterance from its MFCC or log-mel.")
    ] = False,
    root: Root = None,
    skip_bad: Annotated[bool, typer.Option(help="Report and skip unusable audio instead of stopping.")] = False,
    processes: Annotated[int, typer.Option("-j", "--processes", help="Number of processes on this machine.")] = 1,
    window_s: Annotated[float, typer.Option(help="Seconds; longer audio is encoded in windows of this length.")] = 60.0,
    batch_s: Annotated[
        float | None, typer.Option(help="Seconds of audio in a batch; 0: one utterance, the default on CPU.")
    ] = None,
    precision: Precision = "float32",
    bfloat16: Bfloat16 = False,
    shift: Shift = None,
    shift_seed: ShiftSeed = 0,
) -> None:
    """Write the features of a model's layers, MFCC or log-mel: npy, HDF5, Zarr, safetensors, Parquet, Lhotse."""
    from speechssl.features.feature_folder import FeatureFolder
    from speechssl.stages.extract import ExtractFeaturesConfig, extract_features
    from speechssl.stages.feature_source import ExtractConfig
    from speechssl.stages.reading_data import DataConfig

    if segments is not None and pool == "mean":
        raise typer.BadParameter("--pool mean and --segments exclude each other; give one of them")
    config = ExtractFeaturesConfig(
        out=out,
        data=DataConfig(
            manifests=tuple(manifests),
            root=root,
            bad_audio="skip" if skip_bad else "stop",
            shift=shift,
            shift_seed=shift_seed,
        ),
        model=model,
        layers=parse_layers(layers),
        weights=tuple(float(number) for number in parse_numbers(weights, "--weights")),
        cmn=cmn,
        format=form,
        dtype=dtype,
        pool="segments" if segments is not None else pool,
        segments=segments,
        extract=ExtractConfig(
            window_s=window_s,
            overlap_s=min(4.0, window_s / 4),
            batch_s=batch_s,
            precision=choose_precision(precision, bfloat16),
        ),
        processes=processes,
    )
    description = FeatureFolder(extract_features(config)).description
    streams = ", ".join(f"{stream.name} ({stream.dim})" for stream in description.streams)
    rows = "" if description.pool == "none" else f" as {description.rows} means"
    print(
        f"{out}: {description.utterances} utterances, {description.frames} frames{rows}, {streams}, "
        f"{description.dtype}, {len(description.left_out)} left out"
    )


def parse_layers(text: str) -> tuple[int, ...] | Literal["all", "weighted"]:
    """Read the value of `--layers`."""
    match text:
        case "all" | "weighted":
            return text
        case _:
            numbers = parse_numbers(text, "--layers")
            if not all(number.is_integer() for number in numbers):
                raise typer.BadParameter(f"--layers {text}: expected whole numbers, counted from 1")
            return tuple(int(number) for number in numbers)


def parse_numbers(text: str, option: str) -> list[float]:
    """Read numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError as error:
        more = ", all or weighted" if option == "--layers" else ""
        raise typer.BadParameter(f"{option} {text}: expected numbers separated by commas{more}") from error
