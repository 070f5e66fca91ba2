"""Command line: how good transcripts are."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from speechssl.commands.arguments import Root
from speechssl.config import from_dict
from speechssl.data.manifest import read_manifest, write_atomically

__all__ = ["score_command"]


def score_command(
    references: Annotated[Path, typer.Argument(help="Manifest with a text column.")],
    hypotheses: Annotated[Path, typer.Argument(help="Table of id and text, .jsonl, .trn, or Kaldi lines.")],
    second: Annotated[Path | None, typer.Argument(help="Another system's, to compare with the first.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write as well.")] = None,
    utterances: Annotated[Path | None, typer.Option(help="TSV to write: a row an utterance, the worst first.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Grouping: speaker, language, split, duration, snr or a column; may be repeated."),
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
    html: Annotated[Path | None, typer.Option(help="Page to write: all of it in one file, with sound.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Run that wrote them: its policy of texts, its tokens in the page.")
    ] = None,
    worst: Annotated[int, typer.Option(help="Utterances whose sound the page holds.")] = 100,
    audio_mb: Annotated[float, typer.Option(help="Of sound in the page, at most.")] = 30.0,
    root: Root = None,
) -> None:
    """Score transcripts by utterance id: CER and WER with intervals, by group, and against another system."""
    from speechssl.score.evaluate import ScoreConfig, evaluate_systems, judge
    from speechssl.score.summary import advice, as_json, difference_lines, lines, utterance_rows
    from speechssl.stages.score import read_columns, read_hypotheses, references_of, with_known_languages

    values = {"normaliser": normaliser, "blocks": blocks, "alignment": alignment}
    numbers = {"samples": samples, "level": level, "seed": seed}
    config = from_dict({**values, **numbers}, ScoreConfig, where="score")
    table = read_columns(columns) if columns is not None else None
    manifest = read_manifest(references, root=root)
    rows = references_of(manifest, by or (), table)
    if config.normaliser in ("lower", "plain"):  # the others have no rules of languages
        rows, notes = with_known_languages(rows, references)
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if model is not None:
        from speechssl.interop.formats import read_saved

        speller = read_saved(model).description.speller()
        lacking = {letter: row.id for row in reversed(rows) for letter in speller.unknown_letters(row.text)}
        if lacking:
            named = ", ".join(f"{letter!r} ({key})" for letter, key in sorted(lacking.items()))
            print(f"{model}: never writes what references hold, and is wrong there: {named}", file=sys.stderr)
        rows = [dataclasses.replace(row, text=speller.reference(row.text)) for row in rows]
    paths = [hypotheses] if second is None else [hypotheses, second]
    systems = list(zip(paths, evaluate_systems(rows, [read_hypotheses(path) for path in paths], config), strict=True))
    first = systems[0][1]
    print(*lines(first), sep="\n")
    print("".join(f"{note}\n" for note in advice(first)), end="", file=sys.stderr)
    differences = None
    for path, other in systems[1:]:
        print(f"second: {path}", *lines(other)[:2], sep="\n")
        differences = judge(rows, first, other)
        print(*difference_lines(differences), sep="\n")
    if out is not None:
        write_atomically(out, json.dumps(as_json(first, differences), indent=1, ensure_ascii=False) + "\n")
    if utterances is not None:
        write_atomically(utterances, "".join("\t".join(row) + "\n" for row in utterance_rows(first.utterances)))
        print(utterances)
    if html is not None:
        from speechssl.stages.score_page import PageConfig, read_confidences, write_page

        page = from_dict({"worst": worst, "audio_mb": audio_mb}, PageConfig, where="score")
        sure = read_confidences(hypotheses, table)
        said = write_page(
            html, references, manifest, rows, systems, differences, confidences=sure, model=model, config=page
        )
        print(f"{html}: {'; '.join(said)}")
