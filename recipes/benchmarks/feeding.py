"""How much audio loaders deliver in a second of processor time, and of wall time. Prints one table, writes JSON.

    feeding.py --manifest CORPUS/pool.tsv ... [--flac] [--hours 10] [--repeats 5] [--out FILE]

Each loader stays alive; in each repeat all take turns, another one first each time, and deliver batches of about
`--seconds` until `--hours` of speech have come, padding not counted. Processor time is that of the process and all its
children, until they have read ahead again: so a turn costs what it delivers. See README.md beside it.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import soundfile
import torch
from allocator import set_allocator
from measuring import about
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import Loader, load_batches
from speechssl.data.manifest import read_manifest

SETTLING_S = 0.7  # without work, after which a loader has read ahead again
IDLE = 0.05  # of a core: what counts as without work

Feed = Iterator[float]  # seconds of speech in each batch
Collate = Callable[[list[Any]], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What is fed: 16 kHz mono files of one manifest."""

    manifest: Path
    seconds: float  # in a batch
    workers: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Fed:
    """One turn of one loader."""

    loader: str
    audio_s: float
    cpu_s: float
    wall_s: float


def ours(speech: Speech, loader: Loader) -> Feed:
    """Feed as training does."""
    manifest = read_manifest(speech.manifest)
    dataset = SpeechDataset(manifest, AudioConfig(), hop=320, window=400)
    config = BatchConfig(seconds=speech.seconds, max_crop_s=None, min_s=0.1)
    sampler = BatchSampler(manifest.utterances, config, seed=speech.seed)
    batches = load_batches(dataset, sampler, epoch=0, position=0, workers=speech.workers, loader=loader)
    for _, _, batch in batches:
        yield batch.duration_s


