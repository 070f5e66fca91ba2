"""Part 4, recognition: a step of fine-tuning, features of two hours, texts of two hours; transformers beside each.

Files of noise of real lengths are read from disk by both. Times real time is seconds of audio a second, model and files
read included for transcription, not for the step. transformers has the best of some batch sizes.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from card import Part, spent, wait
from mixture import draw_lengths, list_utterances, mixed_batches
from peers import transformers_ctc, transformers_extract
from plan import FINETUNING, KINDS, OURS, PEER, heard
from recogniser import write_random
from sizes import VOCABULARY, Size
from stepping import in_16_bits, make_size

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, read_audio
from speechssl.data.batching import Batch, BatchConfig
from speechssl.data.utterances import Manifest
from speechssl.hub.saved import SavedModel
from speechssl.model.encoder import SpeechEncoder
from speechssl.parallel import Ranks
from speechssl.stages.convert import convert
from speechssl.stages.feature_source import ExtractConfig, extract, trunk
from speechssl.stages.posteriors import PosteriorConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.transcribe import transcribe
from speechssl.tasks.ctc import CTCModel
from speechssl.train.checkpoint import TrainState
from speechssl.train.learner import Learner, TrainConfig
from speechssl.train.optim import build_optimizer

BATCH_SIZES = (32, 8)  # of transformers' pipeline
LAYER = 9


def finetuning(part: Part, size: Size) -> None:
    """Time steps of CTC with the extractor frozen."""
    small = part.is_rehearsal
    config = BatchConfig(seconds=1.2 if small else 400.0, max_crop_s=None, min_s=0.05)
    scale, number = (0.03, 1) if small else (1.0, 3)
    drawn = {"stack": size.encoder.conv, "clusters": (2,), "vocabulary": VOCABULARY, "seed": part.seed}
    batches = mixed_batches(number, config, scale=scale, **drawn)
    for name, build in ((OURS, our_step), (PEER, peer_step)):
        with part.surviving(FINETUNING, name):
            torch.manual_seed(part.seed)
            step, turns = build(part, size), itertools.cycle(batches)
            seconds = spent(
                lambda step=step, turns=turns: step(next(turns)), part.device, repeats=2 if small else 6, warm_up=3
            )
            speed = statistics.mean(batch.duration_s for batch in batches) / statistics.mean(seconds)
            part.add(FINETUNING, name, step_s=statistics.median(seconds), times_real_time=speed)


def our_step(part: Part, size: Size) -> Callable[[Batch], object]:
    """Return our update of fine-tuning."""
    model = CTCModel(SpeechEncoder(size.ctc_encoder), size.ctc, VOCABULARY).to(part.device)
    ranks, state = Ranks(rank=0, world_size=1, device=part.device), TrainState()
    config, optimizer = TrainConfig(steps=10**9, bfloat16=True), build_optimizer(model, size.ctc_optim)
    learner = Learner(model, optimizer, seed=part.seed, optim=size.ctc_optim, config=config, ranks=ranks)
    return lambda batch: learner.update(iter([(0, 1, batch)]), state, say=print)


def peer_step(part: Part, size: Size) -> Callable[[Batch], object]:
    """Return that of transformers."""
    return in_16_bits(transformers_ctc(size), part.device)


def write_audio(part: Part, folder: Path) -> Manifest:
    """Write two hours of noise in files of real lengths, 16 bits."""
    small = part.is_rehearsal
    lengths = draw_lengths(2.0 if small else 7200.0, seed=part.seed, scale=0.03 if small else 1.0)
    random = np.random.default_rng(part.seed)
    noise = (0.1 * 2**15 * random.standard_normal(max(lengths))).astype(np.int16)
    rows = list_utterances(lengths)
    for row in rows:
        soundfile.write(str(folder / row.path), noise[: row.num_samples], SAMPLE_RATE, subtype="PCM_16")
    return Manifest(root=folder, utterances=tuple(rows))


def transcribing(part: Part, kind: str, ours: Path, manifest: Manifest) -> None:
    """Time model and files to texts."""
    work = heard("texts", kind)
    with part.surviving(work, OURS):
        config = PosteriorConfig(precision=kind, batch_s=120.0 if part.is_rehearsal else 400.0)
        seconds = best_of_two(part, lambda: transcribe(ours, manifest, config))
        part.add(work, OURS, seconds=seconds, times_real_time=manifest.duration_s / seconds)


def peer_transcribing(part: Part, kind: str, theirs: Path, manifest: Manifest) -> None:
    """Time the same of transformers; the row is that of the batch size that was the fastest so far."""
    work, best = heard("texts", kind), float("inf")
    for batch_size in BATCH_SIZES[: 1 if part.is_rehearsal else None]:
        if part.is_over:
            return
        with part.surviving(work, PEER):
            texts = partial(pipeline_texts, part, theirs, manifest, kind, batch_size)
            seconds = best_of_two(part, texts)
            if seconds < best:
                best, speed = seconds, manifest.duration_s / seconds
                part.add(work, PEER, seconds=seconds, times_real_time=speed, batch_size=batch_size)


def pipeline_texts(part: Part, model: Path, manifest: Manifest, kind: str, batch_size: int) -> list[str]:
    """Transcribe with transformers' pipeline, the longest first as ours does."""
    from transformers import pipeline

    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    recognise = pipeline("automatic-speech-recognition", model=str(model), device=part.device, dtype=dtype)
    rows = sorted(manifest.utterances, key=lambda row: -row.num_samples)
    audio = (
        {"raw": read_audio(manifest.audio_path(row), AudioConfig()).numpy(), "sampling_rate": 16_000} for row in rows
    )
    return [each["text"] for each in recognise(audio, batch_size=batch_size)]


