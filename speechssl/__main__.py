"""Command line: `speechssl <stage> RECIPE.yaml [key=value ...]` for what a recipe configures, arguments for tools.

Stages are their configuration: there is no second set of flags to keep in step. What the user can mend is printed in
one line and ends with status 2.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from speechssl.arguments import Root, with_bar
from speechssl.asr_commands import align_command, average_command, preflight_command, score_command, transcribe_command
from speechssl.config import describe, load
from speechssl.corpora import CORPORA, describe_corpora, prepare_corpus
from speechssl.data.audio import SAMPLE_RATE
from speechssl.data.km import is_km, read_km, with_ids_of, write_km
from speechssl.data.labels import read_labels, write_labels
from speechssl.data.manifest import read_manifest, write_atomically
from speechssl.errors import SpeechSSLError, StoppedError
from speechssl.lm_commands import lm_app
from speechssl.manifest_commands import manifest_app
from speechssl.parallel import keep_freed_memory
from speechssl.plot import plot_sweep, plot_units
from speechssl.report import report_run
from speechssl.runs.draw import plot_runs
from speechssl.runs.page import write_page
from speechssl.runs.read import read_runs
from speechssl.runs.table import print_runs
from speechssl.stages.budget import DEVICES, UTILISATION
from speechssl.stages.cluster import ClusterConfig, cluster
from speechssl.stages.convert import FORMATS, convert
from speechssl.stages.convert import describe as describe_model
from speechssl.stages.finetune import FinetuneConfig, finetune
from speechssl.stages.hubert import HubertConfig, hubert
from speechssl.stages.plan import PlanRequest, make_plan, measured_plan
from speechssl.stages.plan_text import describe_plan, write_recipe
from speechssl.stages.pretrain import PretrainConfig, pretrain
from speechssl.stages.replay import replay
from speechssl.stages.sweep import SweepConfig, sweep

__all__ = ["STAGES", "main"]


def _sweep(config: SweepConfig) -> Path:
    table = sweep(config)
    plot_sweep(config.out / "sweep.json", config.out / "sweep.png")
    return table


def _hubert(config: HubertConfig) -> Path:
    report = hubert(config)
    for figures in sorted(config.out.glob("*-sweep/sweep.json")):
        if not figures.with_suffix(".png").exists():
            plot_sweep(figures, figures.with_suffix(".png"))
    return report


STAGES: dict[str, tuple[type, Callable[[Any], Path], str]] = {
    "cluster": (ClusterConfig, cluster, "Fit k-means and label every frame of speech."),
    "pretrain": (PretrainConfig, pretrain, "Pretrain an encoder, with either method."),
    "finetune": (FinetuneConfig, finetune, "Fine-tune a pretrained encoder with CTC."),
    "sweep": (SweepConfig, _sweep, "Measure every layer and number of units against phones."),
    "hubert": (HubertConfig, _hubert, "Run all iterations of HuBERT: units, pretraining, sweep, units, ..."),
}

app = typer.Typer(
    name="speechssl",
    help="Speech self-supervised representation learning: manifests, pretraining, CTC fine-tuning, WER.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Recipe = Annotated[Path, typer.Argument(help="YAML file with what differs from the defaults.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value pairs, the key dotted: train.steps=100.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop; * is no default.")]


def _add_stage(name: str) -> None:
    config_type, run, summary = STAGES[name]

    def stage(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
        config: Any = load(recipe, config_type, overrides or ())
        print(*(describe(config) if dry_run else [run(config)]), sep="\n")

    app.command(name, help=summary)(stage)


for _name in STAGES:
    _add_stage(_name)


@app.command("corpus")
def corpus_command(
    name: Annotated[str | None, typer.Argument(help="Which one; without it, the corpora are listed.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to fill.")] = None,
    source: Annotated[Path | None, typer.Option(help="Folder with the packages or the published layout.")] = None,
    splits: Annotated[Path | None, typer.Option(help="Folder of split lists to follow, as in manifests/.")] = None,
) -> None:
    """Prepare a real corpus and its splits."""
    if name is None:
        print(*describe_corpora(), sep="\n")
        return
    if out is None and name in CORPORA:
        raise typer.BadParameter("name the folder to fill with --out")
    manifests = prepare_corpus(name, out or Path(), source=source, splits=splits, progress=with_bar(f"corpus {name}"))
    for path in manifests.values():
        manifest = read_manifest(path)
        print(f"{path}  {len(manifest.utterances)} utterances, {manifest.duration_s / 60:.1f} min")


app.add_typer(manifest_app)
app.add_typer(lm_app)


app.command("preflight")(preflight_command)
app.command("transcribe")(transcribe_command)
app.command("align")(align_command)
app.command("average")(average_command)
app.command("score")(score_command)


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="Model of any of these formats but onnx; it is recognised.")],
    target: Annotated[Path, typer.Argument(help="File or folder to write.")],
    to: Annotated[str, typer.Option(help=f"Format to write: {', '.join(FORMATS)}.")],
    probe: Annotated[Path | None, typer.Option(help="Recording to compare on; made up if not given.")] = None,
) -> None:
    """Convert a model to another toolkit's format, and check the result by running it."""
    converted = convert(source, target, to, probe=probe)
    for name, reason in converted.added.items():
        print(f"added    {name}: {reason}")
    for name, reason in converted.dropped.items():
        print(f"dropped  {name}: {reason}")
    for who, difference in converted.differences.items():
        print(f"checked  run by {who}: largest difference {difference:.1e} of the largest output")
    print(f"{target}: {to}, from {converted.source_format}, {converted.model.description.method}")


