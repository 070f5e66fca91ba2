"""The tables of recipes/SCALING.md, worked out from the package's own counts and the assumptions below.

    python recipes/scaling/tables.py            print them
    python recipes/scaling/tables.py --write    put them into SCALING.md, each in its place

Nothing here was run on an accelerator. Measured are figures of one CPU; the rest are spec sheets, published figures and
assumptions, named one by one.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from speechssl.plan.costs import DEVICES, SIZES, ModelSize, memory_gb, pretraining_flops

__all__ = ["Step", "place", "step_of", "tables"]

PAGE = Path(__file__).parents[1] / "SCALING.md"

# ---- measured on this project's CPU (recipes/benchmarks/README.md, and SCALING.md says how) ----
BASE_STEP_S, BASE_STEP_AUDIO_S = 4.74, 20.0  # wav2vec 2.0 BASE on two cores, float32, crops of 5 s
FLAC_READ, PCM_READ = 2450.0, 7000.0  # audio-seconds that one core reads in a second: FLAC, 16-bit WAV
FLAC_KB = 17.3  # of a second of read speech at 16 kHz
OPERATORS = {"base": 1400, "large": 1700}  # that a micro-batch starts, forward and backward, views left out
PLAN_S = 2.2 / 281_241  # seconds of one core to plan an epoch, an utterance

# ---- published ----
UTTERANCE_S = 12.3  # LibriSpeech: 960.9 h in 281,241 files
FAILURES = 419 / (54 * 16_384)  # unexpected ones a device and day: Llama 3, arXiv:2407.21783, section 3.3.4
SEEN_H = {"base": 640_000, "large": 675_000}  # wav2vec 2.0 on LibriSpeech, arXiv:2006.11477
GLOBAL_BATCH_S = {"base": 5600.0, "large": 9600.0}  # the same: 64 x 87.5 s, 128 x 75 s

# ---- assumed ----
DEVICE = DEVICES["h100"]
UTILISATIONS = (0.10, 0.30)  # of the peak rate: what plan assumes, and a well-tuned engine
NODE = 8  # devices
NVLINK_GB_S = 300.0  # a device and direction, in a ring within a node; the spec sheet says 450
NETWORKS_GB_S = {"400 Gb/s a device": 320.0, "100 Gb/s a node": 10.0}  # a node and direction, four fifths of it
OPERATOR_S = 10e-6  # of the host, to start one
HOP_S = 5e-6  # of a message from one device to the next
BUCKET_MB = 25.0  # gradients exchanged together (DDP's default)
WRITE_GB_S = 1.0  # one process to storage
START_S = 120.0  # from a death to the first new step: noticing, processes, imports, network, checkpoint
COUNTS = (8, 64, 1024)
CHECKPOINT_STEPS = 1000  # train.save_every


@dataclass(frozen=True, kw_only=True)
class Step:
    """One update on `devices` devices, DDP."""

    audio_s: float  # of one device
    compute_s: float
    exchange_s: float
    shown_s: float  # of the exchange, not hidden behind the backward pass
    bytes_sent: float  # by one device

    @property
    def total_s(self) -> float:
        """Seconds from one update to the next."""
        return self.compute_s + self.shown_s

    @property
    def efficiency(self) -> float:
        """Share of the time that is computing."""
        return self.compute_s / self.total_s


def step_of(name: str, devices: int, utilisation: float, network: str, *, may_grow: bool = True) -> Step:
    """Work out an update: two thirds of it are the backward pass, behind which all but the last bucket can hide.

    Args:
        name: of the size.
        devices: how many.
        utilisation: of the peak rate.
        network: between nodes.
        may_grow: the batch grows where a device would have less than one crop.
    """
    size = SIZES[name]
    share = GLOBAL_BATCH_S[name] / devices
    audio_s = max(share, size.crop_s) if may_grow else share
    products = audio_s * size.flops("wav2vec2") / (utilisation * DEVICE.peak_tflops * 1e12)
    compute = max(products, OPERATORS[name] * OPERATOR_S)  # a small step waits for the host
    gradients = 4.0 * size.parameters("wav2vec2")
    sent = 2 * (devices - 1) / devices * gradients  # ring all-reduce
    # rings enter and leave each node once for each of its links: the node's links together carry what a device sends
    rate = (NVLINK_GB_S if devices <= NODE else min(NVLINK_GB_S, NETWORKS_GB_S[network])) * 1e9
    buckets = max(1, math.ceil(gradients / (BUCKET_MB * 1e6)))
    latency = 2 * math.ceil(math.log2(devices)) * HOP_S  # trees, as NCCL chooses for many devices
    exchange = sent / rate + buckets * latency
    last = exchange / buckets
    shown = max(exchange - compute * 2 / 3, last)
    return Step(audio_s=audio_s, compute_s=compute, exchange_s=exchange, shown_s=shown, bytes_sent=sent)


def models() -> Iterator[str]:
    """One machine: what a size asks for."""
    yield "| | small | BASE | LARGE |"
    yield "|---|---|---|---|"
    sizes = [SIZES[name] for name in ("small", "base", "large")]
    rows: list[tuple[str, Callable[[ModelSize], str]]] = [
        ("parameters, M", lambda s: f"{s.parameters('wav2vec2') / 1e6:.1f}"),
        ("GFLOP a second of audio", lambda s: f"{s.flops('wav2vec2') / 1e9:.3g}"),
        (
            "audio-seconds a second, one core (measured; LARGE by operations)",
            lambda s: f"{s.cpu_audio_s('wav2vec2'):.3g}",
        ),
        ("weights, gradients, moments, GB", lambda s: f"{16 * s.parameters('wav2vec2') / 1e9:.2f}"),
        ("kept for the backward pass, MB a second of audio, bfloat16", lambda s: f"{s.kept_mb['bfloat16']:.1f}"),
        (
            "memory with 87.5 s a device, bfloat16, estimated, GB",
            lambda s: f"{memory_gb(s, 'wav2vec2', 87.5, bfloat16=True, on_cpu=False):.1f}",
        ),
    ]
    for title, value in rows:
        yield "| " + " | ".join([title, *map(value, sizes)]) + " |"
    base = SIZES["base"]
    rate = BASE_STEP_AUDIO_S / BASE_STEP_S  # crops of 5 s ask for a little less
    measured = (
        pretraining_flops(base.encoder, base.planned("wav2vec2").config, clusters=(), samples=80_000) / 5 * rate / 1e9
    )
    seconds = SEEN_H["base"] * 3600
    alone = seconds * base.flops("wav2vec2") / (UTILISATIONS[0] * DEVICE.peak_tflops * 1e12)
    yield ""
    yield (
        f"BASE's {SEEN_H['base']:,} h would take these two cores {seconds / rate / 86_400:,.0f} days ({measured:.0f} "
        f"GFLOP/s, measured), one H100 at {UTILISATIONS[0]:.0%} of its peak {alone / 86_400:.0f} (assumed)."
    )


def steps() -> Iterator[str]:
    """Compute and exchange, by number of devices."""
    yield (
        "| size | devices | of peak | audio an update: device, all | compute, ms | exchange, ms: 400 Gb/s a device, "
        "100 Gb/s a node | time computing | days for the paper's hours |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name in ("base", "large"):
        for devices in COUNTS:
            for utilisation in UTILISATIONS:
                found = [step_of(name, devices, utilisation, network) for network in NETWORKS_GB_S]
                first = found[0]
                total = first.audio_s * devices
                days = [SEEN_H[name] * 3600 / total * step.total_s / 86_400 for step in found]
                yield (
                    f"| {name.upper()} | {devices} | {utilisation:.0%} | {first.audio_s:.4g} s, {total:,.0f} s | "
                    f"{first.compute_s * 1e3:.0f} | {', '.join(f'{s.exchange_s * 1e3:.0f}' for s in found)} | "
                    f"{', '.join(f'{s.efficiency:.0%}' for s in found)} | {', '.join(f'{d:.3g}' for d in days)} |"
                )


def exchanges() -> Iterator[str]:
    """Bytes that a device sends in an update."""
    yield (
        "| size | devices | DDP: float32 gradients reduced, GB "
        "| FSDP2: weights gathered twice in bfloat16, gradients scattered, GB |"
    )
    yield "|---|---|---|---|"
    for name in ("base", "large"):
        parameters = SIZES[name].parameters("wav2vec2")
        for devices in COUNTS:
            part = (devices - 1) / devices
            ddp, fsdp = part * 8 * parameters / 1e9, part * (2 + 2 + 4) * parameters / 1e9
            yield f"| {name.upper()} | {devices} | {ddp:.2f} | {fsdp:.2f} |"


def reading() -> Iterator[str]:
    """What storage and loaders have to give."""
    yield "| size | devices | audio-hours a second | FLAC, MB/s | PCM, MB/s | files a second | cores a device, FLAC |"
    yield "|---|---|---|---|---|---|---|"
    for name in ("base", "large"):
        for devices in COUNTS:
            step = step_of(name, devices, UTILISATIONS[1], "400 Gb/s a device")
            rate = step.audio_s * devices / step.total_s  # audio-seconds a second
            yield (
                f"| {name.upper()} | {devices} | {rate / 3600:.3g} | {rate * FLAC_KB / 1e3:,.0f} | "
                f"{rate * 32 / 1e3:,.0f} | {rate / UTTERANCE_S:,.0f} | {rate / devices / FLAC_READ:.1f} |"
            )


def planning() -> Iterator[str]:
    """How long each rank plans an epoch."""
    yield "| audio | utterances | planning an epoch, s, on every rank |"
    yield "|---|---|---|"
    for title, hours in (("LibriSpeech", 960.9), ("Libri-Light", 60_000), ("a million hours", 1_000_000)):
        count = hours * 3600 / UTTERANCE_S
        yield f"| {title} | {count:,.0f} | {count * PLAN_S:,.0f} |"


def failures() -> Iterator[str]:
    """Checkpoints and what failures cost."""
    yield (
        "| size | devices | checkpoint, GB | written by one, s; by all, s | a failure every, h | best interval, min | "
        f"lost at it | lost at {CHECKPOINT_STEPS} steps | failures in the run |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in ("base", "large"):
        for devices in COUNTS:
            step = step_of(name, devices, UTILISATIONS[0], "400 Gb/s a device")
            stored = 12 * SIZES[name].parameters("wav2vec2") / 1e9
            alone, shared = stored / WRITE_GB_S, stored / WRITE_GB_S / devices
            between = 86_400 / (devices * FAILURES)
            best = math.sqrt(2 * alone * between)  # Young; Daly's correction is below a percent here
            ours = CHECKPOINT_STEPS * step.total_s
            run_s = SEEN_H[name] * 3600 / (step.audio_s * devices) * step.total_s
            yield (
                f"| {name.upper()} | {devices} | {stored:.2f} | {alone:.1f}; {shared:.2g} | {between / 3600:,.0f} | "
                f"{best / 60:.0f} | {lost(best, alone, between):.2%} | {lost(ours, alone, between):.2%} | "
                f"{run_s / between:.2g} |"
            )


def lost(interval_s: float, checkpoint_s: float, between_s: float) -> float:
    """Return the share of time lost to writing, to steps done twice, and to starting again."""
    return checkpoint_s / interval_s + (interval_s / 2 + START_S) / between_s


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "models": models,
    "steps": steps,
    "exchanges": exchanges,
    "reading": reading,
    "planning": planning,
    "failures": failures,
}


def tables() -> dict[str, str]:
    """Return every table by its name on the page."""
    return {name: "\n".join(lines()) for name, lines in TABLES.items()}


def place(page: str, found: dict[str, str]) -> str:
    """Return the page with each table between `<!-- name -->` and `<!-- end -->`."""
    for name, table in found.items():
        page, count = re.subn(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, t=table: m[1] + t + m[2], page, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{count} places for the table {name}, expected one")
    return page


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into SCALING.md")
    if parser.parse_args().write:
        PAGE.write_text(place(PAGE.read_text(encoding="utf-8"), tables()), encoding="utf-8")
    else:
        print(*tables().values(), sep="\n\n")


if __name__ == "__main__":
    main()
