"""Command line: models on disk: descriptions, other toolkits' formats, averages of checkpoints, model cards."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["average_command", "card_command", "convert_command", "info_command", "push_command"]

Licence = Annotated[
    str | None,
    typer.Option("--license", "--licence", help="Identifier of the hub, such as apache-2.0. Default: left open."),
]
Scores = Annotated[list[Path] | None, typer.Option("--score", help="File of `score --out`; may be repeated.")]


def average_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    best: Annotated[int | None, typer.Option(help="Number of checkpoints with the best dev scores.")] = None,
    last: Annotated[int | None, typer.Option(help="Number of last checkpoints.")] = None,
) -> None:
    """Average checkpoints of a run into one model."""
    from speechssl.stages.average import average, best_steps, last_steps

    if (best is None) == (last is None):
        raise typer.BadParameter("choose the checkpoints: --best 3, or --last 3")
    steps = best_steps(run, best) if best is not None else last_steps(run, last or 0)
    print(f"{out}: {average(run, out, steps).description.origin}")


def convert_command(
    source: Annotated[Path, typer.Argument(help="Model of any format that can be read; the format is detected.")],
    target: Annotated[Path, typer.Argument(help="File or folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="Format to write: speechssl, transformers, fairseq2, torchaudio, fairseq, onnx, "
            "sherpa-onnx, onnx-asr, ctranslate2."
        ),
    ],
    precision: Annotated[
        Literal["float32", "int8"],
        typer.Option(help="Precision of the products. int8 is for onnx, sherpa-onnx, onnx-asr and ctranslate2."),
    ] = "float32",
    probe: Annotated[Path | None, typer.Option(help="Recording to compare on. Default: a synthetic one.")] = None,
    licence: Licence = None,
    score: Scores = None,
) -> None:
    """Convert a model to another toolkit's format, and check the result by running it."""
    from speechssl.hub.model_formats import FORMATS
    from speechssl.stages.card import CARD, model_card, read_score
    from speechssl.stages.convert import convert

    if to not in ("transformers", "speechssl") and (licence is not None or score):
        raise typer.BadParameter(f"--license and --score are for the card of a folder; {to} has none: leave them out")
    scores = [read_score(path) for path in score or ()]

    converted = convert(source, target, to, probe=probe, precision=precision)
    for name, reason in converted.added.items():
        print(f"added    {name}: {reason}")
    for name, reason in converted.dropped.items():
        print(f"dropped  {name}: {reason}")
    for who, difference in converted.differences.items():
        print(f"checked  run by {who}: largest difference {difference:.1e} of the largest output")
    package = FORMATS[to].package
    if FORMATS[to].run is not None and find_spec(package) is None:
        print(f"not checked by {to}'s own model: {package} is not installed")
    if to in ("transformers", "speechssl"):
        card = model_card(source, licence=licence, scores=scores, toolkit=to, title=target.name)
        (target / CARD).write_text(card, encoding="utf-8")
        print(f"card     {target / CARD}" + ("" if licence else "; choose its license, it is left open"))
    print(f"{target}: {to}, from {converted.source_format}, {converted.model.description.method}")


def info_command(model: Annotated[Path, typer.Argument(help="Model of any format that can be read.")]) -> None:
    """Describe a model: method, size, layers, units, vocabulary, origin, fingerprint."""
    from speechssl.stages.info import describe

    for name, value in describe(model):
        print(f"{name:<14} {value}")


def card_command(
    model: Annotated[Path, typer.Argument(help="A run, which holds the most information, or a model of any format.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. Default: print the card.")] = None,
    licence: Licence = None,
    score: Scores = None,
) -> None:
    """Write a model card from the records of a run: method, data, hours seen, units, results, commit."""
    from speechssl.atomic import write_atomically
    from speechssl.stages.card import model_card, read_score

    card = model_card(model, licence=licence, scores=[read_score(path) for path in score or ()])
    if out is None:
        print(card, end="")
    else:
        write_atomically(out, card)
        print(out)


def push_command(
    folder: Annotated[Path, typer.Argument(help="Model folder with a card, such as from `convert --to transformers`.")],
    name: Annotated[str, typer.Argument(help="Name on the hub: org/name.")],
) -> None:
    """Print the command that uploads a model to the Hugging Face hub; nothing is sent."""
    from speechssl.stages.card import upload_line

    print(upload_line(folder, name))