def fairseq2_by_hand(speech: Speech) -> Feed:
    """Feed with a pipeline as fairseq2's recipes write it: mapped files, decoder, buckets by length, padding."""
    from fairseq2.data import Collater, create_bucket_sizes
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import FileMapper, read_sequence

    manifest = read_manifest(speech.manifest)
    rows = [{"audio": str(manifest.audio_path(row)), "size": row.num_samples} for row in manifest.utterances]
    longest = max(row.num_samples for row in manifest.utterances)
    per_batch = max(1, int(speech.seconds * SAMPLE_RATE) // longest)
    sizes = create_bucket_sizes(
        max_num_elements=per_batch * longest,
        max_seq_len=longest,
        min_seq_len=1,
        num_seqs_multiple_of=1,
    )
    pipeline = (
        read_sequence(rows)
        .repeat()
        .shuffle(2000, seed=speech.seed)
        .bucket_by_length(sizes, selector="size")
        .map(FileMapper(cached_fd_count=100), selector="[*].audio", num_parallel_calls=speech.workers)
        .map(AudioDecoder(dtype=torch.float32), selector="[*].audio.data", num_parallel_calls=speech.workers)
        .map(Collater(pad_value=0), num_parallel_calls=speech.workers)
        .prefetch(4)
        .and_return()
    )
    for batch in pipeline:
        waveform = batch["audio"]["data"]["waveform"]
        lengths = waveform["seq_lens"] if isinstance(waveform, dict) else [waveform.shape[1]] * len(waveform)
        yield float(sum(lengths)) / SAMPLE_RATE


def lhotse(speech: Speech) -> Feed:
    """Feed with lhotse's sampler and dataset."""
    from lhotse import CutSet, MonoCut, Recording
    from lhotse.dataset import DynamicBucketingSampler, UnsupervisedWaveformDataset

    manifest = read_manifest(speech.manifest)
    cuts = []
    for row in manifest.utterances:
        recording = Recording.from_file(manifest.audio_path(row), recording_id=row.id)
        cuts.append(MonoCut(id=row.id, start=0, duration=recording.duration, channel=0, recording=recording))
    sampler = DynamicBucketingSampler(
        CutSet.from_cuts(cuts).repeat(),
        max_duration=speech.seconds,
        shuffle=True,
        num_buckets=10,
        seed=speech.seed,
        buffer_size=2000,
    )
    loader = DataLoader(
        UnsupervisedWaveformDataset(), sampler=sampler, batch_size=None, num_workers=speech.workers, prefetch_factor=4
    )
    for batch in loader:
        yield float(batch["audio_lens"].sum()) / SAMPLE_RATE


def hugging_face(speech: Speech) -> Feed:
    """Feed with datasets: shuffled, a fixed number to a batch, padded in the collate function.

    Its `Audio` decodes with torchcodec alone, which needs ffmpeg's libraries; so soundfile decodes in the collate.
    """
    from datasets import Audio, Dataset

    manifest = read_manifest(speech.manifest)
    paths = [str(manifest.audio_path(row)) for row in manifest.utterances]
    table = Dataset.from_dict({"audio": paths}).cast_column("audio", Audio(sampling_rate=SAMPLE_RATE, decode=False))
    yield from _from_torch(
        table, lambda items: _padded([item["audio"]["path"] for item in items]), _number(speech), speech
    )


def plain(speech: Speech) -> Feed:
    """Feed with torch and soundfile: shuffled, a fixed number to a batch, padded in the collate function."""
    manifest = read_manifest(speech.manifest)
    paths = [str(manifest.audio_path(row)) for row in manifest.utterances]
    yield from _from_torch(paths, _padded, _number(speech), speech)


def _number(speech: Speech) -> int:
    """Return how many utterances of average length fill a batch."""
    manifest = read_manifest(speech.manifest)
    return max(1, round(speech.seconds * len(manifest.utterances) / manifest.duration_s))


def _from_torch(items: object, collate: Collate, number: int, speech: Speech) -> Feed:
    generator = torch.Generator().manual_seed(speech.seed)
    while True:
        loader: DataLoader[Any] = DataLoader(
            items,  # type: ignore[arg-type]
            batch_size=number,
            shuffle=True,
            num_workers=speech.workers,
            collate_fn=collate,
            prefetch_factor=4,
            persistent_workers=True,
            generator=generator,
        )
        while True:
            for _, lengths in loader:
                yield float(lengths.sum()) / SAMPLE_RATE


def _padded(paths: Sequence[str]) -> tuple[Tensor, Tensor]:
    waveforms = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    return pad_sequence(waveforms, batch_first=True), torch.tensor([len(waveform) for waveform in waveforms])


LOADERS: dict[str, Callable[[Speech], Feed]] = {
    "speechssl torch": lambda speech: ours(speech, "torch"),
    "speechssl fairseq2": lambda speech: ours(speech, "fairseq2"),
    "fairseq2 by hand": fairseq2_by_hand,
    "lhotse": lhotse,
    "datasets": hugging_face,
    "plain": plain,
}


def processor_s() -> float:
    """Return the processor time of this process and its living descendants, in seconds (Linux)."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
        ticks[int(folder.name)] = int(fields[11]) + int(fields[12])
    waiting, total = [os.getpid()], 0
    while waiting:
        process = waiting.pop()
        total += ticks.get(process, 0)
        waiting += children.get(process, [])
    return total / os.sysconf("SC_CLK_TCK")


def turn(name: str, feed: Feed, audio_s: float) -> Fed:
    """Take batches until so much speech has come, and let the loader read ahead again."""
    set_allocator(keeps=name.startswith("speechssl"))  # as our command line does
    cpu, wall, done = processor_s(), time.perf_counter(), 0.0
    while done < audio_s:
        done += next(feed)
    spent = time.perf_counter() - wall
    while _works():
        pass
    return Fed(loader=name, audio_s=done, cpu_s=processor_s() - cpu, wall_s=spent)


def _works() -> bool:
    """Wait a little, and tell whether the loader still read ahead."""
    before = processor_s()
    time.sleep(SETTLING_S)
    return processor_s() - before > IDLE * max(SETTLING_S, 0.2)


def measure(speech: Speech, names: Sequence[str], *, hours: float, repeats: int) -> list[Fed]:
    """Give each loader its turn in each repeat, after one that does not count."""
    feeds = {name: LOADERS[name](speech) for name in names}
    found = []
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in [*names[first:], *names[:first]]:
            fed = turn(name, feeds[name], 3600 * hours * (1 if repeat >= 0 else 0.1))
            found += [fed] if repeat >= 0 else []
    return found


def summary(fed: Sequence[Fed]) -> dict[str, dict[str, float]]:
    """Return medians by loader, and how many times the best of the others' speed ours is, repeat by repeat."""
    names = [*dict.fromkeys(turn.loader for turn in fed)]
    per_cpu = {n: [t.audio_s / t.cpu_s for t in fed if t.loader == n] for n in names}
    per_wall = {n: [t.audio_s / t.wall_s for t in fed if t.loader == n] for n in names}
    others = [n for n in names if not n.startswith("speechssl")]
    rows = {}
    for name in names:
        rows[name] = {
            "audio_s_per_cpu_s": statistics.median(per_cpu[name]),
            "audio_s_per_s": statistics.median(per_wall[name]),
        }
        if others and name not in others:
            for key, speeds in (("cpu", per_cpu), ("wall", per_wall)):
                best = [max(repeat) for repeat in zip(*(speeds[n] for n in others), strict=True)]
                rows[name][f"{key}_of_best_other"] = statistics.median(
                    own / other for own, other in zip(speeds[name], best, strict=True)
                )
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """Lay out the summary as a Markdown table."""
    lines = [
        "| loader | audio s per CPU s | audio s per s | of the best other: CPU | wall |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = [f"{row[key]:.2f}" if key in row else "" for key in ("cpu_of_best_other", "wall_of_best_other")]
        lines.append(f"| {name} | {row['audio_s_per_cpu_s']:.0f} | {row['audio_s_per_s']:.0f} | {' | '.join(shares)} |")
    return "\n".join(lines)


def gather(manifests: Sequence[Path], folder: Path, *, as_flac: bool) -> Path:
    """Write one manifest of all utterances of 1 to 30 s; as flac, with copies of the audio."""
    lines = ["id\tpath\tsamples\trate\tchannels"]
    for number, path in enumerate(manifests):
        manifest = read_manifest(path)
        for row in manifest.utterances:
            source = manifest.audio_path(row).resolve()
            if not 1 <= row.duration_s <= 30 or (row.sample_rate, row.channels) != (SAMPLE_RATE, 1):
                continue
            if as_flac:
                target = folder / f"{number}-{row.id}.flac"
                soundfile.write(str(target), soundfile.read(str(source), dtype="int16")[0], SAMPLE_RATE)
                source = target
            lines.append(f"{number}-{row.id}\t{source}\t{row.num_samples}\t{SAMPLE_RATE}\t1")
    (folder / "all.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "all.tsv"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="of real speech, 16 kHz")
    parser.add_argument("--flac", action="store_true", help="copy the audio to flac first")
    parser.add_argument("--hours", type=float, default=10.0, help="delivered in a turn")
    parser.add_argument("--seconds", type=float, default=60.0, help="in a batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=LOADERS, default=[*LOADERS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        listed = gather(options.manifest, Path(folder), as_flac=options.flac)
        manifest = read_manifest(listed)
        print(f"{len(manifest.utterances)} utterances, {manifest.duration_s / 3600:.2f} h")
        speech = Speech(manifest=listed, seconds=options.seconds, workers=options.workers, seed=options.seed)
        fed = measure(speech, options.only, hours=options.hours, repeats=options.repeats)
    rows = summary(fed)
    print(table(rows))
    if options.out:
        packages = ("torch", "soundfile", "fairseq2", "lhotse", "datasets")
        facts = about(options.seed, packages) | {"form": "flac" if options.flac else "wav", "loaders": rows}
        report = facts | {"turns": [asdict(turn) for turn in fed]}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
