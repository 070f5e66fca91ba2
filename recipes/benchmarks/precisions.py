"""Inference in fewer bits: transcription and features of a layer in every precision against others, and peak memory.

precisions.py --manifest festvox-ru/pool.tsv                     BASE, random weights
precisions.py --manifest festvox-ru/test.tsv --model RUN         a recogniser of one's own, and equal labels
precisions.py --short --manifest POOL.tsv                        20 s, few repeats: what short.py runs

Models are read before the turns, audio in each. See README.md beside it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import torch
from allocator import set_allocator
from batches import draw_speech
from measuring import OURS, Outcome, Row, about, interleave, memory_kib, ratios, table, write_report
from recogniser import write_random
from sizes import SIZES
from torch import Tensor

from speechssl.asr.decoding.decoders import Greedy, build_decoder
from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.utterances import Manifest, Utterance
from speechssl.hub.model_formats import read_saved
from speechssl.hub.onnx import open_onnx
from speechssl.memory import keep_freed_memory
from speechssl.model.precision import AnyPrecision, choose_precision, pack, reason_for
from speechssl.stages.convert import convert
from speechssl.stages.feature_source import ExtractConfig, trunk
from speechssl.stages.posteriors import PosteriorConfig
from speechssl.stages.reading_data import DataConfig
from speechssl.stages.transcribe import transcribe, transcribe_by
from speechssl.units.kmeans import KMeans

__all__ = ["Models", "equal_labels", "measure", "peaks", "prepare"]

PEER, ONNX, CUT = "transformers", "onnxruntime int8", "transformers, later layers left out"
PRECISIONS: tuple[AnyPrecision, ...] = get_args(AnyPrecision)
TASKS = ("transcribe", "extract", "memory", "labels")
BATCH_SIZES = (1, 4, 8)  # of the pipeline, of which the fastest is measured
LAYER = 9  # of BASE; of others three quarters of the way
CLUSTERS = 100
PACKAGES = ("torch", "transformers", "onnxruntime")

Runner = Callable[[Sequence[Utterance]], int]  # returns how many utterances or frames it computed


@dataclass(frozen=True, kw_only=True)
class Models:
    """The same weights in the formats of all contenders."""

    name: str  # in the table
    ours: Path
    transformers: Path
    onnx: Path  # int8
    layer: int  # whose features are taken
    parameters: int


def prepare(name: str, model: Path | None, folder: Path, *, seed: int) -> Models:
    """Convert a recogniser for all contenders, unless the folder has it already.

    Args:
        name: in the table; a key of `SIZES` without a model.
        model: run or model folder; None for random weights, which are as fast.
        folder: for what is written.
        seed: of random weights.
    """
    ours, theirs, onnx = model or folder / "ours", folder / "transformers", folder / "int8.onnx"
    if not ours.exists():
        write_random(SIZES[name](), ours, seed=seed)
    if not theirs.exists():
        convert(ours, theirs, "transformers")
    if not onnx.exists():
        convert(ours, onnx, "onnx", precision="int8")
    saved = read_saved(ours)
    layers = saved.description.encoder.transformer.num_layers
    parameters = sum(tensor.numel() for tensor in saved.tensors.values())
    return Models(
        name=name, ours=ours, transformers=theirs, onnx=onnx, layer=round(0.75 * layers), parameters=parameters
    )


def measure(
    models: Models, rows: Sequence[Utterance], task: str, precisions: Sequence[AnyPrecision], repeats: int
) -> tuple[list[Row], dict[str, object]]:
    """Time ours in every precision and the peers in turn; each precision gets rows of its own, the peers' beside it.

    Args:
        models: of all contenders.
        rows: utterances with absolute paths.
        task: `transcribe` or `extract`.
        precisions: ours.
        repeats: turns of each that are timed, after one that is not.

    Returns:
        The rows, which batch size of the pipeline was the fastest, and how long each took to read its model.
    """
    audio_s = sum(row.duration_s for row in rows)
    facts: dict[str, object] = {}
    read_s = facts["seconds_to_read_the_model"] = dict[str, float]()

    def turn(name: str, build: Callable[[], Runner], *, keeps: bool) -> Callable[[], Outcome]:
        set_allocator(keeps=keeps)
        begin = time.perf_counter()
        run = build()
        read_s[name] = round(time.perf_counter() - begin, 2)

        def one() -> Outcome:
            set_allocator(keeps=keeps)
            return Outcome(loss=0.0, predicted=run(rows), audio_s=audio_s)

        return one

    turns = {each: turn(each, partial(BUILDERS[task], models, each), keeps=True) for each in precisions}
    if task == "transcribe":
        pipelines = {str(n): turn(PEER, partial(_pipeline, models, n), keeps=False) for n in BATCH_SIZES}
        tried = interleave(pipelines, 1, warm_up=0)
        best = min(pipelines, key=lambda count: tried[count][0].wall_s)
        facts["fastest_batch_of_the_pipeline"] = int(best)
        peers = {PEER: pipelines[best], ONNX: turn(ONNX, partial(_onnx, models), keeps=False)}
    else:
        peers = {name: turn(name, partial(_hidden, models, cut=name == CUT), keeps=False) for name in (PEER, CUT)}
    timings = interleave({**turns, **peers}, repeats)
    measured = []
    threads = "" if torch.get_num_threads() == 2 else f", threads {torch.get_num_threads()}"
    for each in precisions:
        work = (models.name, task, f"{each}{threads}")
        measured += [
            Row.of(work, OURS if name == each else name, timings[name], models.parameters) for name in (each, *peers)
        ]
    return measured, facts


def peaks(models: Models, rows: Sequence[Utterance], precisions: Sequence[AnyPrecision]) -> dict[str, float]:
    """Return peak memory in MiB over that after imports by `task precision`, each in a process of its own."""
    found = {}
    for task in ("transcribe", "extract"):
        for each in precisions:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                asked = pool.submit(_peak_mib, models, rows, task, each, torch.get_num_threads())
                found[f"{task} {each}"] = round(asked.result(), 1)
    return found


def equal_labels(
    models: Models, rows: Sequence[Utterance], precisions: Sequence[AnyPrecision], *, seed: int
) -> dict[str, float]:
    """Return the share of frames that k-means of float32 features labels as in float32, by precision."""
    features = {each: torch.cat([*_features(models, each)(rows)]) for each in ("float32", *precisions)}
    kmeans = KMeans(n_clusters=CLUSTERS, seed=seed).fit(features["float32"])
    labels = {each: kmeans.predict(found) for each, found in features.items()}
    return {each: round((labels[each] == labels["float32"]).float().mean().item(), 4) for each in precisions}


def _transcribe(models: Models, precision: AnyPrecision) -> Runner:
    saved = read_saved(models.ours)
    model, vocabulary = saved.recogniser(shares=True)
    model = pack(model, choose_precision(precision, torch.device("cpu")))
    audio, config = saved.description.audio, PosteriorConfig(precision=precision)

    def run(rows: Sequence[Utterance]) -> int:
        manifest = Manifest(root=Path("/"), utterances=tuple(rows))
        return len(transcribe_by(model, vocabulary, manifest, audio, config)[0])

    return run


def _extract(models: Models, precision: AnyPrecision) -> Runner:
    features = _features(models, precision)
    return lambda rows: sum(len(found) for found in features(rows))


def _features(models: Models, precision: AnyPrecision) -> Callable[[Sequence[Utterance]], Iterator[Tensor]]:
    """Return what yields the (frames, dim) features of each utterance, as `extract` and `cluster` compute them."""
    config = ExtractConfig(precision=precision)
    source = trunk(read_saved(models.ours), (models.layer,), DataConfig(manifests=()), config)

    def run(rows: Sequence[Utterance]) -> Iterator[Tensor]:
        for row in rows:
            for _, layers in source.compute([read_audio(Path(row.path), source.audio)]):
                yield layers[0]

    return run


def _pipeline(models: Models, batch_size: int) -> Runner:
    """Transcribe with transformers' pipeline, in the order of the files."""
    from transformers import pipeline

    recognise = pipeline("automatic-speech-recognition", model=str(models.transformers), device="cpu")

    def run(rows: Sequence[Utterance]) -> int:
        read = (read_audio(Path(row.path), AudioConfig()).numpy() for row in rows)
        audio = ({"raw": waveform, "sampling_rate": 16_000} for waveform in read)
        return sum(1 for _ in recognise(audio, batch_size=batch_size))

    return run


