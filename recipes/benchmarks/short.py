"""The short form of every benchmark here, one after the other, and one table: ratios, targets, and what was committed.

short.py                                          batches of equal length
short.py --manifest festvox-ru/pool.tsv           and real speech: mixed lengths, k-means, manifests, texts
short.py --only asr --manifest POOL.tsv --write   one of them, twice, the lower ratios into measured.json
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from measuring import about

__all__ = ["MEASURED", "TARGETS", "Found", "commit_ratios", "fallen", "fallen_twice", "ratio_table", "run_short"]

FOLDER = Path(__file__).resolve().parent
MEASURED = FOLDER / "measured.json"  # the committed ratios
NAMES = ("pretraining", "kmeans", "data", "asr")
PACKAGES = ("torch", "transformers", "fairseq2", "torchaudio", "flashlight-text", "kenlm")
TOLERANCE = 0.15  # by which a ratio may lie below the committed one
TARGETS = {  # how many times as fast as a contender ours is to be
    "base wav2vec2 equal: transformers": 1.6,
    "base wav2vec2 equal: fairseq2": 1.3,
    "base wav2vec2 mixed: transformers": 2.0,
    "base wav2vec2 mixed: fairseq2": 1.5,
    "base hubert equal: torchaudio": 2.0,
    **{f"base ctc {kind}: {peer}": 1.3 for kind in ("equal", "mixed") for peer in ("transformers", "fairseq2")},
    **{
        f"base extract {kind}: {peer}": 1.3
        for kind in ("single", "equal", "mixed")
        for peer in ("transformers", "torchaudio")
    },
    **{f"small {task} equal: plain modules": 2.5 for task in ("wav2vec2", "hubert", "ctc")},
    "k-means mfcc 100: faiss": 3.0,
    "k-means mfcc 100: sklearn": 30.0,
    "data build flac: glob + soundfile.info": 3.0,
    "data check flac: one process decodes": 1.8,
    "data check flac: speechssl -j 1": 1.8,
    "base finetune same: transformers": 1.3,
    "base transcribe mixed: transformers": 1.5,
    "decode lexicon and 4-gram beam 50: torchaudio": 1.0,
}


class Found(NamedTuple):
    """What short forms told."""

    ratios: dict[str, float]
    left_out: dict[str, str]  # packages that are not installed, by what needs them


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


def ratio_table(
    found: Mapping[str, float], committed: Mapping[str, float], left_out: Mapping[str, str] | None = None
) -> str:
    """Lay out ratios as a Markdown table, and what could not be measured."""
    lines = ["| ours against | times as fast | target | | committed | |", "|---|---|---|---|---|---|"]
    low = fallen(found, committed)
    for key, ratio in found.items():
        target = TARGETS.get(key)
        met = "" if target is None else "met" if ratio >= target else "not met"
        before = f"{committed[key]:.2f}" if key in committed else ""
        shown = "" if target is None else f"{target:g}"
        lines.append(f"| {key} | {ratio:.2f} | {shown} | {met} | {before} | {'fallen' if key in low else ''} |")
    for key, packages in (left_out or {}).items():
        lines.append(f"| {key} | not installed: {packages} | {TARGETS.get(key, '')} | | {committed.get(key, '')} | |")
    return "\n".join(lines)


def commit_ratios(runs: Sequence[Mapping[str, float]], path: Path, facts: Mapping[str, object]) -> None:
    """Write the lowest ratio of several runs into the committed ones, and which they are of; all others stay.

    Args:
        runs: ratios of each.
        path: of the committed ratios.
        facts: of the measurement: date, machine, commit.
    """
    kept = json.loads(path.read_text(encoding="utf-8"))
    lowest = {key: min(run[key] for run in runs) for key in runs[0]}
    kept["ratios"] |= lowest
    kept["later"] = [*kept.get("later", []), {**facts, "runs": len(runs), "ratios": [*lowest]}]
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run_short(manifests: Sequence[Path] = (), *, only: Sequence[str] = (), threads: int = 2, seed: int = 0) -> Found:
    """Run the short forms, each in a process of its own, and return their ratios.

    Args:
        manifests: of real speech; without any only what needs none is run.
        only: names of those that are run; all without any.
        threads: of each.
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
        found = Found({}, {})
        for name, command in commands.items():
            if only and name not in only:
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
    parser.add_argument("--write", action="store_true", help="run twice, and commit the lower ratios to measured.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    manifests = [path for path in options.manifest if path.exists()]
    if not manifests:
        print(
            "no prepared speech (--manifest): mixed lengths, k-means, manifests and texts are left out", file=sys.stderr
        )
    runs = [
        run_short(manifests, only=options.only, threads=options.threads, seed=options.seed)
        for _ in range(2 if options.write else 1)
    ]
    committed = json.loads(MEASURED.read_text(encoding="utf-8"))["ratios"] if MEASURED.exists() else {}
    for found in runs:
        print(ratio_table(found.ratios, committed, found.left_out))
    if options.write:
        commit_ratios([found.ratios for found in runs], MEASURED, about(options.seed, PACKAGES))


if __name__ == "__main__":
    main()