@app.command("info")
def info_command(model: Annotated[Path, typer.Argument(help="Model of any format that can be read.")]) -> None:
    """Say what a model is: method, size, layers, units, vocabulary, origin, fingerprint."""
    for name, value in describe_model(model):
        print(f"{name:<14} {value}")


@app.command("plot")
def plot_command(
    labels: Annotated[list[Path], typer.Argument(help="Label files from cluster.")],
    manifest: Annotated[Path, typer.Option(help="Where the utterance is listed.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    utterance: Annotated[str | None, typer.Option(help="Its id; the first of the manifest if not given.")] = None,
    root: Root = None,
) -> None:
    """Draw an utterance with its hidden units."""
    plot_units(labels, read_manifest(manifest, root=root), out, utterance_id=utterance)
    print(out)


@app.command("labels")
def labels_command(
    source: Annotated[Path, typer.Argument(help="Label file of ours, or fairseq's SPLIT.km.")],
    out: Annotated[Path, typer.Argument(help="SPLIT.km, gets dict.km.txt beside it; or label file of ours to write.")],
    manifest: Annotated[Path, typer.Option(help="Gives the order of the lines: fairseq's SPLIT.tsv, or ours.")],
    ids: Annotated[Path | None, typer.Option(help="Manifest of ours for the ids of fairseq's, by path.")] = None,
    rate: Annotated[
        int | None, typer.Option(help="Labels a second of SPLIT.km; if not given, 100 (MFCC) or 50 (HuBERT), as fits.")
    ] = None,
    window: Annotated[int, typer.Option(help="Samples that a label of SPLIT.km looks at.")] = 400,
    clusters: Annotated[int | None, typer.Option(help="Units of SPLIT.km; dict.km.txt says it if not given.")] = None,
    kmeans: Annotated[
        Path | None, typer.Option(help="File of the k-means behind SPLIT.km: files with the same one may be mixed.")
    ] = None,
) -> None:
    """Convert frame labels from fairseq and to it."""
    listed = read_manifest(manifest)
    if ids is not None:
        listed = with_ids_of(listed, read_manifest(ids))
    if is_km(source):
        labels = read_km(source, listed, rate=rate, window=window, clusters=clusters, kmeans=kmeans)
        write_labels(out, labels)
    elif (rate, window, clusters, kmeans) != (None, 400, None, None):
        raise typer.BadParameter(f"{source} says itself at what rate it is and of which units; leave the options out")
    else:
        labels = read_labels(source)
        write_km(out, labels, listed)
    made_by = labels.source
    print(f"{out}: {len(listed.utterances)} utterances, {made_by.clusters} units, k-means {made_by.kmeans}")
    print(f"fairseq: model.label_rate={SAMPLE_RATE / made_by.hop:g}")


@app.command("replay")
def replay_command(
    step: Annotated[Path, typer.Argument(help="Folder skipped_step_* of a run, or the run: its newest one.")],
) -> None:
    """Repeat a step that training skipped, and say which utterance and which module broke it."""
    for row in replay(step):
        found = f"first not finite: {row.broken}" if row.broken else ""
        print(f"{row.name}  loss {row.loss:.4g}  gradient norm {row.norm:.4g}  peak {row.peak:.3g}  {found}".rstrip())


@app.command("plan")
def plan_command(
    hours: Annotated[float, typer.Option(help="Hours of unlabelled audio.")],
    days: Annotated[float, typer.Option(help="Days of training.")],
    device: Annotated[str, typer.Option(help=f"cpu, {', '.join(DEVICES)}; any other with --rate.")] = "cpu",
    memory: Annotated[float | None, typer.Option(help="GB of one device, if not all of it.")] = None,
    devices: Annotated[int, typer.Option(help="How many of them.")] = 1,
    method: Annotated[Literal["wav2vec2", "hubert"], typer.Option(help="wav2vec2 or hubert.")] = "wav2vec2",
    size: Annotated[
        Literal["small", "base", "large"] | None, typer.Option(help="The largest worth it, if not given.")
    ] = None,
    batch: Annotated[float | None, typer.Option(help="Seconds of audio an update; as published, if not given.")] = None,
    rate: Annotated[float | None, typer.Option(help="Audio-seconds a second of one device, measured.")] = None,
    utilisation: Annotated[float, typer.Option(help="Assumed share of a spec sheet's peak rate.")] = UTILISATION,
    measure: Annotated[bool, typer.Option(help="Measure the planned size on this machine's device.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Recipe to write for pretrain.")] = None,
) -> None:
    """Plan a pretraining run: size, batch, learning rate, and what published runs reached."""
    request = PlanRequest(
        hours=hours,
        days=days,
        device=device,
        memory_gb=memory,
        devices=devices,
        method=method,
        size=size,
        batch_s=batch,
        rate=rate,
        utilisation=utilisation,
    )
    plan = measured_plan(request) if measure else make_plan(request)
    print(*describe_plan(plan), sep="\n")
    if out is not None:
        write_recipe(out, plan)
        print(f"{out}: try it with `speechssl pretrain {out} --dry-run`")


@app.command("report")
def report_command(run: Annotated[Path, typer.Argument(help="Folder that a recipe filled.")]) -> None:
    """Print what a recipe measured, as tables."""
    text = report_run(run)
    write_atomically(run / "report.md", text + "\n")
    print(text)


@app.command("runs")
def runs_command(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, of pretraining or fine-tuning.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML page to write; opens offline.")] = None,
    png: Annotated[Path | None, typer.Option(help="PNG to write: figures that two or more runs share.")] = None,
) -> None:
    """Compare training runs: a table, curves over steps, hours of audio seen and wall time."""
    runs = read_runs(folders)
    for note in (note for run in runs for note in run.notes):
        print(note, file=sys.stderr)
    print_runs(runs)
    if out is not None:
        write_page(runs, out)
        print(out)
    if png is not None:
        plot_runs(runs, png)
        print(png)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    keep_freed_memory()
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="speechssl")
    except StoppedError as stop:
        print(f"speechssl: {stop}", file=sys.stderr)
    except (SpeechSSLError, OSError) as error:  # the user can mend it: one line, no traceback
        print(f"speechssl: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:  # how typer returns
        return int(end.code or 0)
    return 0


def console() -> None:
    """Entry point of the `speechssl` script."""
    sys.exit(main())


if __name__ == "__main__":
    console()
