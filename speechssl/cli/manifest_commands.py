"""Command line: `speechssl manifest ...`: make, inspect, check and change manifests.

Each command reads its arguments, calls one function of the package and prints the result.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from speechssl.atomic import write_atomically
from speechssl.audio.storage import is_url
from speechssl.cli.arguments import Root, name_numbers, name_values, with_bar
from speechssl.config import from_dict
from speechssl.corpus.activity import chosen_vad
from speechssl.corpus.building import RESULTS as RESULTS_OF_BUILD
from speechssl.corpus.building import build, describe_built
from speechssl.corpus.fetch.published import PUBLISHED, Published, list_published
from speechssl.corpus.filter import Wanted, choose, read_ids
from speechssl.corpus.formats.exchange import FORMATS, Format, export_manifest, import_manifest
from speechssl.corpus.layouts.known_layouts import LAYOUTS, Layout, list_layout, write_labels
from speechssl.corpus.merge import merge
from speechssl.corpus.named import read_named
from speechssl.corpus.sample import hours_by_language, sample
from speechssl.corpus.scan_cache import scan_cache_beside
from speechssl.corpus.segment import RESULTS as RESULTS_OF_SEGMENT
from speechssl.corpus.segment import in_processes, segment_manifest
from speechssl.corpus.spans import SegmentConfig
from speechssl.corpus.split import Key, describe_misses, split_by_hours, split_by_shares
from speechssl.corpus.stats import count, describe_stats, plot_durations
from speechssl.corpus.workers import Engine, chosen_work, in_threads, one_by_one, parts_beside, remove_parts
from speechssl.data.manifest import PARQUET, root_from, write_fairseq_manifest, write_manifest
from speechssl.data.manifest_parquet import pyarrow_package
from speechssl.data.utterances import Manifest

__all__ = [
    "build_command",
    "check_command",
    "convert_command",
    "export_command",
    "filter_command",
    "import_command",
    "merge_command",
    "sample_command",
    "segment_command",
    "split_command",
    "stats_command",
]

Foreign = Literal[Format, Published, Layout]  # formats that `import` reads


def _form_that_can_be_written(out: Path) -> Path:
    """Check that pyarrow is installed, if it is needed, before the work starts."""
    if out.suffix.lower() == PARQUET:
        pyarrow_package()
    return out


Out = Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.", callback=_form_that_can_be_written)]
Source = Annotated[Path, typer.Argument(help="Manifest to read; or a table, an audio file or a folder of audio.")]
Columns = Annotated[
    str | None, typer.Option(help="Column names of tables, NeMo and datasets as ours=theirs: path=wav,text=said.")
]
Part = Annotated[
    str | None,
    typer.Option(
        "--shard", help="In a job array: do part I/N, such as 2/8; then run once with `merge` to join the parts."
    ),
]
By = Annotated[Engine, typer.Option("--engine", help="Where the work runs: on this machine, or on a Ray cluster.")]


def build_command(
    sources: Annotated[
        list[str], typer.Argument(help="Folders, tar or zip archives, their URLs, or .txt files that list them.")
    ],
    out: Out,
    side_file: Annotated[
        Path | None, typer.Option(help="Table with columns id or path, and text, speaker, ...")
    ] = None,
    speaker_from: Annotated[
        str | None,
        typer.Option(help="Source of speaker names: folder (its name), or a pattern of paths with a group: '^(.+?)_'."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option(help="Report and skip unreadable files instead of stopping.")] = False,
    archives: Annotated[bool, typer.Option(help="Look into archives, or ignore them.")] = True,
    fresh: Annotated[bool, typer.Option(help="Read all files again, also those that have not changed.")] = False,
    fairseq: Annotated[
        bool, typer.Option(help="Write fairseq's TSV: a root line, then paths and numbers of samples.")
    ] = False,
    shard: Part = None,
    engine: By = "local",
) -> None:
    """List the audio below a folder."""
    is_alone = shard is None and engine == "local"
    about, parts = f"build {archives} {' '.join(sources)}", parts_beside(out)
    work = chosen_work(in_threads(), one_by_one, engine, shard, parts, about=about, kinds=RESULTS_OF_BUILD)
    built = build(
        sources,
        archives=archives,
        side_file=side_file,
        speaker_from=speaker_from,
        skip_bad=skip_bad,
        scan_cache=scan_cache_beside(out) if is_alone else None,
        fresh=fresh,
        work=None if is_alone else work,
        progress=with_bar("headers"),
    )
    if fairseq:
        write_fairseq_manifest(out, built.manifest)
    else:
        write_manifest(out, built.manifest.utterances, root=root_from(out.parent, built.manifest))
    for error in built.errors:
        print(f"skipped: {error}", file=sys.stderr)
    print(f"{_summary(out, built.manifest)}, {len(built.errors)} files skipped")
    for line in describe_built(built):
        print(line)
    if speaker_from is not None:
        print(f"speakers, by {speaker_from}: {len({row.speaker for row in built.manifest.utterances})}")
    if not fairseq:
        _say_root(out, built.manifest)
    if shard == "merge":
        remove_parts(parts)


def split_command(
    manifest: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for a SPLIT.tsv for each split.")],
    shares: Annotated[str | None, typer.Option(help="Share of each split: test=0.05,dev=0.05,train=0.9")] = None,
    hours: Annotated[
        str | None, typer.Option(help="Or hours of each split but the last: test=5,dev=5,train=rest")
    ] = None,
    by: Annotated[
        Key, typer.Option(help="What stays in one split: speaker, text, id or path (segments of one file).")
    ] = "speaker",
    salt: Annotated[str, typer.Option(help="Any word; another word gives another split.")] = "",
    root: Root = None,
) -> None:
    """Split a manifest by speaker, text or id; stable when data are added."""
    listed = read_named(manifest, root=root)
    if (shares is None) == (hours is None):
        raise typer.BadParameter("give either --shares or --hours")
    if shares is not None:
        wanted = name_numbers(shares)
        splits = split_by_shares(listed.utterances, wanted, by=by, salt=salt)
    else:
        *named, rest = name_values(hours or "").items()
        if rest[1] != "rest":
            raise typer.BadParameter(f"--hours {hours}: the last split takes what is left: {rest[0]}=rest")
        wanted = name_numbers(",".join(f"{name}={number}" for name, number in named))
        splits = split_by_hours(listed.utterances, wanted, rest=rest[0], by=by, salt=salt)
    for name, rows in splits.items():
        _write(out / f"{name}.tsv", Manifest(root=listed.root, utterances=tuple(rows)))
    _say_root(out / "any", listed)
    for line in describe_misses(splits, wanted, by=by, unit="h" if shares is None else "share"):
        print(line, file=sys.stderr)


def merge_command(
    manifests: Annotated[list[Path], typer.Argument(help="Two or more manifests.")],
    out: Out,
    prefix: Annotated[list[str] | None, typer.Option(help="Prefix of the ids; once for each manifest.")] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the audio, once for each manifest. Default: that of the manifest."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder that holds all audio. Default: the common folder.")] = None,
) -> None:
    """Join manifests into one."""
    folders: Sequence[Path | None] = audio or [None] * len(manifests)
    if len(folders) != len(manifests):
        raise typer.BadParameter(f"--audio: expected one for each of {len(manifests)} manifests, found {len(folders)}")
    listed = [read_named(path, root=folder) for path, folder in zip(manifests, folders, strict=True)]
    joined = merge(listed, prefixes=prefix or (), root=root)
    _write(out, joined)
    _say_root(out, joined)


def filter_command(
    manifest: Source,
    out: Out,
    min_s: Annotated[float | None, typer.Option(help="Seconds, at least.")] = None,
    max_s: Annotated[float | None, typer.Option(help="Seconds, at most.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Language to keep; may be repeated.")] = None,
    speaker: Annotated[list[str] | None, typer.Option(help="Speaker to keep; may be repeated.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Split to keep; may be repeated.")] = None,
    text: Annotated[
        bool | None, typer.Option("--text/--no-text", help="Keep utterances with a text, or without.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Keep only these: a file with one id per line, or a manifest.")
    ] = None,
    not_ids: Annotated[
        Path | None, typer.Option(help="Leave these out: a file with one id per line, or a manifest.")
    ] = None,
    root: Root = None,
) -> None:
    """Select utterances, and report how many were left out and why."""
    listed = read_named(manifest, root=root)
    wanted = Wanted(
        min_s=min_s,
        max_s=max_s,
        languages=language,
        speakers=speaker,
        splits=split,
        has_text=text,
        ids=read_ids(ids) if ids else None,
        not_ids=read_ids(not_ids) if not_ids else None,
    )
    kept, left_out = choose(listed.utterances, wanted)
    for reason, number in left_out.most_common():
        print(f"left out: {number} {reason}")
    _write(out, Manifest(root=listed.root, utterances=tuple(kept)))
    _say_root(out, listed)


def stats_command(
    manifest: Source,
    png: Annotated[Path | None, typer.Option(help="PNG to write: a histogram of durations.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write: all numbers.")] = None,
) -> None:
    """Count hours by speaker, language and split, and the distribution of durations."""
    if png is not None:
        import matplotlib.figure  # noqa: F401  fail before the counting if it is missing

    rows = read_named(manifest).utterances
    stats = count(rows)
    print(*describe_stats(stats), sep="\n")
    if out is not None:
        write_atomically(out, json.dumps(dataclasses.asdict(stats), indent=1, ensure_ascii=False) + "\n")
    if png is not None:
        plot_durations(rows, png)
        print(png)


def sample_command(
    manifest: Source,
    out: Out,
    hours: Annotated[float, typer.Option(help="Hours to draw, all languages together.")],
    alpha: Annotated[float, typer.Option(help="Exponent on a language's hours: 1: proportional, 0: all equal.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    root: Root = None,
) -> None:
    """Draw a sample, with languages balanced as in XLS-R."""
    listed = read_named(manifest, root=root)
    drawn = sample(listed.utterances, hours, alpha=alpha, seed=seed)
    for language, found in hours_by_language(drawn).items():
        print(f"{language or 'no language'}  {found:.2f} h")
    _write(out, Manifest(root=listed.root, utterances=tuple(drawn)))
    _say_root(out, listed)


def check_command(
    manifests: Annotated[list[Path], typer.Argument(help="One manifest, or several in the order train, dev, test.")],
    table: Annotated[Path | None, typer.Option(help="TSV to write: one row per finding.")] = None,
    fix: Annotated[Path | None, typer.Option(help="Cleaned manifest to write; a folder for several.")] = None,
    remove: Annotated[
        list[str] | None, typer.Option(help="Warning whose utterances --fix removes, too, such as clipped.")
    ] = None,
    script: Annotated[
        list[str] | None, typer.Option(help="Script of the texts, such as Cyrillic; others are reported.")
    ] = None,
    thresholds: Annotated[str | None, typer.Option("--set", help="Thresholds: max_duration_s=60")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of decoding processes. Default: one per core.")
    ] = None,
    root: Root = None,
    shard: Part = None,
    engine: By = "local",
) -> None:
    """Decode all audio and report faults; exit status 1 if there are errors."""
    from speechssl.corpus.check.checking import RESULTS, check_manifests, in_worker_pool
    from speechssl.corpus.check.repair import describe_repaired, write_repaired
    from speechssl.corpus.check.summary import summarise, write_table
    from speechssl.corpus.check.thresholds import CheckConfig

    values = name_values(thresholds) if thresholds else {}
    config = from_dict({"scripts": script or (), **values}, CheckConfig, where="--set")
    listed = [read_named(path, root=root) for path in manifests]
    names = [str(path) for path in manifests]
    about, parts = f"check {config} {' '.join(names)}", parts_beside(manifests[0])
    work = chosen_work(
        in_worker_pool(config, jobs), in_worker_pool(config, 1), engine, shard, parts, about=about, kinds=RESULTS
    )
    report = check_manifests(listed, names, config, by=work, progress=with_bar("check"))
    print(*summarise(report), sep="\n")
    if table is not None:
        write_table(table, report)
        print(table)
    repaired = write_repaired(fix, report, remove=remove or ()) if fix is not None else []
    for written, manifest in zip(repaired, listed, strict=False):
        print(describe_repaired(written))
        _say_root(written.path, manifest)
    if shard == "merge":
        remove_parts(parts)
    if report.has_errors:
        raise typer.Exit(1)


def convert_command(manifest: Source, out: Out) -> None:
    """Write a manifest in its other form: Parquet, for millions of rows, if the name ends in .parquet, else text."""
    listed = read_named(manifest)
    _write(out, listed)
    _say_root(out, listed)


def segment_command(
    manifest: Source,
    out: Out,
    min_s: Annotated[float, typer.Option(help="Least seconds of an utterance.")] = SegmentConfig.min_s,
    max_s: Annotated[
        float, typer.Option(help="Most seconds of an utterance; shorter recordings are not cut.")
    ] = SegmentConfig.max_s,
    pause_s: Annotated[
        float, typer.Option(help="Seconds; longer pauses end an utterance, shorter ones only if necessary.")
    ] = SegmentConfig.pause_s,
    pad_s: Annotated[float, typer.Option(help="Most seconds of silence kept before and after.")] = SegmentConfig.pad_s,
    vad: Annotated[
        Literal["silero", "energy", "auto"], typer.Option(help="Speech detector; auto: silero if installed.")
    ] = SegmentConfig.vad,
    skip_bad: Annotated[bool, typer.Option(help="Report and skip unreadable files instead of stopping.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: one per core.")] = None,
    root: Root = None,
    shard: Part = None,
    engine: By = "local",
) -> None:
    """Cut long recordings into utterances at pauses, as segments of their files; writes no audio."""
    config = SegmentConfig(min_s=min_s, max_s=max_s, pause_s=pause_s, pad_s=pad_s, vad=chosen_vad(vad))
    listed = read_named(manifest, root=root)
    about, parts = f"segment {config} {manifest}", parts_beside(out)
    here = one_by_one if jobs == 1 else in_processes(jobs)
    work = chosen_work(here, one_by_one, engine, shard, parts, about=about, kinds=RESULTS_OF_SEGMENT)
    done = segment_manifest(listed, config, skip_bad=skip_bad, work=work, progress=with_bar("segment"))
    for error in done.errors:
        print(f"skipped: {error}", file=sys.stderr)
    _write(out, done.manifest)
    print(*done.summary(), sep="\n")
    if skip_bad:
        print(f"{len(done.errors)} files skipped")
    _say_root(out, listed)
    if shard == "merge":
        remove_parts(parts)


def import_command(
    source: Annotated[Path, typer.Argument(help="File or folder of another toolkit.")],
    out: Out,
    form: Annotated[Foreign, typer.Option("--from", help=f"Its format: {', '.join(FORMATS + PUBLISHED + LAYOUTS)}.")],
    columns: Columns = None,
    root: Annotated[
        Path | None, typer.Option(help="Root folder of the paths, which may not leave it. Default: that of the file.")
    ] = None,
) -> None:
    """Import another toolkit's manifest, checked against the audio; or list a corpus as published.

    `speechssl corpus NAME --source FOLDER` reads LibriSpeech, Libri-Light and Common Voice into one manifest per split.
    Labels that are no column of a manifest, such as emotions, are written beside it: NAME.answers.tsv, trials, phones.
    """
    pairs = None if columns is None else name_values(columns)
    if form in PUBLISHED + LAYOUTS and (root is not None or columns is not None):
        raise typer.BadParameter(f"--root and --columns do not apply to {form}; leave them out")
    labelled, notes = None, list[str]()
    match form:
        case "librispeech" | "libri-light" | "common-voice":
            manifest, notes = list_published(form, source, progress=with_bar("headers"))
        case "fairseq" | "kaldi" | "nemo" | "lhotse" | "audiofolder" | "dataset" | "table":
            manifest, notes = import_manifest(source, form, root=root, columns=pairs, progress=with_bar("headers"))
        case _:
            labelled = list_layout(form, source, progress=with_bar("headers"))
            manifest, notes = labelled.manifest, [*labelled.notes]
    for note in notes:
        print(note, file=sys.stderr)
    _write(out, manifest)
    for path in write_labels(out, labelled) if labelled is not None else ():
        print(path)
    _say_root(out, manifest)


def export_command(
    manifest: Source,
    out: Annotated[Path, typer.Argument(help="File or folder to write.")],
    form: Annotated[Format, typer.Option("--to", help=f"Format to write: {', '.join(FORMATS)}.")],
    columns: Columns = None,
    root: Root = None,
) -> None:
    """Write a manifest in another toolkit's format."""
    listed = read_named(manifest, root=root)
    for note in export_manifest(listed, out, form, columns=None if columns is None else name_values(columns)):
        print(note, file=sys.stderr)
    print(_summary(out, listed))


def _write(out: Path, manifest: Manifest) -> None:
    write_manifest(out, manifest.utterances, root=root_from(out.parent, manifest))
    print(_summary(out, manifest))


def _say_root(out: Path, manifest: Manifest) -> None:
    """Print how audio outside the manifest's folder is found."""
    root, said = manifest.root, root_from(out.parent, manifest)
    if said:
        print(f"paths are relative to {root}, which its column `root` remembers as {said}")
    elif out.parent.resolve() != root.resolve() and not all(is_url(row.path) for row in manifest.utterances):
        print(
            f"paths are relative to {root}, where the audio is not found: pass data.root={root}, or --root, where the "
            "manifest is used"
        )


def _summary(out: Path, manifest: Manifest) -> str:
    return f"{out}: {len(manifest.utterances)} utterances, {manifest.duration_s / 3600:.2f} h"
