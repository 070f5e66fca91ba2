"""Command line: stages configured by a recipe, overridden by the keys of their configuration."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from speechssl.cli.arguments import Root, Shift, ShiftSeed
from speechssl.config import describe, load, with_overrides

__all__ = [
    "cluster_command",
    "finetune_command",
    "hubert_command",
    "predict_command",
    "preflight_command",
    "pretrain_command",
    "probe_command",
    "selftrain_command",
    "superb_command",
    "sweep_command",
]

Recipe = Annotated[Path, typer.Argument(help="YAML file with the settings that differ from the defaults.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value pairs with dotted keys: train.steps=100.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and stop; * marks what is no default.")
]


def cluster_command(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Fit k-means and label every frame of speech."""
    from speechssl.stages.cluster import ClusterConfig, cluster

    _run(cluster, ClusterConfig, recipe, overrides, dry_run=dry_run)


def pretrain_command(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Pretrain an encoder: wav2vec 2.0, HuBERT, or an installed objective."""
    from speechssl.stages.pretrain import PretrainConfig, pretrain

    _run(pretrain, PretrainConfig, recipe, overrides, dry_run=dry_run)


def finetune_command(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Fine-tune a pretrained encoder with CTC."""
    from speechssl.stages.finetune import FinetuneConfig, finetune

    _run(finetune, FinetuneConfig, recipe, overrides, dry_run=dry_run)


def sweep_command(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Compare every layer and number of units with phones."""
    from speechssl.report.plot import plot_sweep
    from speechssl.stages.sweep import SweepConfig, sweep

    def run(config: SweepConfig) -> Path:
        table = sweep(config)
        plot_sweep(config.out / "sweep.json", config.out / "sweep.png")
        return table

    _run(run, SweepConfig, recipe, overrides, dry_run=dry_run)


def probe_command(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train heads on frozen or tuned encoders for a downstream task, and score them on held-out speakers."""
    from speechssl.stages.head_probe import train_probes
    from speechssl.stages.probe_config import ProbeConfig

    def run(config: ProbeConfig) -> Path:
        table = train_probes(config)
        print(table.read_text(encoding="utf-8"))
        return table

    _run(run, ProbeConfig, recipe, overrides, dry_run=dry_run)


def predict_command(
    head: Annotated[Path, typer.Argument(help="Folder of a head: heads/NAME/seed-N of a probe.")],
    manifests: Annotated[list[Path], typer.Argument(help="Manifests of the audio, or audio files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write; .ctm for intervals as CTM.")],
    model: Annotated[str | None, typer.Option(help="The model, if it has moved since the head was trained.")] = None,
    root: Root = None,
    skip_bad: Annotated[bool, typer.Option(help="Report and skip unusable audio instead of stopping.")] = False,
    shift: Shift = None,
    shift_seed: ShiftSeed = 0,
) -> None:
    """Write the classes or values that a trained head predicts for a manifest."""
    from speechssl.stages.head_folder import load_head
    from speechssl.stages.predict import predict_table
    from speechssl.stages.reading_data import DataConfig, read_data

    loaded = load_head(head, model=model)
    data = DataConfig(
        manifests=tuple(manifests),
        root=root,
        bad_audio="skip" if skip_bad else "stop",
        shift=shift,
        shift_seed=shift_seed,
    )
    print(f"{out}: {predict_table(loaded, data, read_data(data), out)} utterances")


def superb_command(
    model: Annotated[str, typer.Argument(help="The model: a folder, a file of another toolkit, hf://org/name.")],
    data: Annotated[
        str,
        typer.Option(
            help="Folders as published, NAME=FOLDER,...: voxceleb1 (SID, ASV), speech_commands (KS), "
            "fluent_speech_commands (IC), iemocap (ER), librispeech_phones (PR), ml_superb (LID)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for heads, superb.md, superb.json and pictures.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings, as key=value: tasks=[ks,er], steps=2000, seeds=[0].")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Run the tasks of SUPERB for which there is data, on one frozen model: one table, two pictures."""
    from speechssl.cli.arguments import name_values
    from speechssl.report.superb_plot import plot_layer_weights, plot_scores
    from speechssl.stages.superb import run_superb
    from speechssl.stages.superb_config import SuperbConfig

    values = {"model": model, "out": str(out), "data": name_values(data)}
    config = with_overrides(values, SuperbConfig, overrides or (), where="superb")
    if dry_run:
        print(*describe(config), sep="\n")
        return
    table = run_superb(config)
    print(table.read_text(encoding="utf-8"))
    plot_scores(out / "superb.json", out / "superb.png")
    print(table, out / "superb.png", sep="\n")
    if plot_layer_weights(out / "superb.json", out / "layer_weights.png"):
        print(out / "layer_weights.png")


def hubert_command(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run all iterations of HuBERT: units, pretraining, sweep, units, ..."""
    from speechssl.report.plot import plot_sweeps
    from speechssl.stages.hubert_chain import HubertConfig, hubert

    def run(config: HubertConfig) -> Path:
        report = hubert(config)
        plot_sweeps(config.out)
        return report

    _run(run, HubertConfig, recipe, overrides, dry_run=dry_run)


def selftrain_command(recipe: Recipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train on own transcripts of a pool, round by round, as long as dev gets better."""
    from speechssl.stages.selftrain import SelftrainConfig, selftrain

    _run(selftrain, SelftrainConfig, recipe, overrides, dry_run=dry_run)


def preflight_command(
    recipe: Annotated[Path, typer.Argument(help="YAML file as for finetune.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value pairs: text.case=lower.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write: every utterance.")] = None,
) -> None:
    """Check texts, tokens and lengths as fine-tuning would; exit status 1 if it would refuse them."""
    from speechssl.atomic import write_atomically
    from speechssl.stages.finetune import FinetuneConfig, check_texts
    from speechssl.stages.preflight_text import as_json, lines

    found = check_texts(load(recipe, FinetuneConfig, overrides or ()))
    print(*lines(found), sep="\n")
    if out is not None:
        write_atomically(out, json.dumps(as_json(found), indent=1, ensure_ascii=False) + "\n")
        print(out)
    if found.errors:
        raise typer.Exit(1)


def _run(
    stage: Callable[[Any], Path], config_type: type, recipe: Path, overrides: Sequence[str] | None, *, dry_run: bool
) -> None:
    config: Any = load(recipe, config_type, overrides or ())
    print(*(describe(config) if dry_run else [stage(config)]), sep="\n")
