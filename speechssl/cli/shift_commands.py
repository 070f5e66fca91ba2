"""Command line: score models under noise, reverberation and other shifts, by group."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from speechssl.atomic import write_atomically
from speechssl.cli.arguments import Precision, Root, choose_precision
from speechssl.config import from_dict
from speechssl.corpus.named import read_named

__all__ = ["shift_command"]


def shift_command(
    models: Annotated[
        list[Path], typer.Argument(help="Folders of fine-tuned models, or of heads of probe, then a manifest.")
    ],
    shifts: Annotated[
        str,
        typer.Option(
            help="Conditions, separated by commas: noise:DB, noise:DB:babble, noise:DB:FILES, reverb:SECONDS, "
            "reverb:FILES, band:HZ, gain:DB, clip:PERCENT, speed:FACTOR."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; finished conditions are not repeated.")],
    by: Annotated[
        list[str] | None,
        typer.Option(help="Grouping: speaker, language, split, duration, snr or a column; may be repeated."),
    ] = None,
    columns: Annotated[Path | None, typer.Option(help="Table by id or speaker, with columns to group by.")] = None,
    fewest: Annotated[int, typer.Option(help="Groups of fewer utterances are reported, but not ranked.")] = 10,
    normaliser: Annotated[str, typer.Option(help="Normalisation of both texts: none, nfc, lower or plain.")] = "none",
    blocks: Annotated[str, typer.Option(help="Unit of the bootstrap: utterance or speaker.")] = "utterance",
    samples: Annotated[int, typer.Option(help="Bootstrap samples for each interval.")] = 1000,
    level: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of noise, rooms and draws.")] = 0,
    root: Root = None,
    skip_bad: Annotated[bool, typer.Option(help="Report and skip unusable audio instead of stopping.")] = False,
    precision: Precision = "float32",
    batch_s: Annotated[float, typer.Option(help="Seconds of audio in a batch.")] = 120.0,
) -> None:
    """Score models under noise, reverberation, narrow band, loudness: curves, the worst group and condition."""
    from speechssl.report.plot import plot_shifts
    from speechssl.stages.score import read_columns, with_known_languages
    from speechssl.stages.shift_systems import shift_references, system_of
    from speechssl.stages.shift_text import report_lines
    from speechssl.stages.shifts import FIGURES, ShiftsConfig, score_shifts

    *folders, source = models
    if not folders:
        raise typer.BadParameter("expected one or more models, and a manifest after them")
    scoring = {"normaliser": normaliser, "blocks": blocks, "samples": samples, "level": level, "seed": seed}
    posteriors = {"batch_s": batch_s, "precision": choose_precision(precision, bfloat16=False)}
    config = from_dict(
        {
            "shifts": [text.strip() for text in shifts.split(",") if text.strip()],
            "seed": seed,
            "fewest": fewest,
            "score": scoring,
            "posteriors": posteriors,
            "skip_bad": skip_bad,
        },
        ShiftsConfig,
        where="shift",
    )
    manifest = read_named(source, root=root)
    systems = {
        name: system_of(path, config.posteriors, config.score, skip_bad=skip_bad)
        for name, path in _named(folders).items()
    }
    table = read_columns(columns) if columns is not None else None
    references = shift_references(systems, manifest, by or (), table)
    if normaliser in ("lower", "plain"):  # only these have rules that depend on the language
        references, notes = with_known_languages(references, source)
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    found = score_shifts(systems, manifest, references, config, out)
    lines = report_lines(found, title=f"{source.name} under shifts")
    write_atomically(out / "shift.md", "\n".join(lines) + "\n")
    plot_shifts(out / FIGURES, out / "shift.png")
    print(*lines, sep="\n")


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Name models by the last parts of their paths, as many as tell them apart, and two at least."""
    whole = [path.resolve() for path in folders]
    if doubled := next((path for place, path in enumerate(whole) if path in whole[:place]), None):
        raise typer.BadParameter(f"{doubled} is given twice; name each model once")
    names: list[str] = []
    for count in range(2, max(len(path.parts) for path in whole) + 1):
        names = ["-".join(path.parts[-count:]) for path in whole]
        if len({*names}) == len(names):
            break
    return dict(zip(names, folders, strict=True))
