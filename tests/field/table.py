"""What becomes of every file of the corpus: listed, checked, cut, read whole and in parts, beside a second decoder.

`python -m tests.field.table [TABLE.md]` makes the files (`tests/field/make.py`), and writes the table.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechssl.audio.ffmpeg import ffmpeg_program
from speechssl.audio.reading import AudioConfig
from speechssl.corpus.building import Built, build
from speechssl.corpus.check.checking import Report, check_manifests
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.corpus.segment import segment_manifest
from speechssl.corpus.spans import SegmentConfig
from speechssl.data.dataset import read_utterance
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ManifestError, SpeechSSLError
from tests.field.make import RATE, Case, click, ffmpeg, write

__all__ = ["Row", "judge", "main"]

ANY = AudioConfig(min_sample_rate=1)


@dataclass
class Row:
    """What was seen of one file."""

    case: Case
    listed: int | None = None  # samples, of its own rate
    other: dict[str, int | None] = field(default_factory=dict)  # samples that other decoders give, of its own rate
    late: dict[str, int] = field(default_factory=dict)  # samples at 16 kHz that a click is off, at most
    said: str = ""  # the error, or what was passed over
    faults: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Return what the last column says."""
        if self.faults:
            return "WRONG: " + "; ".join(self.faults)
        return "passed over" if self.case.passed_over else "refused" if self.case.refused else "ok"


def judge(folder: Path, cases: Sequence[Case]) -> list[Row]:
    """Run all files through the package."""
    built = build([str(folder)], skip_bad=True)
    write_manifest(folder / "all.tsv", built.manifest.utterances)
    manifest = read_manifest(folder / "all.tsv")
    report = check_manifests([manifest], ["all"], CheckConfig(min_sample_rate=1), jobs=1)
    return [_row(case, folder, built, manifest, report) for case in cases]


def _row(case: Case, folder: Path, built: Built, manifest: Manifest, report: Report) -> Row:
    row = Row(case)
    found = [each for each in manifest.utterances if each.path == case.name]
    errors = [str(each) for each in built.errors if str(each).startswith(f"{folder / case.name}: ")]
    row.said = errors[0].removeprefix(f"{folder / case.name}: ") if errors else ""
    if case.passed_over:
        if found or errors:
            row.faults.append("not passed over")
        return row
    if case.refused:
        if found:
            row.listed = found[0].num_samples
            row.faults.append("listed")
        elif not errors or not re.search(case.refused, errors[0]):
            row.faults.append(f"expected {case.refused!r}")
        return row
    if not found:
        row.faults.append("not listed")
        return row
    utterance = found[0]
    row.listed = utterance.num_samples
    _second_decoders(row, folder / case.name)
    if (utterance.sample_rate, utterance.channels) != (case.rate, case.channels):
        row.faults.append(f"{utterance.sample_rate} Hz, {utterance.channels} channels")
    _check_length(row)
    try:
        _read(row, manifest, utterance)
    except SpeechSSLError as error:
        row.faults.append(str(error).removeprefix(f"{folder}/"))
    names = {"unreadable", "crashed", "truncated", "damaged", "header", "not_finite", "silent"}
    names -= {"damaged"} if case.is_damaged else set()
    row.faults += [
        f"check: {each.message}" for each in report.findings if each.id == utterance.id and each.name in names
    ]
    return row


def _check_length(row: Row) -> None:
    case, true = row.case, round(row.case.seconds * row.case.rate)
    others = [count for count in row.other.values() if count is not None]
    if case.slack is None:
        nearest = min((abs(row.listed - count) for count in others), default=0)  # type: ignore[operator]
        off = abs(row.listed - true)  # type: ignore[operator]
        if off > 0.2 * case.rate or min(nearest, off) > 2_400:
            row.faults.append(f"listed {row.listed}, of {true}")
    elif not 0 <= row.listed - true <= case.slack and row.listed not in others:  # type: ignore[operator]
        row.faults.append(f"listed {row.listed}, of {true}")