def _onnx(models: Models) -> Runner:
    """Transcribe one utterance at a time with onnxruntime, decoding as ours does."""
    saved = read_saved(models.ours)
    session, decode = open_onnx(models.onnx), build_decoder(Greedy(), saved.vocabulary()).decode

    def run(rows: Sequence[Utterance]) -> int:
        texts = []
        for row in rows:
            waveform = read_audio(Path(row.path), saved.description.audio)
            inputs = {"waveforms": waveform[None].numpy(), "num_samples": torch.tensor([len(waveform)]).numpy()}
            logits, counts = session.run(None, inputs)
            texts += decode(torch.from_numpy(logits), torch.from_numpy(counts))
        return len(texts)

    return run


def _hidden(models: Models, *, cut: bool) -> Runner:
    """Take `hidden_states[layer]` of transformers' model, one utterance at a time; `cut` reads no later layers."""
    from transformers import AutoFeatureExtractor, AutoModel
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()  # the head is not read, on purpose
    extractor = AutoFeatureExtractor.from_pretrained(models.transformers)
    layers = {"num_hidden_layers": models.layer} if cut else {}
    model = AutoModel.from_pretrained(models.transformers, **layers).eval()

    @torch.no_grad()
    def run(rows: Sequence[Utterance]) -> int:
        frames = 0
        for row in rows:
            waveform = read_audio(Path(row.path), AudioConfig()).numpy()
            inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
            frames += model(**inputs, output_hidden_states=True).hidden_states[models.layer].shape[1]
        return frames

    return run


