"""Command line: transcribe and align speech with a fine-tuned model."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from speechssl.asr.transcripts.matching import with_texts
from speechssl.asr.transcripts.timed import Timed, Transcript
from speechssl.asr.transcripts.transcript_formats import SUFFIXES, check_ids, write_transcripts
from speechssl.cli.arguments import (
    Bfloat16,
    Channels,
    MinSampleRate,
    Precision,
    Root,
    Shift,
    ShiftSeed,
    choose_precision,
)
from speechssl.config import from_dict
from speechssl.corpus.named import files_as_manifest, read_named
from speechssl.data.utterances import Manifest
from speechssl.errors import ConfigError

__all__ = ["align_command", "transcribe_command"]


def transcribe_command(
    model: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run, or of a converted model.")],
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="A manifest, or audio files of any length; - reads samples from stdin and prints a word 1 to 2 s "
            "after the next begins."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"File to write: {', '.join(SUFFIXES)}.")],
    root: Root = None,
    skip_bad: Annotated[bool, typer.Option(help="Report and skip unusable audio instead of stopping.")] = False,
    lm: Annotated[Path | None, typer.Option(help="ARPA file of words, from lm build; turns beam search on.")] = None,
    lexicon: Annotated[Path | None, typer.Option(help="Lexicon from lm lexicon: only its words are written.")] = None,
    lm_weight: Annotated[float, typer.Option(help="Weight of the language model.")] = 2.0,
    word_score: Annotated[float, typer.Option(help="Score added for each word.")] = 0.0,
    beam: Annotated[int, typer.Option(help="Beam size; 0: greedy decoding.")] = 0,
    nbest: Annotated[int, typer.Option(help="Number of hypotheses with scores for each utterance, in .jsonl.")] = 1,
    hot_word: Annotated[list[str] | None, typer.Option(help="Word to prefer; may be repeated.")] = None,
    flashlight: Annotated[bool, typer.Option("--flashlight", help="Search with flashlight; needs a lexicon.")] = False,
    tuned: Annotated[Path | None, typer.Option(help="Folder of lm tune: use its decoder and weights.")] = None,
    window_s: Annotated[float, typer.Option(help="Seconds; longer audio is encoded in windows of this length.")] = 60.0,
    batch_s: Annotated[float, typer.Option(help="Seconds of audio in a batch.")] = 120.0,
    precision: Precision = "float32",
    bfloat16: Bfloat16 = False,
    min_sample_rate: MinSampleRate = None,
    channels: Channels = None,
    shift: Shift = None,
    shift_seed: ShiftSeed = 0,
) -> None:
    """Transcribe speech: a manifest, files, or 16-bit 16 kHz mono samples or wav from stdin, word by word."""
    from speechssl.asr.decoding.decoders import decoder_for
    from speechssl.asr.decoding.grammar import Weights
    from speechssl.stages.posteriors import PosteriorConfig
    from speechssl.stages.reading_data import under_shift
    from speechssl.stages.stream import transcribe_stream
    from speechssl.stages.transcribe import transcribe
    from speechssl.stages.tuned import read_tuned

    if sources == [Path("-")]:
        check_ids(out, ())
        searching = {"--lm": lm, "--lexicon": lexicon, "--beam": beam, "--hot-word": hot_word, "--tuned": tuned}
        searching |= {"--flashlight": flashlight, "--nbest": nbest > 1}
        if shift is not None:
            raise ConfigError("--shift: samples from stdin are decoded as they come; name a file in place of -")
        if given := [name for name, value in searching.items() if value]:
            raise ConfigError(
                f"{', '.join(given)}: samples from stdin are decoded greedily, as words are printed at once; leave it "
                "out, or name a file in place of -"
            )
        chosen = choose_precision(precision, bfloat16)
        found = [transcribe_stream(model, sys.stdin.buffer, tell=_print_word, precision=chosen)]
        skipped = list[str]()
    else:
        overlap_s = min(8.0, window_s / 4)
        values: dict[str, object] = {"batch_s": batch_s, "window_s": window_s, "overlap_s": overlap_s}
        values |= {"precision": choose_precision(precision, bfloat16)}
        values |= {"min_sample_rate": min_sample_rate, "channels": channels}
        config = from_dict(values, PosteriorConfig, where="transcribe")
        weights = Weights(lm_weight=lm_weight, word_score=word_score)
        asked = decoder_for(lm, lexicon, weights, beam=beam, nbest=nbest, hot=hot_word or (), native=flashlight)
        decoder = asked if tuned is None else read_tuned(tuned)
        listed = _listed(sources, root)
        if shift is not None:
            listed = under_shift(listed, shift, seed=shift_seed)
            for note in listed.notes():
                print(note, file=sys.stderr)
        check_ids(out, [row.id for row in listed.utterances])
        found, skipped = transcribe(model, listed, config, decoder=decoder, skip_bad=skip_bad, settings="--")
    _say_written(write_transcripts(out, found), found, skipped)


def align_command(
    model: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run, or of a converted model.")],
    manifest: Annotated[Path, typer.Argument(help="Utterances with their texts; or audio, with --text.")],
    out: Annotated[Path, typer.Option("--out", "-o", help=f"File to write: {', '.join(SUFFIXES)}.")],
    root: Root = None,
    text: Annotated[
        Path | None, typer.Option(help="Transcript: a text file for one recording, or a table by utterance.")
    ] = None,
    skip: Annotated[bool, typer.Option(help="Report and skip what cannot be aligned instead of stopping.")] = False,
    precision: Precision = "float32",
    min_sample_rate: MinSampleRate = None,
    channels: Channels = None,
) -> None:
    """Align known texts with speech: when each word and letter was said."""
    from speechssl.stages.align import align
    from speechssl.stages.posteriors import PosteriorConfig

    values: dict[str, object] = {"min_sample_rate": min_sample_rate, "channels": channels}
    values |= {"precision": choose_precision(precision, bfloat16=False)}
    config = from_dict(values, PosteriorConfig, where="align")
    listed = read_named(manifest, root=root)
    if text is not None:
        listed = with_texts(listed, text)
    check_ids(out, [row.id for row in listed.utterances])
    found, skipped = align(model, listed, config, skip=skip, settings="--")
    _say_written(write_transcripts(out, found), found, skipped)


def _listed(sources: Sequence[Path], root: Path | None) -> Manifest:
    if len(sources) == 1:
        return read_named(sources[0], root=root)
    lists = [path for path in sources if path.suffix.lower() in (".tsv", ".parquet") or path.is_dir()]
    if lists:
        raise typer.BadParameter(
            f"{lists[0]}: name one manifest or folder, or audio files; `speechssl manifest merge` joins them"
        )
    return files_as_manifest(sources)


def _print_word(word: Timed) -> None:
    print(f"{word.start_s:.2f} {word.end_s:.2f} {word.text}", flush=True)


def _say_written(written: Sequence[Path], found: Sequence[Transcript], skipped: Sequence[str]) -> None:
    for reason in skipped:
        print(f"skipped: {reason}", file=sys.stderr)
    where = written[0] if len(written) == 1 else f"{len(written)} files" if written else "nothing written"
    print(f"{where}: {len(found)} utterances, {len(skipped)} skipped")
