"""Results of a recipe as Markdown tables, read from the files of its stages without recomputation.

The folder of a recipe holds any of `units*/quality.json`, `pretrain/`, and for each recogniser a folder with a
fine-tuning run and `test.json` from `speechssl score`.
"""

import json
import math
import platform
from pathlib import Path

import torch

import speechssl
from speechssl.errors import CheckpointError
from speechssl.provenance import source_commit
from speechssl.train.checkpoint import last_checkpoint, read_config, read_state
from speechssl.train.log_file import read_log_file

__all__ = ["report_run"]


def report_run(run: Path) -> str:
    """Return the tables for one folder.

    Raises:
        CheckpointError: the folder holds no scored recogniser.
    """
    scored = sorted(run.glob("*/test.json"))
    if not scored:
        raise CheckpointError(f"{run}: holds no */test.json; let the recipe finish first")
    lines = [
        "| recogniser | test CER | test WER | dev CER | best step | learning rate | fine-tuning | audio seen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_recogniser_row(path) for path in scored]
    lines += _comparison(run)
    lines += _pretraining(run)
    lines += _units(run)
    lines.append(f"\n{_machine()}")
    return "\n".join(lines)


def _recogniser_row(path: Path) -> str:
    scores, folder = json.loads(path.read_text(encoding="utf-8")), path.parent
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None
    state, config = read_state(checkpoint), read_config(folder)
    dev = "" if state.best_score is None else f"{100 * state.best_score:.1f} %"
    return (
        f"| {folder.name} | {100 * scores['cer']:.1f} % | {100 * scores['wer']:.1f} % | {dev} | {state.best_step} "
        f"| {config['optim']['lr']:g} | {state.wall_seconds:.0f} s | {state.audio_seconds / 3600:.2f} h |"
    )


def _comparison(run: Path) -> list[str]:
    """Compare each `NAMEpretrained` with its best control on dev, among `NAMEscratch` and `NAMEscratch-VARIANT`."""
    lines = []
    for path in sorted(run.glob("*pretrained/test.json")):
        name = path.parent.name.removesuffix("pretrained")
        controls = sorted(run.glob(f"{name}scratch*/test.json"), key=_dev_score)
        if controls:
            after, before = (json.loads(found.read_text(encoding="utf-8"))["cer"] for found in (path, controls[0]))
            of = f" on {name.rstrip('-')}" if name else ""
            lines.append(
                f"\nPretraining changes test CER{of} by {100 * (after / before - 1):+.1f} % relative to "
                f"{controls[0].parent.name}, the best control on dev."
            )
    return lines


def _dev_score(scores: Path) -> float:
    """Return the dev score of the run beside a `test.json`; infinity if it was not evaluated."""
    checkpoint = last_checkpoint(scores.parent)
    score = None if checkpoint is None else read_state(checkpoint).best_score
    return math.inf if score is None else score


def _pretraining(run: Path) -> list[str]:
    """Return a line for each pretraining run: `pretrain` and those of later iterations."""
    return [_pretrained(checkpoint) for folder in sorted(run.glob("pretrain*")) if (checkpoint := _trained(folder))]


def _trained(folder: Path) -> Path | None:
    """Return the last checkpoint of a pretraining run; None for recognisers, whose folders hold scores."""
    return None if (folder / "test.json").exists() else last_checkpoint(folder)


def _pretrained(checkpoint: Path) -> str:
    state, config = read_state(checkpoint), read_config(checkpoint.parent)
    last: dict[str, float | None] = {}  # None: not finite; dev metrics have their own rows
    for row in read_log_file(checkpoint.parent / "log.jsonl")[0]:
        last |= row
    shown = ("masked_accuracy", "unmasked_accuracy", "accuracy", "code_perplexity", "soft_perplexity")
    streams = ("", *(f"_{number}" for number in range(len(config.get("labels", ())))))  # several streams are numbered
    names = [f"{held_out}{name}{stream}" for held_out in ("", "dev_") for name in shown for stream in streams]
    figures = ", ".join(f"{name} {last[name]:.3g}" for name in names if last.get(name) is not None)
    rate = state.audio_seconds / state.wall_seconds
    return (
        f"\n{checkpoint.parent.name} ({config['objective']['kind']}): {state.step} steps, "
        f"{state.audio_seconds / 3600:.1f} h of audio seen, {state.wall_seconds:.0f} s, {rate:.0f} audio-seconds a "
        f"second; {figures}."
    )


def _units(run: Path) -> list[str]:
    rows = []
    for path in sorted(run.glob("units*/quality.json")):
        quality = json.loads(path.read_text(encoding="utf-8"))
        rows.append(
            f"| {path.parent.name} | {quality['pnmi']:.3f} | {quality['phone_purity']:.3f} "
            f"| {quality['cluster_purity']:.3f} | {quality['used']} |"
        )
    return ["\n| units | PNMI | phone purity | cluster purity | used |", "|---|---|---|---|---|", *rows] if rows else []


def _machine() -> str:
    device = torch.accelerator.current_accelerator(check_available=True) or "CPU"
    threads = torch.get_num_threads()
    commit = source_commit()
    sources = f"speechssl {speechssl.__version__}" if commit is None else f"Commit {commit}"
    return f"{sources}, torch {torch.__version__}, {threads} threads, {device}, {platform.machine()}."