BUILDERS: dict[str, Callable[[Models, AnyPrecision], Runner]] = {"transcribe": _transcribe, "extract": _extract}


def _peak_mib(models: Models, rows: Sequence[Utterance], task: str, precision: AnyPrecision, threads: int) -> float:
    torch.set_num_threads(threads)
    keep_freed_memory()  # as our command line does
    before = memory_kib("VmRSS")
    if task == "transcribe":  # as the command does, which holds the model that it prepares from
        transcribe(models.ours, Manifest(root=Path("/"), utterances=tuple(rows)), PosteriorConfig(precision=precision))
    else:
        _extract(models, precision)(rows)
    return (memory_kib("VmHWM") - before) / 1024


def memory_ratios(name: str, found: Mapping[str, float]) -> dict[str, float]:
    """Return how many times less memory each precision takes than float32 does, by the key of the table."""
    lower = {}
    for key, peak in found.items():
        task, precision = key.split()
        if precision not in ("float32", "auto"):
            lower[f"{name} {task} {precision} memory: float32"] = round(found[f"{task} float32"] / peak, 3)
    return lower


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, help="all; labels only with --model, as they need training")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="of real speech")
    parser.add_argument("--model", type=Path, help="recogniser; BASE with random weights without it")
    parser.add_argument("--name", help="of the model in the table; demo, or base")
    parser.add_argument("--work", type=Path, help="folder for converted models; a temporary one without it")
    parser.add_argument("--seconds", type=float, help="of audio in a turn; 600, in the short form 20")
    parser.add_argument("--repeats", type=int, help="turns of each; 5, in the short form 3")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="one after the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/precisions.json"))
    options = parser.parse_args()
    rows = draw_speech(options.manifest, options.seconds or (20.0 if options.short else 600.0), seed=options.seed)
    repeats = options.repeats or (3 if options.short else 5)
    name = options.name or ("base" if options.model is None else "demo")
    tasks = options.task or [task for task in TASKS if task != "labels" or options.model is not None]
    measured: list[Row] = []
    facts: dict[str, object] = {"audio_s": round(sum(row.duration_s for row in rows), 1), "utterances": len(rows)}
    lower: dict[str, float] = {}
    with TemporaryDirectory() as temporary:
        models = prepare(name, options.model, options.work or Path(temporary), seed=options.seed)
        for threads in options.threads:
            torch.set_num_threads(threads)
            device = torch.device("cpu")
            facts["auto"] = reason_for(choose_precision("auto", device), "auto", device)
            for task in [task for task in tasks if task in ("transcribe", "extract")]:
                more, facts[f"{task}, threads {threads}"] = measure(models, rows, task, options.precision, repeats)
                measured += more
                print(f"measured: {task}, threads {threads}", file=sys.stderr, flush=True)
                write_report(options.out, about(options.seed, PACKAGES), measured, **facts)
        if "memory" in tasks:
            facts["peak_mib"] = found = peaks(models, rows, options.precision)
            lower |= memory_ratios(name, found)
        if "labels" in tasks:
            facts["equal_labels"] = equal_labels(models, rows, options.precision, seed=options.seed)
    report = about(options.seed, PACKAGES) | {"threads": options.threads}
    write_report(options.out, report, measured, ratios={**ratios(measured), **lower}, **facts)
    print(table(measured), *(f"{key}: {value}" for key, value in {**lower, **facts}.items()), sep="\n")


if __name__ == "__main__":
    main()
