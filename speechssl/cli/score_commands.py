"""Command line: score transcripts."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechssl.atomic import write_atomically
from speechssl.cli.arguments import Root
from speechssl.config import from_dict
from speechssl.corpus.named import read_named
from speechssl.data.utterances import Manifest
from speechssl.errors import AudioError, ManifestError

if TYPE_CHECKING:
    from speechssl.asr.transcripts.transcript_reading import Texts

__all__ = ["score_command"]


def score_command(
    references: Annotated[Path, typer.Argument(help="Manifest with texts, or any of the formats below.")],
    hypotheses: Annotated[Path, typer.Argument(help="Table of id and text, .jsonl, .trn, .stm, .ctm, or Kaldi lines.")],
    second: Annotated[
        Path | None, typer.Argument(help="Hypotheses of another system, to compare with the first.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write as well.")] = None,
    utterances: Annotated[
        Path | None, typer.Option(help="TSV to write: one row per utterance, the worst first.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Grouping: speaker, language, split, duration, snr or a column; may be repeated."),
    ] = None,
    columns: Annotated[Path | None, typer.Option(help="Table by id or speaker, with columns to group by.")] = None,
    normaliser: Annotated[str, typer.Option(help="Normalisation of both texts: none, nfc, lower or plain.")] = "none",
    blocks: Annotated[str, typer.Option(help="Unit of the bootstrap: utterance or speaker.")] = "utterance",
    alignment: Annotated[
        str, typer.Option(help="levenshtein, or nist: word errors weighted as by sclite.")
    ] = "levenshtein",
    samples: Annotated[int, typer.Option(help="Bootstrap samples for each interval.")] = 10_000,
    level: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    html: Annotated[Path | None, typer.Option(help="HTML page to write: a single file, with audio.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Run of the first system: its text policy is applied, its tokens shown in the page."),
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Score only the utterances that all files have; count the rest.")
    ] = False,
    worst: Annotated[int, typer.Option(help="Number of utterances with audio in the page.")] = 100,
    audio_mb: Annotated[float, typer.Option(help="Most megabytes of audio in the page.")] = 30.0,
    root: Root = None,
) -> None:
    """Score transcripts by utterance id: CER and WER with intervals, by group, and against another system."""
    from speechssl.asr.scoring.evaluate import ScoreConfig, evaluate_systems, in_common, judge
    from speechssl.asr.scoring.score_summary import advice, as_json, difference_lines, lines, utterance_rows
    from speechssl.asr.transcripts.matching import same_utterances
    from speechssl.asr.transcripts.transcript_reading import read_texts
    from speechssl.stages.score import gap_lines, gaps_of, read_columns, references_of, with_known_languages

    values = {"normaliser": normaliser, "blocks": blocks, "alignment": alignment}
    numbers = {"samples": samples, "level": level, "seed": seed}
    config = from_dict({**values, **numbers}, ScoreConfig, where="score")
    table = read_columns(columns) if columns is not None else None
    paths = [hypotheses] if second is None else [hypotheses, second]
    said = read_texts(references, "reference", root=root)
    written = [read_texts(path) for path in paths]
    for note in dict.fromkeys(note for texts in (said, *written) for note in texts.notes):
        _tell(note)
    heard = [same_utterances(said, texts, tell=_tell) for texts in written]
    is_needed = "snr" in (by or ())
    is_wanted = html is not None or ("duration" in (by or ()) and any(row.duration_s is None for row in said.said))
    sound = _sound_of(references, said, root, is_needed) if is_wanted or is_needed else said.manifest
    untold = [row.id for row in said.said if not row.text] if common else []
    texts = dataclasses.replace(said, said=[row for row in said.said if row.text]) if untold else said
    rows, left_out = references_of(texts, by or (), table, sound=sound), None
    if common:
        rows, heard, left_out = in_common(rows, heard)
        left_out = dataclasses.replace(left_out, references=[*untold, *left_out.references])
    if config.normaliser in ("lower", "plain"):  # only these have rules that depend on the language
        rows, notes = with_known_languages(rows, references)
        print("".join(f"{note}\n" for note in notes), end="", file=sys.stderr)
    if model is not None:
        from speechssl.hub.model_formats import read_saved

        speller = read_saved(model).description.speller()
        lacking = {letter: row.id for row in reversed(rows) for letter in speller.unknown_letters(row.text)}
        if lacking:
            named = ", ".join(f"{letter!r} ({key})" for letter, key in sorted(lacking.items()))
            print(
                f"{model}: cannot write some characters of the references, which count as errors: {named}",
                file=sys.stderr,
            )
        rows = [dataclasses.replace(row, text=speller.reference(row.text)) for row in rows]
    systems = list(zip(paths, evaluate_systems(rows, heard, config, left_out=left_out), strict=True))
    first = systems[0][1]
    gaps = gaps_of(rows, first)
    print(*lines(first), *gap_lines(gaps), sep="\n")
    print("".join(f"{note}\n" for note in advice(first)), end="", file=sys.stderr)
    differences = None
    for path, other in systems[1:]:
        print(f"second: {path}", *lines(other)[:2], sep="\n")
        differences = judge(rows, first, other)
        print(*difference_lines(differences), sep="\n")
    if out is not None:
        found = as_json(first, differences)
        if gaps:
            found["gaps"] = {
                grouping: {name.lower(): each.as_json() for name, each in by_score.items()}
                for grouping, by_score in gaps.items()
            }
        write_atomically(out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if utterances is not None:
        write_atomically(utterances, "".join("\t".join(row) + "\n" for row in utterance_rows(first.utterances)))
        print(utterances)
    if html is not None:
        from speechssl.stages.score_page import PageConfig, read_confidences, write_page

        page = from_dict({"worst": worst, "audio_mb": audio_mb}, PageConfig, where="score")
        sure = read_confidences(hypotheses, table)
        notes = write_page(
            html, references, sound, rows, systems, differences, confidences=sure, model=model, config=page
        )
        print(f"{html}: {'; '.join(notes)}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _sound_of(path: Path, said: "Texts", root: Path | None, is_needed: bool) -> Manifest | None:
    """Return the manifest of the references' audio; None if they name none, or if it is missing and not needed."""
    if said.manifest is not None or all(row.path is None for row in said.said):
        return said.manifest
    try:
        manifest = read_named(path, root=root, tell=_tell)
    except (AudioError, ManifestError) as error:
        if is_needed:
            raise
        _tell(f"no sound: {error}")
        return None
    rows = zip(manifest.utterances, said.said, strict=True)  # both in the order of the file
    return Manifest(root=manifest.root, utterances=tuple(dataclasses.replace(row, id=each.id) for row, each in rows))
