"""Command line: what is done with a fine-tuned model: transcribe speech, score what was written.

Each command reads its arguments, calls one function of the package and prints what came of it.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from speechssl.config import from_dict
from speechssl.data.manifest import read_manifest, write_atomically
from speechssl.manifest_commands import Root
from speechssl.score.evaluate import ScoreConfig, evaluate, judge
from speechssl.score.summary import as_json, difference_lines, lines, utterance_rows
from speechssl.stages.score import GROUPINGS, read_columns, read_hypotheses, references_of
from speechssl.stages.transcribe import transcribe

__all__ = ["score_command", "transcribe_command"]


def transcribe_command(
    run: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run.")],
    manifest: Annotated[Path, typer.Argument(help="What to transcribe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table of id and text to write.")],
    root: Root = None,
    skip_bad: Annotated[bool, typer.Option(help="List and count unusable audio instead of stopping.")] = False,
) -> None:
    """Transcribe the utterances of a manifest."""
    texts, skipped = transcribe(run, read_manifest(manifest, root=root), skip_bad_audio=skip_bad)
    write_atomically(out, "\n".join(["id\ttext", *(f"{key}\t{text}" for key, text in sorted(texts.items()))]) + "\n")
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    print(f"{out}: {len(texts)} utterances, {len(skipped)} skipped")


def score_command(
    references: Annotated[Path, typer.Argument(help="Manifest with a text column.")],
    hypotheses: Annotated[Path, typer.Argument(help="Table of id and text, from transcribe; or a .trn.")],
    second: Annotated[Path | None, typer.Argument(help="Another system's, to compare with the first.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write as well.")] = None,
    utterances: Annotated[Path | None, typer.Option(help="TSV to write: a row an utterance, the worst first.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help=f"Grouping: {', '.join(GROUPINGS)} or a column; may be repeated.")
    ] = None,
    columns: Annotated[Path | None, typer.Option(help="Table by id or speaker, with columns to group by.")] = None,
    normaliser: Annotated[str, typer.Option(help="none, nfc, lower or plain, of both texts.")] = "none",
    blocks: Annotated[str, typer.Option(help="What intervals draw: utterance or speaker.")] = "utterance",
    alignment: Annotated[
        str, typer.Option(help="levenshtein, or nist: weighs errors of words as sclite.")
    ] = "levenshtein",
    samples: Annotated[int, typer.Option(help="Draws of each interval.")] = 10_000,
    level: Annotated[float, typer.Option(help="Confidence of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    root: Root = None,
) -> None:
    """Score transcripts by utterance id: CER and WER with intervals, by group, and against another system."""
    values = {"normaliser": normaliser, "blocks": blocks, "alignment": alignment}
    numbers = {"samples": samples, "level": level, "seed": seed}
    config = from_dict({**values, **numbers}, ScoreConfig, where="score")
    table = read_columns(columns) if columns is not None else None
    rows = references_of(read_manifest(references, root=root), by or (), table)
    first = evaluate(rows, read_hypotheses(hypotheses), config)
    print(*lines(first), sep="\n")
    differences = None
    if second is not None:
        other = evaluate(rows, read_hypotheses(second), config)
        print(f"second: {second}", *lines(other)[:2], sep="\n")
        differences = judge(rows, first, other)
        print(*difference_lines(differences), sep="\n")
    if out is not None:
        write_atomically(out, json.dumps(as_json(first, differences), indent=1, ensure_ascii=False) + "\n")
    if utterances is not None:
        write_atomically(utterances, "".join("\t".join(row) + "\n" for row in utterance_rows(first.utterances)))
        print(utterances)