def _read(row: Row, manifest: Manifest, utterance: Utterance) -> None:
    """Read whole, three parts, one sample, and the parts that `segment` makes."""
    whole = read_utterance(manifest, utterance, ANY).numpy()
    if len(whole) != utterance.num_samples_16k:
        row.faults.append(f"read {len(whole)} of {utterance.num_samples_16k}")
    row.late["ours"] = _late(whole, row.case.clicks_s)
    if row.late["ours"] > row.case.late and abs(row.late["ours"] - row.late.get("ffmpeg", -99)) > 2:
        row.faults.append(f"click off by {row.late['ours']}")
    middle = len(whole) // 2
    for start, count in ((middle, 4_000), (len(whole) - 777, 777), (middle + 1, 1), (0, 1)):
        part = read_utterance(manifest, utterance, ANY, start=start, num_samples=count).numpy()
        if len(part) != count or not np.allclose(part, whole[start : start + count], atol=2e-3):
            off = np.abs(part - whole[start : start + len(part)]).max(initial=0)
            row.faults.append(f"part at {start}: {len(part)} of {count}, off by {off:.2g}")
    config = SegmentConfig(min_s=0.2, max_s=1.5, pause_s=0.1, min_pause_s=0.05, pad_s=0.05, vad="energy")
    try:
        cut = segment_manifest(replace(manifest, utterances=(utterance,)), config).manifest.utterances
    except ManifestError:  # clicks alone are hardly speech
        cut = ()
    for each in cut:
        part = read_utterance(manifest, each, ANY).numpy()
        start = each.start * RATE // each.sample_rate
        edge = 400  # samples that the resampler's window lacks at a cut
        same = part[edge:-edge], whole[start + edge : start + len(part) - edge]
        if each.sample_rate == RATE and not np.allclose(*same, atol=2e-3):
            row.faults.append(f"segment at {each.start} differs")


def _late(waveform: NDArray[np.float32], clicks_s: Sequence[float]) -> int:
    """Return how many samples at 16 kHz the clicks lie from their places, at most."""
    pulse, worst = click(RATE), 0
    for second in clicks_s:
        start = round(second * RATE) - 3_000
        around = waveform[max(0, start) : start + 6_000]
        if len(around) <= len(pulse):
            return 3_000
        best = int(np.abs(np.correlate(around, pulse, "valid")).argmax()) + len(pulse) // 2
        worst = max(worst, abs(best + max(0, start) - round(second * RATE)))
    return worst


def _second_decoders(row: Row, path: Path) -> None:
    try:
        row.other["soundfile"] = len(soundfile.read(str(path))[0])
    except (soundfile.LibsndfileError, ValueError, MemoryError):
        row.other["soundfile"] = None
    for rate in (None, RATE):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "x.wav")
            command = [ffmpeg(), "-nostdin", "-v", "error", "-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32le"]
            command += ["-ar", str(rate), "-ac", "1"] if rate else []
            done = subprocess.run([*command, str(out)], capture_output=True, check=False)
            samples = soundfile.read(str(out))[0] if done.returncode == 0 else None
        if rate is None:
            row.other["ffmpeg"] = None if samples is None else len(samples)
        elif samples is not None:
            row.late["ffmpeg"] = _late(samples, row.case.clicks_s)


def versions() -> list[str]:
    """Return what decoded and encoded."""
    said = subprocess.run([ffmpeg(), "-version"], capture_output=True, text=True, check=True).stdout
    return [f"libsndfile {soundfile.__libsndfile_version__}", " ".join(said.split()[:3:2])]


def main(out: Path | None) -> list[Row]:
    """Make, judge, and write the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written, failed = write(folder)
        rows = judge(folder, written)
    wrong = [row for row in rows if row.faults]
    lines = [
        "# Formats in the field",
        "",
        "Made by `python -m tests.field.table tests/field/TABLE.md` from what `tests/field/make.py` writes: 2.5 s each",
        f"with clicks at 0.5, 1.25 and 2.0 s. {', '.join(versions())}. Lengths are in samples",
        "of the file's own rate; a click's error is the largest of three, in samples at 16 kHz, as large in a second",
        "one where no header tells the codec's delay. An empty cell: that decoder does not read the file.",
        "",
        f"{len(rows)} files: {sum(row.verdict == 'ok' for row in rows)} read as they should be, "
        f"{sum(row.verdict == 'refused' for row in rows)} bad or unreadable ones refused with the right reason, "
        f"{sum(row.verdict == 'passed over' for row in rows)} passed over, {len(wrong)} wrong.",
        "",
        "| file | by | Hz | listed | soundfile | ffmpeg | click, ours | click, ffmpeg | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row.listed,
            row.other.get("soundfile"),
            row.other.get("ffmpeg"),
            *map(row.late.get, ("ours", "ffmpeg")),
        )
        middle = " | ".join("" if cell is None else str(cell) for cell in cells)
        verdict = row.verdict + (f": {row.said[:110]}" if row.said else "")
        verdict = re.sub(r"/\S*/(?=\w)", "", verdict).replace("|", "/").replace("\n", " ")
        lines.append(f"| {row.case.name} | {row.case.by} | {row.case.rate} | {middle} | {verdict} |")
    lines += ["", "Not written: " + "; ".join(f"{each.splitlines()[0].split(': ')[0]}" for each in failed) + "."]
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    assert ffmpeg_program() is not None
    result = main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    for each in result:
        if each.faults:
            print(f"{each.case.name}: {each.verdict} {each.said[:160]}")
    print(f"{len(result)} files")
