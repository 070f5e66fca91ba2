"""How soon a folder of audio is a manifest, and how soon everything it lists is decoded and checked. Prints two tables.

    data.py --manifest CORPUS/pool.tsv ... [--files 20000] [--hours 1] [--repeats 5] [--only build] [--out FILE]
    data.py --manifest CORPUS/pool.tsv --short --out FILE

Real speech, as flac, written once to a temporary folder: for `build` cut to pieces of 1 s, for `check` as long as it
is. Contenders take turns, another one first each time. Processor time is that of the process and of its children.
See README.md beside it.
"""

import argparse
import contextlib
import glob
import importlib.util
import io
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile
from measuring import about

from speechssl.corpus.building import build_manifest
from speechssl.corpus.check.checking import check_manifests
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.data.manifest import read_manifest, write_manifest

BUILD, CHECK = "data build flac", "data check flac"
PEOPLE, BARE, OURS, ALONE, BOUND = (
    "glob + soundfile.info",
    "one process decodes",
    "speechssl",
    "speechssl -j 1",
    "bound",
)
TARGETS = {f"{BUILD}: {PEOPLE}": 3.0, f"{CHECK}: {BARE}": 1.8, f"{CHECK}: {ALONE}": 1.8}
NEEDED = {"lhotse": ("lhotse",), "datasets": ("datasets", "torchcodec")}  # without torchcodec it makes no audio folder

Turn = Callable[[], int]  # one turn's work; returns the files done


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One turn of one contender."""

    contender: str
    files: int
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one contender needed, medians over its turns."""

    work: str
    contender: str
    files: int
    audio_s: float
    wall_s: float
    cpu_s: float
    times_wall: float | None  # how many times as long as ours, median over the repeats
    times_cpu: float | None
    turns: tuple[Spent, ...]


def cut_to_seconds(manifests: Sequence[Path], out: Path, count: int) -> int:
    """Write `count` files of 1 s, in folders of 50 as corpora have them, and return how many there were to write."""
    for number, piece in zip(range(count), seconds_of_speech(manifests), strict=False):
        folder = out / f"{number // 1000:03}" / f"{number // 50 % 20:02}"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(folder / f"{folder.parent.name}-{folder.name}-{number:06}.flac"), *piece)
    return sum(1 for _ in out.glob("*/*/*.flac"))


def seconds_of_speech(manifests: Sequence[Path]) -> Iterator[tuple[object, int]]:
    """Yield samples and rate of each whole second of each file."""
    for listed in map(read_manifest, manifests):
        for row in listed.utterances:
            samples, rate = soundfile.read(str(listed.audio_path(row)), dtype="int16")
            yield from ((samples[start : start + rate], rate) for start in range(0, len(samples) - rate + 1, rate))


def copy_as_flac(manifests: Sequence[Path], out: Path, duration_s: float) -> float:
    """Write utterances, a share of each manifest, until they last `duration_s` together; return how long they do."""
    written_s = 0.0
    for listed in map(read_manifest, manifests):
        folder, limit_s = out / listed.root.name, written_s + duration_s / len(manifests)
        folder.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(listed.utterances):
            if written_s < limit_s:
                samples, rate = soundfile.read(str(listed.audio_path(row)), dtype="int16")
                soundfile.write(str(folder / f"{number:05}.flac"), samples, rate)
                written_s += row.duration_s
    return written_s


def build_ours(folder: Path, out: Path) -> int:
    """Build and write a manifest as `speechssl manifest build` does."""
    manifest, _ = build_manifest(folder)
    write_manifest(out / "ours.tsv", manifest.utterances)
    return len(manifest.utterances)


