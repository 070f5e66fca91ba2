"""The short form of every benchmark here, one after the other, and one table: ratios, targets, and what was committed.

short.py                                          batches of equal length
short.py --manifest festvox-ru/pool.tsv           and real speech: mixed lengths, k-means, manifests, texts
short.py --only asr --manifest POOL.tsv --write   one of them, twice, the lower ratios into measured.json
short.py --commit pretraining.json                the ratios of a report that one of them wrote, without running any

Ratios are committed by family of processors (`measuring.family_of`), and compared with those of the same family alone.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from measuring import about

__all__ = [
    "MEASURED",
    "TARGETS",
    "Committed",
    "Found",
    "commit_ratios",
    "fallen",
    "fallen_twice",
    "ratio_table",
    "read_committed",
    "run_short",
]

FOLDER = Path(__file__).resolve().parent
MEASURED = FOLDER / "measured.json"  # the committed ratios
NAMES = ("pretraining", "kmeans", "data", "asr", "precisions")
PACKAGES = ("torch", "transformers", "fairseq2", "torchaudio", "onnxruntime", "flashlight-text", "kenlm")
FACTS = ("date", "command", "seed", "commit", "machine", "family", "threads", "versions")  # of a report
TOLERANCE = 0.15  # by which a ratio may lie below the committed one
TARGETS = {  # how many times as fast as a contender ours is to be
    "base wav2vec2 equal: transformers": 1.4,
    "base wav2vec2 equal: fairseq2": 1.4,
    "base wav2vec2 mixed: transformers": 2.0,
    "base wav2vec2 mixed: fairseq2": 1.5,
    "base hubert equal: torchaudio": 1.3,
    **{f"base ctc {kind}: {peer}": 1.2 for kind in ("equal", "mixed") for peer in ("transformers", "fairseq2")},
    **{
        f"base extract {kind}: {peer}": 1.15
        for kind in ("single", "equal", "mixed")
        for peer in ("transformers", "torchaudio")
    },
    **{f"small extract {kind}: plain modules": 1.0 for kind in ("single", "equal", "mixed")},
    **{f"small {task} equal: plain modules": 1.5 for task in ("wav2vec2", "hubert", "ctc")},
    "k-means mfcc 100: faiss": 3.0,
    "k-means mfcc 100: sklearn": 30.0,
    "data build flac: glob + soundfile.info": 3.0,
    "data check flac: one process decodes": 1.8,
    "data check flac: speechssl -j 1": 1.8,
    "base finetune same: transformers": 1.3,
    "base transcribe mixed: transformers": 1.5,
    "decode lexicon and 4-gram beam 50: torchaudio": 1.0,
    **{
        f"{name} {task} {precision}{threads}: {peer}": ratio
        for name in ("base", "demo")
        for threads in ("", ", threads 1")
        for task, peer, ratio in (
            ("transcribe", "transformers", 2.0),
            ("transcribe", "onnxruntime int8", 1.2),
            ("extract", "transformers", 1.8),
        )
        for precision in ("bfloat16", "int8", "auto")
    },
    **{
        f"{name} {task} {precision} memory: float32": 1.67
        for name in ("base", "demo")
        for task in ("transcribe", "extract")
        for precision in ("bfloat16", "int8")
    },
}


class Found(NamedTuple):
    """What short forms told."""

    ratios: dict[str, float]
    left_out: dict[str, str]  # packages that are not installed, by what needs them


class Committed(NamedTuple):
    """What was committed of a family of processors."""

    family: str
    ratios: dict[str, float]
    known: dict[str, str]  # by row that was measured on other families: their ratios, each with its family


def read_committed(path: Path, family: str) -> Committed:
    """Read the committed ratios of a family; none if it was never measured."""
    families = json.loads(path.read_text(encoding="utf-8"))["families"] if path.exists() else {}
    known: dict[str, list[str]] = {}
    for other, told in families.items():
        for key, ratio in told["ratios"].items():
            if other != family:
                known.setdefault(key, []).append(f"{ratio:.2f} on {other}")
    ratios = families.get(family, {"ratios": {}})["ratios"]
    return Committed(family, ratios, {key: "; ".join(others) for key, others in known.items()})


def fallen(found: Mapping[str, float], committed: Mapping[str, float]) -> list[str]:
    """List the ratios that lie more than `TOLERANCE` below the committed ones; what was not measured is not fallen."""
    return sorted(key for key, ratio in committed.items() if key in found and found[key] < (1 - TOLERANCE) * ratio)


def fallen_twice(
    first: Mapping[str, float], second: Mapping[str, float] | None, committed: Mapping[str, float]
) -> list[str]:
    """List the ratios that fell in two consecutive runs; a machine that was busy in one of them does not count.

    Args:
        first: ratios of the first run.
        second: of the second; None if there was no need of one.
        committed: ratios to be kept.
    """
    once = fallen(first, committed)
    return [] if second is None else sorted(set(once) & set(fallen(second, committed)))


def ratio_table(found: Mapping[str, float], committed: Committed, left_out: Mapping[str, str] | None = None) -> str:
    """Lay out ratios as a Markdown table, what could not be measured, and rows that the family lacks."""
    family, kept = committed.family, committed.ratios
    lines = [f"| ours against | times as fast | target | | committed, {family} | |", "|---|---|---|---|---|---|"]
    low = fallen(found, kept)
    for key, ratio in found.items():
        target = TARGETS.get(key)
        met = "" if target is None else "met" if ratio >= target else "not met"
        others = f" ({committed.known[key]})" if key in committed.known else ""
        before = f"{kept[key]:.2f}" if key in kept else f"never{others}"
        shown = "" if target is None else f"{target:g}"
        lines.append(f"| {key} | {ratio:.2f} | {shown} | {met} | {before} | {'fallen' if key in low else ''} |")
    for key, packages in (left_out or {}).items():
        lines.append(f"| {key} | not installed: {packages} | {TARGETS.get(key, '')} | | {kept.get(key, '')} | |")
    never = [key for key in {**TARGETS, **committed.known} if key not in kept and key not in found]
    lines += ["", f"Never measured on {family}, nor now: {', '.join(never)}."] if never else []
    return "\n".join(lines)


def commit_ratios(runs: Sequence[Mapping[str, float]], path: Path, facts: Mapping[str, object]) -> None:
    """Write the lowest ratio of several runs into those of their family, and which they are; all others stay.

    Args:
        runs: ratios of each.
        path: of the committed ratios.
        facts: of the measurement: family, date, machine, commit.
    """
    kept = json.loads(path.read_text(encoding="utf-8"))
    lowest = {key: min(run[key] for run in runs) for key in runs[0]}
    told = kept["families"].setdefault(facts["family"], {"ratios": {}, "measurements": []})
    told["ratios"] |= lowest
    told["measurements"].append({**facts, "runs": len(runs), "ratios": [*lowest]})
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def commit_reports(reports: Iterable[Path], path: Path) -> None:
    """Write the ratios of reports of single scripts into the committed ones, with where they come from."""
    for report in reports:
        told = json.loads(report.read_text(encoding="utf-8"))
        facts = {name: told[name] for name in FACTS}
        commit_ratios([told["ratios"]], path, facts)


def run_short(
    manifests: Sequence[Path] = (),
    *,
    only: Sequence[str] = (),
    model: Path | None = None,
    threads: int = 2,
    seed: int = 0,
) -> Found:
    """Run the short forms, each in a process of its own, and return their ratios.

    Args:
        manifests: of real speech; without any only what needs none is run.
        only: names of those that are run; all without any.
        model: recogniser whose precisions are measured beside BASE's.
        threads: of each; precisions are measured with one thread too.
        seed: of each.

    Raises:
        subprocess.CalledProcessError: one failed.
    """
    speech = ["--manifest", *map(str, manifests)] if manifests else []
    with TemporaryDirectory() as folder:
        out = Path(folder)
        general = ["--threads", str(threads)]
        commands = {"pretraining": ["pretraining.py", "--short", *general, "--seed", str(seed), *speech]}
        if manifests:
            commands["kmeans"] = ["kmeans.py", *general, "short", *speech]
            commands["data"] = ["data.py", "--short", *speech]
            commands["asr"] = ["asr.py", "--short", *general, "--seed", str(seed), *speech]
            both = ["--threads", *dict.fromkeys([str(threads), "1"])]
            commands["precisions"] = ["precisions.py", "--short", *both, "--seed", str(seed), *speech]
            if model is not None:
                commands["precisions of the model"] = [*commands["precisions"], "--model", str(model)]
        found = Found({}, {})
        for name, command in commands.items():
            if only and Path(command[0]).stem not in only:
                continue
            report = out / f"{name}.json"
            script = [sys.executable, str(FOLDER / command[0]), *command[1:], "--out", str(report)]
            subprocess.run(script, check=True)
            told = json.loads(report.read_text(encoding="utf-8"))
            found.ratios.update(told["ratios"])
            found.left_out.update(told.get("left_out", {}))
    return found


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, nargs="*", default=[], help="of real speech; left out if missing")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=[], help="all without it")
    parser.add_argument("--model", type=Path, help="recogniser for precisions.py, beside BASE; left out if missing")
    parser.add_argument("--commit", type=Path, nargs="+", help="reports to commit to measured.json; nothing is run")
    parser.add_argument("--write", action="store_true", help="run twice, and commit the lower ratios to measured.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.commit:
        commit_reports(options.commit, MEASURED)
        return
    manifests = [path for path in options.manifest if path.exists()]
    if not manifests:
        print(
            "no prepared speech (--manifest): mixed lengths, k-means, manifests and texts are left out", file=sys.stderr
        )
    model = options.model if options.model is not None and options.model.exists() else None
    runs = [
        run_short(manifests, only=options.only, model=model, threads=options.threads, seed=options.seed)
        for _ in range(2 if options.write else 1)
    ]
    facts = about(options.seed, PACKAGES)
    committed = read_committed(MEASURED, str(facts["family"]))
    print(f"{facts['machine']}: family {committed.family}, of which {len(committed.ratios)} rows are committed")
    for found in runs:
        print(ratio_table(found.ratios, committed, found.left_out))
    if options.write:
        commit_ratios([found.ratios for found in runs], MEASURED, facts)


if __name__ == "__main__":
    main()
