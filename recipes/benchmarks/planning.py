"""How long it takes to plan epochs of ten million utterances, in what memory; and what padding costs on real speech.

planning.py --out planning.json                                    generated rows, about five minutes
planning.py --rows 1000000 --repeats 1                             the short form
planning.py --padding festvox-ru/pool.tsv tuxpaint/pool.tsv        share of batches that is padding

Rows are generated (names of 40 bytes, paths of 60, lengths log-normal from 0.5 to 35 s) and written in Parquet; each
repeat is a process of its own, that imports, opens, plans two epochs and jumps. Peak memory is the process's, imports
and mapped file counted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["LIMITS", "figures", "generate", "main", "padding", "plan"]

LIMITS = {"to the first batch": 20.0, "next epoch": 10.0, "jump": 1.0}  # seconds, for ten million rows
PEAK_MIB = 2048
STEPS = ("import", "open", "sampler", "epoch", "first batch", "next epoch", "jump")


def generate(path: Path, rows: int, *, seed: int = 0) -> None:
    """Write a manifest of `rows` utterances in Parquet, without holding them all."""
    import numpy as np

    from speechssl.data.manifest import write_manifest
    from speechssl.data.utterances import Utterance

    random = np.random.default_rng(seed)

    def listed() -> Iterator[Utterance]:
        for begin in range(0, rows, 1 << 16):
            count = min(1 << 16, rows - begin)
            lengths = np.clip(random.lognormal(12.0, 0.6, count), 8_000, 560_000).astype(int).tolist()
            names = random.integers(0, 2**60, count).tolist()
            for number, (length, name) in enumerate(zip(lengths, names, strict=True), start=begin):
                id = f"speaker{name % 9973:05d}-{name:015x}-{number:010d}"
                yield Utterance(
                    id=id,
                    path=f"train/{name % 9973:05d}/{id}.flac",
                    num_samples=length,
                    sample_rate=16_000,
                    channels=1,
                    language=("en", "nl", "cs")[number % 3],
                )

    write_manifest(path, listed())


def plan(path: Path) -> dict[str, Any]:
    """Open a manifest, plan two epochs and jump, and say how long each step took; in a fresh process."""
    steps: dict[str, tuple[float, float]] = {}
    clock = [time.perf_counter(), time.process_time()]

    def done(name: str) -> None:
        now = [time.perf_counter(), time.process_time()]
        steps[name] = (now[0] - clock[0], now[1] - clock[1])
        clock[:] = now

    from speechssl.data.batching import BatchConfig, BatchSampler
    from speechssl.data.manifest import read_manifest

    done("import")
    manifest = read_manifest(path)
    done("open")
    sampler = BatchSampler(manifest.utterances, BatchConfig(), seed=0, hop=320)
    done("sampler")
    epoch = sampler.epoch(0)
    done("epoch")
    _ = [manifest.utterances[crop.index] for crop in epoch[0]]
    done("first batch")
    del epoch
    epoch = sampler.epoch(1)
    done("next epoch")
    _ = [manifest.utterances[crop.index] for crop in epoch[len(epoch) // 2 :: 8][0]]
    done("jump")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
    return {"steps": steps, "peak_mib": peak, "batches": len(epoch)}


def figures(turns: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return medians by wall and processor time: of each step, and of all until the first batch is there."""

    until = STEPS[: STEPS.index("first batch") + 1]
    found: dict[str, dict[str, float]] = {}
    for place, clock in enumerate(("wall_s", "cpu_s")):
        for name, steps in {**{step: [step] for step in STEPS}, "to the first batch": until}.items():
            spent = [sum(turn["steps"][step][place] for step in steps) for turn in turns]
            found.setdefault(name, {})[clock] = round(statistics.median(spent), 3)
    return found


def padding(manifests: Sequence[Path], seconds: float) -> dict[str, dict[str, float]]:
    """Return, for each manifest, hours and share of padding in batches of so many seconds, cropped and whole.

    Whole utterances that would fill more than a batch are left out.
    """
    from speechssl.data.batching import BatchConfig, BatchSampler
    from speechssl.data.manifest import read_manifest

    found = {}
    for path in manifests:
        manifest = read_manifest(path)
        short = [row for row in manifest.utterances if row.duration_s <= seconds]
        kinds = {
            "cropped": BatchSampler(manifest.utterances, BatchConfig(seconds=seconds, min_s=0.1), seed=0),
            "whole": BatchSampler(short, BatchConfig(seconds=seconds, max_crop_s=None, min_s=0.1), seed=0),
        }
        shares = {
            kind: statistics.mean(sampler.epoch(epoch).padding for epoch in range(5)) for kind, sampler in kinds.items()
        }
        found[f"{path.parent.name}/{path.stem}"] = {"hours": manifest.duration_s / 3600, **shares}
    return found


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--manifest", type=Path, help="of Parquet, in place of generated rows")
    parser.add_argument("--padding", type=Path, nargs="*", default=[], help="manifests of real speech; nothing else")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a batch, for --padding")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--turn", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(plan(options.turn)))
        return
    report: dict[str, Any] = {}
    if options.padding:
        report["padding"] = padding(options.padding, options.seconds)
        print("| corpus | hours | padding, cropped | padding, whole |", "|---|---|---|---|", sep="\n")
        for name, row in report["padding"].items():
            print(f"| {name} | {row['hours']:.2f} | {row['cropped']:.1%} | {row['whole']:.1%} |")
    else:
        with TemporaryDirectory() as folder:
            path = options.manifest or Path(folder) / "rows.parquet"
            if options.manifest is None:
                generate(path, options.rows)
            command = [sys.executable, __file__, "--turn", str(path)]
            runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE) for _ in range(options.repeats)]
            turns = [json.loads(run.stdout) for run in runs]
            report |= {"rows": options.rows, "bytes": path.stat().st_size, "turns": turns, "medians": figures(turns)}
        report["peak_mib"] = max(turn["peak_mib"] for turn in turns)
        print(f"| {options.rows:,} rows | wall s | CPU s | limit for 10,000,000 |", "|---|---|---|---|", sep="\n")
        for step, row in report["medians"].items():
            print(f"| {step} | {row['wall_s']:.2f} | {row['cpu_s']:.2f} | {LIMITS.get(step, '')} |")
        print(f"| peak MiB | {report['peak_mib']:.0f} | | {PEAK_MIB} |")
    if options.out:
        from measuring import about

        report = {**about(0, ("torch", "numpy", "pyarrow")), **report}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
