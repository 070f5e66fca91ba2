"""Time contenders in turn in one process, and write down what was found: rows, ratios, one table, one JSON file.

Knows nothing about speech: a contender is a name and a function that does one turn of its work.
"""

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = [
    "Outcome",
    "Row",
    "Timing",
    "about",
    "family_of",
    "interleave",
    "memory_kib",
    "ratios",
    "table",
    "write_report",
]

OURS = "speechssl"
RESTRICTIONS = (  # variables that keep libraries from instructions that the processor has, or us from our kernels
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "SPEECHSSL_KERNELS",
)
VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
INSTRUCTIONS = {  # flags of /proc/cpuinfo by the instructions that products are made of, the widest first
    "amx": {"amx_bf16", "amx_int8"},
    "avx512-bf16": {"avx512f", "avx512_bf16"},
    "avx512": {"avx512f"},
    "avx2": {"avx2"},
    "arm-i8mm": {"asimd", "i8mm", "bf16"},
    "arm": {"asimd"},
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one turn did, to see that contenders do comparable work."""

    loss: float  # a prediction; 0 where nothing is learned
    predicted: int  # frames or utterances that the loss counts
    audio_s: float  # seconds of audio, padding not counted


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Clocks of one turn."""

    wall_s: float
    cpu_s: float  # of all threads of the process
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one contender needed for one kind of work, medians over the repeats."""

    size: str
    task: str
    batch: str
    contender: str
    wall_s: float  # a turn
    cpu_s: float
    audio_s: float  # seconds of audio in a turn, padding not counted
    walls: tuple[float, ...]
    cpus: tuple[float, ...]
    parameters: int
    loss: float  # of the last turn, a prediction
    predicted: int  # of the last turn
    peak_mib: float | None = None  # memory over that after imports
    bound_share: float | None = None  # of the time that the matrix products alone would take

    @property
    def speed(self) -> float:
        """Seconds of audio in a second."""
        return self.audio_s / self.wall_s

    @property
    def work(self) -> str:
        """Name of what was done."""
        return f"{self.size} {self.task} {self.batch}"

    @classmethod
    def of(
        cls,
        work: tuple[str, str, str],
        contender: str,
        timings: Sequence[Timing],
        parameters: int,
        **more: float | None,
    ) -> "Row":
        """Take the medians of a contender's turns."""
        size, task, batch = work
        last = timings[-1].outcome
        return cls(
            size=size,
            task=task,
            batch=batch,
            contender=contender,
            wall_s=statistics.median(timing.wall_s for timing in timings),
            cpu_s=statistics.median(timing.cpu_s for timing in timings),
            audio_s=last.audio_s,
            walls=tuple(round(timing.wall_s, 6) for timing in timings),
            cpus=tuple(round(timing.cpu_s, 6) for timing in timings),
            parameters=parameters,
            loss=last.loss,
            predicted=last.predicted,
            **more,
        )


def interleave(turns: Mapping[str, Callable[[], Outcome]], repeats: int, warm_up: int = 1) -> dict[str, list[Timing]]:
    """Give every contender its turn in each repeat, another one first each time.

    Args:
        turns: one turn of each contender's work.
        repeats: turns of each that are timed.
        warm_up: turns of each before them that are not.

    Returns:
        The timings of each contender, in order.

    Raises:
        ValueError: a loss is not finite.
    """
    names = [*turns]
    timings: dict[str, list[Timing]] = {name: [] for name in names}
    for repeat in range(-warm_up, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            outcome = turns[name]()
            spent = Timing(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu, outcome=outcome)
            if not abs(outcome.loss) < float("inf"):
                raise ValueError(f"{name}: the loss is {outcome.loss} in repeat {repeat}; the times would mean nothing")
            if repeat >= 0:
                timings[name].append(spent)
    return timings


def ratios(rows: Sequence[Row], *, clock: str = "walls") -> dict[str, float]:
    """Say how many times our speed is that of each other contender at the same work.

    The median of the ratios of single repeats: what else the machine did meets both sides of a repeat.

    Args:
        rows: of any number of kinds of work.
        clock: `walls`, or `cpus` for processor time.

    Returns:
        Ratio by `size task batch: contender`.
    """
    ours = {row.work: row for row in rows if row.contender == OURS}
    found = {}
    for row in rows:
        if row.contender != OURS and row.work in ours:
            own = ours[row.work]
            pairs = zip(getattr(row, clock), getattr(own, clock), strict=True)
            scale = own.audio_s / row.audio_s
            found[f"{row.work}: {row.contender}"] = round(statistics.median(a / b for a, b in pairs) * scale, 3)
    return found


def table(rows: Sequence[Row], left_out: Mapping[str, str] | None = None) -> str:
    """Lay out rows as a Markdown table.

    Args:
        rows: what was measured.
        left_out: packages that are not installed, by `work: contender`, which get a line each.
    """
    lines = [
        "| work | contender | s a turn | CPU s | audio s/s | ours is times as fast | CPU | peak MiB | of the bound "
        "| parameters | loss | predictions |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    by_wall, by_cpu = ratios(rows), ratios(rows, clock="cpus")
    for row in rows:
        key = f"{row.work}: {row.contender}"
        cells = [
            row.work,
            row.contender,
            f"{row.wall_s:.4g}",
            f"{row.cpu_s:.4g}",
            f"{row.speed:.4g}",
            f"{by_wall[key]:.2f}" if key in by_wall else "",
            f"{by_cpu[key]:.2f}" if key in by_cpu else "",
            "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            "" if row.bound_share is None else f"{row.bound_share:.0%}",
            f"{row.parameters:,}",
            f"{row.loss:.3g}",
            str(row.predicted),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for key, packages in (left_out or {}).items():
        work, _, contender = key.rpartition(": ")
        lines.append(f"| {work} | {contender} | not installed: {packages} |{' |' * 9}")
    return "\n".join(lines)


def family_of(cpuinfo: str, environ: Mapping[str, str]) -> str:
    """Name the processors that ratios may be compared among: a vendor's, with the same instructions for products.

    Args:
        cpuinfo: text of /proc/cpuinfo; empty where there is none.
        environ: of the process; variables that forbid instructions are a part of the name.

    Returns:
        Such as `intel-amx`, `amd-avx512-bf16`, `arm`, or `intel-amx, ONEDNN_MAX_CPU_ISA=AVX2`.
    """
    fields = dict(map(str.strip, line.split(":", 1)) for line in cpuinfo.splitlines() if ":" in line)
    flags = {*fields.get("flags", fields.get("Features", "")).split()}
    widest = next((name for name, needed in INSTRUCTIONS.items() if needed <= flags), platform.machine() or "unknown")
    vendor = VENDORS.get(fields.get("vendor_id", ""), "x86")
    name = f"{vendor}-{widest}" if "avx2" in flags else widest
    return ", ".join([name, *(f"{each}={environ[each]}" for each in RESTRICTIONS if environ.get(each))])


def about(
    seed: int, packages: Sequence[str] = ("torch", "transformers", "fairseq2", "torchaudio")
) -> dict[str, object]:
    """Describe machine, versions, commit, date and command of a measurement."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "commit": _commit(),
        "machine": _machine(),
        "family": family_of(_cpuinfo(), os.environ),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def write_report(path: Path, facts: Mapping[str, object], rows: Sequence[Row], **more: object) -> None:
    """Write everything as JSON."""
    report = {
        **facts,
        "ratios": ratios(rows),
        "cpu_ratios": ratios(rows, clock="cpus"),
        "rows": [{**dataclasses.asdict(row), "audio_s_per_s": row.speed} for row in rows],
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def memory_kib(name: str) -> int:
    """Return what of this process is in memory (VmRSS), or was at most (VmHWM; ru_maxrss counts the parent's too)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(fields[name].split()[0])


def _commit() -> str:
    """Return the commit of this checkout, with `+` where the package's sources differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        except OSError:  # no git there
            return ""

    changed = git("status", "--porcelain", "--", "speechssl", "recipes")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _machine() -> str:
    """Name the processor and the number of cores."""
    models = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