def extracting(part: Part, size: Size, kind: str, ours: Path, manifest: Manifest) -> None:
    """Time files to features of a layer, on the device."""
    work = heard("features", kind)
    layer = min(LAYER, size.encoder.transformer.num_layers)
    with part.surviving(work, OURS):
        data, config = DataConfig(manifests=()), ExtractConfig(precision=kind)
        source = trunk(SavedModel.read(ours), (layer,), data, config)

        def run() -> int:
            pieces = extract(source, data, manifest, manifest.utterances, title="features")
            return sum(len(piece.layers[0]) for piece in pieces)

        seconds = best_of_two(part, run)
        part.add(work, OURS, seconds=seconds, times_real_time=manifest.duration_s / seconds)
    with part.surviving(work, PEER):
        shallow = dataclasses.replace(size.encoder.transformer, num_layers=layer)
        runner = transformers_extract(
            dataclasses.replace(size, encoder=dataclasses.replace(size.encoder, transformer=shallow))
        )
        runner.model.to(part.device)

        def run_peer() -> None:
            with torch.autocast(part.device.type, torch.bfloat16, enabled=kind == "bfloat16"):
                for batch in read_batches(manifest, 200.0):
                    runner(batch.to(part.device))

        seconds = best_of_two(part, run_peer)
        part.add(work, PEER, seconds=seconds, times_real_time=manifest.duration_s / seconds)


def read_batches(manifest: Manifest, seconds: float) -> Iterator[Batch]:
    """Read the files in batches of similar lengths, as a careful user of transformers does."""
    rows = sorted(manifest.utterances, key=lambda row: -row.num_samples)
    while rows:
        number = max(1, int(seconds * SAMPLE_RATE / rows[0].num_samples))
        waveforms = [read_audio(manifest.audio_path(row), AudioConfig()) for row in rows[:number]]
        yield Batch(
            ids=tuple(row.id for row in rows[:number]),
            waveforms=torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
            num_samples=torch.tensor([len(each) for each in waveforms]),
        )
        rows = rows[number:]


def best_of_two(part: Part, work: Callable[[], object]) -> float:
    """Return the shorter of two times, the first of which may have had to load something."""
    found = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        wait(part.device)
        found.append(time.perf_counter() - begun)
    return min(found)


def main() -> None:
    """Measure, 16 bits first."""
    part = Part(__doc__)
    size = make_size("BASE", is_small=part.is_rehearsal)
    finetuning(part, size)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "audio").mkdir()
        manifest = write_audio(part, folder / "audio")
        write_random(size, folder / "ours", seed=part.seed)
        convert(folder / "ours", folder / "theirs", "transformers")
        for kind in KINDS:
            for measure in (
                partial(transcribing, part, kind, folder / "ours", manifest),
                partial(extracting, part, size, kind, folder / "ours", manifest),
                partial(peer_transcribing, part, kind, folder / "theirs", manifest),
            ):
                if not part.is_over:
                    measure()


if __name__ == "__main__":
    main()
