"""Command line: what is done with a fine-tuned model: transcribe speech, align texts, score what was written.

Each command reads its arguments, calls one function of the package and prints what came of it.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from speechssl.arguments import Root
from speechssl.config import from_dict, load
from speechssl.data.manifest import Manifest, read_manifest, write_atomically
from speechssl.decoding.build import decoder_for
from speechssl.decoding.grammar import Weights
from speechssl.saved import SavedModel
from speechssl.score.evaluate import ScoreConfig, evaluate_systems, judge
from speechssl.score.summary import as_json, difference_lines, lines, utterance_rows
from speechssl.stages.align import align
from speechssl.stages.average import average, best_steps, last_steps
from speechssl.stages.emit import EmitConfig
from speechssl.stages.finetune import FinetuneConfig, check_texts
from speechssl.stages.preflight_text import as_json as preflight_json
from speechssl.stages.preflight_text import lines as preflight_lines
from speechssl.stages.score import GROUPINGS, read_columns, read_hypotheses, references_of
from speechssl.stages.score_page import PageConfig, read_confidences, write_page
from speechssl.stages.stream import transcribe_stream
from speechssl.stages.transcribe import files_as_manifest, transcribe
from speechssl.stages.tune import read_tuned
from speechssl.transcripts.formats import SUFFIXES, write_transcripts
from speechssl.transcripts.timed import Timed, Transcript

__all__ = ["align_command", "average_command", "preflight_command", "score_command", "transcribe_command"]


def preflight_command(
    recipe: Annotated[Path, typer.Argument(help="YAML file as for finetune.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value pairs: text.case=lower.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write: every utterance.")] = None,
) -> None:
    """Look at texts, tokens and lengths as fine-tuning would; exit status 1 where it would refuse them."""
    found = check_texts(load(recipe, FinetuneConfig, overrides or ()))
    print(*preflight_lines(found), sep="\n")
    if out is not None:
        write_atomically(out, json.dumps(preflight_json(found), indent=1, ensure_ascii=False) + "\n")
        print(out)
    if found.errors:
        raise typer.Exit(1)


def transcribe_command(
    model: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run, or of a converted model.")],
    sources: Annotated[list[Path], typer.Argument(help="A manifest, or audio files of any length; - for samples.")],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"File to write: {', '.join(SUFFIXES)}.")],
    root: Root = None,
    skip_bad: Annotated[bool, typer.Option(help="List and count unusable audio instead of stopping.")] = False,
    lm: Annotated[Path | None, typer.Option(help="ARPA file of words, from lm build; searches with a beam.")] = None,
    lexicon: Annotated[Path | None, typer.Option(help="From lm lexicon: writes its words only.")] = None,
    lm_weight: Annotated[float, typer.Option(help="How much the language model counts.")] = 2.0,
    word_score: Annotated[float, typer.Option(help="What each word earns.")] = 0.0,
    beam: Annotated[int, typer.Option(help="Width of the search; 0 takes the likeliest token of each frame.")] = 0,
    nbest: Annotated[int, typer.Option(help="Texts with scores for each utterance, in .jsonl.")] = 1,
    hot_word: Annotated[list[str] | None, typer.Option(help="Word to be preferred; may be repeated.")] = None,
    flashlight: Annotated[bool, typer.Option("--flashlight", help="Search with flashlight; needs a lexicon.")] = False,
    tuned: Annotated[Path | None, typer.Option(help="Folder of lm tune: its decoder and weights.")] = None,
    window_s: Annotated[float, typer.Option(help="Longer audio is heard in windows of so many seconds.")] = 60.0,
    batch_s: Annotated[float, typer.Option(help="Seconds of audio at a time.")] = 120.0,
) -> None:
    """Transcribe speech: a manifest, files, or 16-bit 16 kHz mono samples from standard input, word by word."""
    if sources == [Path("-")]:
        found, skipped = [transcribe_stream(model, sys.stdin.buffer, tell=_print_word)], list[str]()
    else:
        config = EmitConfig(batch_s=batch_s, window_s=window_s, overlap_s=min(8.0, window_s / 4))
        weights = Weights(lm_weight=lm_weight, word_score=word_score)
        asked = decoder_for(lm, lexicon, weights, beam=beam, nbest=nbest, hot=hot_word or (), native=flashlight)
        decoder = asked if tuned is None else read_tuned(tuned)
        listed = _listed(sources, root)
        found, skipped = transcribe(model, listed, config, decoder=decoder, skip_bad_audio=skip_bad)
    _say_written(write_transcripts(out, found), found, skipped)


def align_command(
    model: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run, or of a converted model.")],
    manifest: Annotated[Path, typer.Argument(help="Utterances with their texts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"File to write: {', '.join(SUFFIXES)}.")],
    root: Root = None,
    skip: Annotated[bool, typer.Option(help="List and count what cannot be aligned instead of stopping.")] = False,
) -> None:
    """Find when each word and letter of known texts was said."""
    found, skipped = align(model, read_manifest(manifest, root=root), skip=skip)
    _say_written(write_transcripts(out, found), found, skipped)


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
    html: Annotated[Path | None, typer.Option(help="Page to write: all of it in one file, with sound.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="Run that wrote them: its policy of texts, its tokens in the page.")
    ] = None,
    worst: Annotated[int, typer.Option(help="Utterances whose sound the page holds.")] = 100,
    audio_mb: Annotated[float, typer.Option(help="Of sound in the page, at most.")] = 30.0,
    root: Root = None,
) -> None:
    """Score transcripts by utterance id: CER and WER with intervals, by group, and against another system."""
    values = {"normaliser": normaliser, "blocks": blocks, "alignment": alignment}
    numbers = {"samples": samples, "level": level, "seed": seed}
    config = from_dict({**values, **numbers}, ScoreConfig, where="score")
    table = read_columns(columns) if columns is not None else None
    manifest = read_manifest(references, root=root)
    rows = references_of(manifest, by or (), table)
    if model is not None:
        speller = SavedModel.read(model).description.speller()
        rows = [dataclasses.replace(row, text=speller.reference(row.text)) for row in rows]
    paths = [hypotheses] if second is None else [hypotheses, second]
    systems = list(zip(paths, evaluate_systems(rows, [read_hypotheses(path) for path in paths], config), strict=True))
    first = systems[0][1]
    print(*lines(first), sep="\n")
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
        page = from_dict({"worst": worst, "audio_mb": audio_mb}, PageConfig, where="score")
        sure = read_confidences(hypotheses, table)
        notes = write_page(
            html, references, manifest, rows, systems, differences, confidences=sure, model=model, config=page
        )
        print(f"{html}: {'; '.join(notes)}")


def average_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write.")],
    best: Annotated[int | None, typer.Option(help="So many checkpoints with the best dev scores.")] = None,
    last: Annotated[int | None, typer.Option(help="So many of the last checkpoints.")] = None,
) -> None:
    """Average checkpoints of a run into one model."""
    if (best is None) == (last is None):
        raise typer.BadParameter("say which checkpoints: --best 3, or --last 3")
    steps = best_steps(run, best) if best is not None else last_steps(run, last or 0)
    print(f"{out}: {average(run, out, steps).description.origin}")


def _listed(sources: Sequence[Path], root: Path | None) -> Manifest:
    lists = [path for path in sources if path.suffix.lower() in (".tsv", ".parquet")]
    if lists and len(sources) > 1:
        raise typer.BadParameter(
            f"{lists[0]}: name one manifest, or audio files; `speechssl manifest merge` joins them"
        )
    return read_manifest(lists[0], root=root) if lists else files_as_manifest(sources)


def _print_word(word: Timed) -> None:
    print(f"{word.start_s:.2f} {word.end_s:.2f} {word.text}", flush=True)


def _say_written(written: Sequence[Path], found: Sequence[Transcript], skipped: Sequence[str]) -> None:
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    where = written[0] if len(written) == 1 else f"{len(written)} files" if written else "nothing written"
    print(f"{where}: {len(found)} utterances, {len(skipped)} skipped")