def build_as_people_do(folder: Path, out: Path) -> int:
    """Do what fairseq's script for wav2vec manifests does: find files by pattern, ask soundfile for their lengths."""
    root = os.path.realpath(folder)
    lines = [root]
    for name in glob.iglob(os.path.join(root, "**/*.flac"), recursive=True):  # noqa: PTH118, PTH207 - as they do
        path = os.path.realpath(name)
        lines.append(f"{os.path.relpath(path, root)}\t{soundfile.info(path).frames}")
    (out / "people.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines) - 1


def build_lhotse(folder: Path, out: Path) -> int:
    """Make lhotse's recordings of a folder, in one process, and write them as JSON lines."""
    from lhotse import RecordingSet

    recordings = RecordingSet.from_dir(folder, "**/*.flac")
    recordings.to_file(out / "lhotse.jsonl")
    return len(recordings)


def build_datasets(folder: Path, out: Path) -> int:
    """Make an audio folder of datasets: a table with the files' bytes and no lengths."""
    import datasets

    datasets.disable_progress_bars()
    with TemporaryDirectory() as cache:
        return len(datasets.load_dataset("audiofolder", data_dir=str(folder), split="train", cache_dir=cache))


def touch(folder: Path, out: Path) -> int:
    """Do what any reader of headers has to: stat, open and read 4 KiB of every file."""
    count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = f"{parent}/{name}"
            os.stat(path)  # noqa: PTH116 - the call itself is what is measured
            descriptor = os.open(path, os.O_RDONLY)
            os.read(descriptor, 4096)
            os.close(descriptor)
            count += 1
    return count


def check_ours(manifest: Path, jobs: int) -> int:
    """Check with a number of processes that decode."""
    listed = read_manifest(manifest)
    return len(check_manifests([listed], ["m"], CheckConfig(), jobs=jobs).rows)


def decode_bare(manifest: Path) -> int:
    """Decode everything in this process, and look at nothing."""
    listed = read_manifest(manifest)
    for row in listed.utterances:
        soundfile.read(str(listed.audio_path(row)), dtype="float32")
    return len(listed.utterances)


def check_lhotse(manifest: Path) -> int:
    """Let lhotse load and validate every recording, in this process."""
    from lhotse import Recording
    from lhotse.qa import validate_recording

    listed = read_manifest(manifest)
    for row in listed.utterances:
        validate_recording(Recording.from_file(listed.audio_path(row)), read_data=True)
    return len(listed.utterances)


def cpu_s() -> float:
    """Return seconds of processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def take_turns(turns: Mapping[str, Turn], repeats: int) -> list[Spent]:
    """Give every contender its turn in each repeat, another one first each time, after one that does not count."""
    names, spent = [*turns], []
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), cpu_s()
            with contextlib.redirect_stderr(io.StringIO()):  # bars
                files = turns[name]()
            wall_s = time.perf_counter() - wall
            if repeat >= 0:
                spent.append(Spent(contender=name, files=files, wall_s=wall_s, cpu_s=cpu_s() - cpu))
    return spent


def summarise(work: str, spent: Sequence[Spent], audio_s: float) -> list[Line]:
    """Take medians, and medians of the ratios to ours in the same repeat."""
    turns = {
        name: [turn for turn in spent if turn.contender == name] for name in dict.fromkeys(t.contender for t in spent)
    }
    lines = []
    for name, own in turns.items():
        pairs = [] if name == OURS else [*zip(own, turns[OURS], strict=True)]
        lines.append(
            Line(
                work=work,
                contender=name,
                files=own[0].files,
                audio_s=audio_s,
                wall_s=statistics.median(turn.wall_s for turn in own),
                cpu_s=statistics.median(turn.cpu_s for turn in own),
                times_wall=statistics.median(a.wall_s / b.wall_s for a, b in pairs) if pairs else None,
                times_cpu=statistics.median(a.cpu_s / b.cpu_s for a, b in pairs) if pairs else None,
                turns=tuple(own),
            )
        )
    return lines


def table(lines: Sequence[Line]) -> str:
    """Lay out as a Markdown table."""
    rows = [
        "| work | contender | files | s | CPU s | files/s | files/CPU s | audio s/s | ours is times as fast | CPU "
        "| target |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        target = TARGETS.get(f"{line.work}: {line.contender}")
        cells = [line.work, line.contender, str(line.files), f"{line.wall_s:.3f}", f"{line.cpu_s:.3f}"]
        cells += [
            f"{line.files / line.wall_s:.0f}",
            f"{line.files / line.cpu_s:.0f}",
            f"{line.audio_s / line.wall_s:.0f}",
        ]
        cells += ["" if value is None else f"{value:.2f}" for value in (line.times_wall, line.times_cpu)]
        rows.append(f"| {' | '.join([*cells, '' if target is None else f'{target:g}'])} |")
    return "\n".join(rows)


def measure_build(manifests: Sequence[Path], folder: Path, files: int, repeats: int) -> list[Line]:
    """Compare ways to list `files` files."""
    audio = folder / "seconds"
    count = cut_to_seconds(manifests, audio, files)
    ways = {OURS: build_ours, PEOPLE: build_as_people_do, "lhotse": build_lhotse, BOUND: touch}
    ways["datasets"] = build_datasets
    turns = {name: lambda way=way: way(audio, folder) for name, way in ways.items() if is_here(name)}
    spent = take_turns(turns, repeats)
    wrong = {turn.contender: turn.files for turn in spent if turn.files != count}
    if wrong:
        raise RuntimeError(f"expected {count} files, found {wrong}; the times would mean nothing")
    return summarise(BUILD, spent, float(count))


def measure_check(manifests: Sequence[Path], folder: Path, hours: float, repeats: int) -> list[Line]:
    """Compare ways to decode and check `hours` of speech."""
    audio_s = copy_as_flac(manifests, folder / "speech", 3600 * hours)
    listed, _ = build_manifest(folder / "speech")
    path = folder / "speech" / "all.tsv"
    write_manifest(path, listed.utterances)
    turns = {
        OURS: lambda: check_ours(path, 2),
        ALONE: lambda: check_ours(path, 1),
        BARE: lambda: decode_bare(path),
        "lhotse": lambda: check_lhotse(path),
    }
    return summarise(CHECK, take_turns({name: turn for name, turn in turns.items() if is_here(name)}, repeats), audio_s)


def is_here(contender: str) -> bool:
    """Say whether what a contender needs is installed, and on standard error if it is not."""
    missing = [name for name in NEEDED.get(contender, ()) if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{contender} is left out: it needs {' and '.join(missing)}", file=sys.stderr)
    return not missing


def ratios(lines: Sequence[Line], clock: str) -> dict[str, float]:
    """Say how many times as fast ours is, by `times_wall` or `times_cpu`."""
    found = {f"{line.work}: {line.contender}": getattr(line, clock) for line in lines if line.contender != BOUND}
    return {key: round(value, 3) for key, value in found.items() if value is not None}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="of real speech")
    parser.add_argument("--files", type=int, default=20_000, help="pieces of 1 s to list")
    parser.add_argument("--hours", type=float, default=1.0, help="of speech to check")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("build", "check"))
    parser.add_argument("--short", action="store_true", help="2,000 files, 0.2 hours, 3 repeats")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    files, hours, repeats = (2_000, 0.2, 3) if options.short else (options.files, options.hours, options.repeats)
    lines: list[Line] = []
    with TemporaryDirectory() as folder:
        if options.only != "check":
            lines += measure_build(options.manifest, Path(folder), files, repeats)
        if options.only != "build":
            lines += measure_check(options.manifest, Path(folder), hours, repeats)
    print(table(lines))
    built = {line.contender: line for line in lines if line.work == BUILD}
    shares = {}
    if built:
        shares = {"wall": built[BOUND].wall_s / built[OURS].wall_s, "cpu": built[BOUND].cpu_s / built[OURS].cpu_s}
        print(f"building: {shares['wall']:.0%} of the bound by wall time, {shares['cpu']:.0%} by processor time")
    if options.out is not None:
        report = {
            **about(0, ("soundfile", "lhotse", "datasets", "torch")),
            "ratios": ratios(lines, "times_wall"),
            "cpu_ratios": ratios(lines, "times_cpu"),
            "share_of_bound": shares,
            "rows": [asdict(line) for line in lines],
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
