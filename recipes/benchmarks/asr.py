"""Speech to text: a fine-tuning step, a folder transcribed, a beam search; ours against others, in turn.

    asr.py --manifest asterisk/pool.tsv fillets-nl/pool.tsv            BASE, random weights, real audio
    asr.py --task decode --model RUN --test TEST.tsv --texts TRAIN.tsv a recogniser's own log-probabilities
    asr.py --short --manifest POOL.tsv                                 transcription and searches, few repeats

Prints tables and writes one JSON file. See README.md beside it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from allocator import set_allocator
from batches import draw_speech
from contenders import batches_of, contenders, turn
from decoders import Heard, build_language, decoders, error_rate, left_out, simulate
from decoders import turn as decoding_turn
from measuring import OURS, Outcome, Row, about, interleave, table, write_report
from recogniser import write_random
from sizes import SIZES, Size

from speechssl.asr.decoding.grammar import Weights
from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest
from speechssl.hub.saved import SavedModel
from speechssl.stages.convert import convert
from speechssl.stages.posteriors import PosteriorConfig, log_posteriors
from speechssl.stages.transcribe import transcribe

__all__ = ["measure_decoding", "measure_finetuning", "measure_transcribing"]

PEER = "transformers"
OTHER_TEXTS = "transformers, faster with other texts"  # BASE's group norm there looks at the padding of a batch
TASKS = ("finetune", "transcribe", "decode")
DECODE_S, DECODE_REPEATS = 60.0, 5  # at least, of made-up speech: a search takes a hundredth of what a model does
BATCH_SIZES = (1, 4, 8)  # of the pipeline that are tried
PACKAGES = ("torch", "transformers", "torchaudio", "flashlight-text", "kenlm", "pyctcdecode", "ctc-beam-decoder")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often."""

    manifests: tuple[Path, ...]
    seconds: float  # of audio in a turn
    repeats: int
    seed: int


def measure_finetuning(size: Size, settings: Settings) -> list[Row]:
    """Time steps on batches of real lengths, put together as ours are, the same for both; the extractor is frozen."""
    drawn = {"manifests": settings.manifests, "seconds": 20.0, "total_s": settings.seconds, "seed": settings.seed}
    batches = batches_of(size, "ctc", "mixed", OURS, **drawn)
    torch.manual_seed(settings.seed)
    built = {name: build() for name, build in contenders(size, "ctc").items() if name in (OURS, PEER)}
    turns = {name: turn(each, batches, 1, partial(set_allocator, keeps=name == OURS)) for name, each in built.items()}
    timings = interleave(turns, settings.repeats)
    parameters = {name: sum(each.numel() for each in one.model.parameters()) for name, one in built.items()}
    return [Row.of((size.name, "finetune", "same"), name, timings[name], parameters[name]) for name in built]


def measure_transcribing(size: Size, settings: Settings) -> tuple[list[Row], dict[str, object]]:
    """Time model folder and audio files to texts, reading the model included.

    The peer has the batch size with which it is fastest of those with our texts, and beside it the fastest of all.
    """
    rows = draw_speech(settings.manifests, settings.seconds, seed=settings.seed)
    manifest = Manifest(root=Path("/"), utterances=tuple(rows))
    audio_s = sum(row.duration_s for row in manifest.utterances)
    texts: dict[str, dict[str, str]] = {}

    def work(name: str, run: Callable[[], dict[str, str]]) -> Callable[[], Outcome]:
        def one() -> Outcome:
            set_allocator(keeps=name == OURS)
            texts[name] = run()
            return Outcome(loss=0.0, predicted=len(texts[name]), audio_s=audio_s)

        return one

    with TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        parameters = write_random(size, ours, seed=settings.seed)
        convert(ours, theirs, "transformers")
        own = work(OURS, partial(_ours, ours, manifest))
        tried = {count: work(f"{PEER} {count}", partial(_pipeline, theirs, manifest, count)) for count in BATCH_SIZES}
        first = interleave({OURS: own, **{str(count): each for count, each in tried.items()}}, 1, warm_up=0)
        cpu_s = {count: first[str(count)][0].cpu_s for count in BATCH_SIZES}
        equal = {count: _equal(texts[OURS], texts[f"{PEER} {count}"]) for count in BATCH_SIZES}
        alike = [count for count in BATCH_SIZES if equal[count] == len(manifest.utterances)] or BATCH_SIZES
        best, fastest = (min(counts, key=lambda count: cpu_s[count]) for counts in (alike, BATCH_SIZES))
        turns = {OURS: own, PEER: tried[best]} | ({} if best == fastest else {OTHER_TEXTS: tried[fastest]})
        timings = interleave(turns, settings.repeats, warm_up=0)
    rows = [Row.of((size.name, "transcribe", "mixed"), name, timings[name], parameters) for name in turns]
    facts = {
        "utterances": len(manifest.utterances),
        "equal_texts_by_batch": {str(count): number for count, number in equal.items()},
        "first_turns_cpu_s_by_batch": {str(count): round(spent, 2) for count, spent in cpu_s.items()},
        "best_batch_with_equal_texts": best,
        "fastest_batch": fastest,
    }
    return rows, facts


def measure_decoding(
    heard: Heard, texts: Sequence[Path], beams: Sequence[int], weights: Weights, repeats: int
) -> tuple[list[Row], dict[str, object]]:
    """Time beam searches with a lexicon and a 4-gram over the same log-probabilities; one thread each."""
    rows, facts = [], {}
    with TemporaryDirectory() as folder:
        language = build_language(texts, heard.vocabulary, Path(folder))
        for beam in beams:
            found: dict[str, dict[str, str]] = {}
            turns = {
                name: decoding_turn(decode, heard, found.setdefault(name, {}))
                for name, decode in decoders(heard.vocabulary, language, weights, beam).items()
            }
            timings = interleave(turns, repeats, warm_up=0)
            work = ("decode", "lexicon and 4-gram", f"beam {beam}")
            rows += [Row.of(work, name, timings[name], 0) for name in turns]
            facts[f"beam {beam}"] = {name: error_rate(heard, found[name]) for name in turns}
    return rows, facts


def _equal(ours: Mapping[str, str], theirs: Mapping[str, str]) -> int:
    return sum(theirs[key] == text for key, text in ours.items())


def accuracy_table(facts: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """Lay out what searches read as a Markdown table."""
    lines = ["| beam | decoder | CER | WER |", "|---|---|---|---|"]
    for beam, found in facts.items():
        lines += [f"| {beam} | {name} | {cer:.2%} | {wer:.2%} |" for name, (cer, wer) in found.items()]
    return "\n".join(lines)


def hear(model: Path, manifest: Manifest) -> Heard:
    """Run a recogniser over a manifest with texts."""
    saved = SavedModel.read(model)
    recogniser, vocabulary = saved.recogniser()
    rows = {row.id: row for row in manifest.utterances}
    log_probs = {
        key: each.contiguous()
        for key, each in log_posteriors(recogniser, manifest, saved.description.audio, PosteriorConfig())
    }
    references = {key: vocabulary.text.apply(row.text or "") for key, row in rows.items()}
    audio_s = sum(row.duration_s for row in rows.values())
    return Heard(vocabulary=vocabulary, log_probs=log_probs, references=references, audio_s=audio_s)


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--manifest", type=Path, nargs="+", default=[], help="of real speech")
    parser.add_argument("--seconds", type=float, help="of audio in a turn; 120, in the short form 20")
    parser.add_argument("--repeats", type=int, help="turns of each; 5, in the short form 3")
    parser.add_argument("--model", type=Path, help="run whose log-probabilities are searched; made up without it")
    parser.add_argument("--test", type=Path, help="manifest that it hears")
    parser.add_argument("--texts", type=Path, nargs="+", default=[], help="of the language model: training texts")
    parser.add_argument("--beam", type=int, nargs="+", default=[50])
    parser.add_argument("--lm-weight", type=float, default=2.0)
    parser.add_argument("--word-score", type=float, default=0.0)
    parser.add_argument("--short", action="store_true", help="without fine-tuning, which pretraining.py --short times")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/asr.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = Settings(
        manifests=tuple(options.manifest),
        seconds=options.seconds or (20.0 if options.short else 120.0),
        repeats=options.repeats or (3 if options.short else 5),
        seed=options.seed,
    )
    rows: list[Row] = []
    facts: dict[str, object] = {}
    missing: dict[str, str] = {}
    size = SIZES[options.size]()
    for task in [task for task in options.task if not (options.short and task == "finetune")]:
        match task:
            case "finetune":
                rows += measure_finetuning(size, settings)
            case "transcribe":
                more, facts["transcribe"] = measure_transcribing(size, settings)
                rows += more
            case "decode":
                weights = Weights(lm_weight=options.lm_weight, word_score=options.word_score)
                found, texts = _to_decode(options, settings)
                repeats = options.repeats or max(settings.repeats, DECODE_REPEATS)
                more, accuracies = measure_decoding(found, texts, options.beam, weights, repeats)
                works = [f"decode lexicon and 4-gram beam {beam}" for beam in options.beam]
                missing = {f"{work}: {name}": packages for work in works for name, packages in left_out().items()}
                rows, facts["decode"] = rows + more, accuracies
                print(accuracy_table(accuracies))
        print(f"measured: {task}", file=sys.stderr, flush=True)
        write_report(options.out, about(options.seed, PACKAGES), rows, left_out=missing, **facts)
    print(table(rows, missing), *(f"transcribe: {facts[name]}" for name in facts if name == "transcribe"), sep="\n")


def _to_decode(options: argparse.Namespace, settings: Settings) -> tuple[Heard, Sequence[Path]]:
    if options.model is not None:
        return hear(options.model, read_manifest(options.test)), options.texts
    rows = draw_speech(settings.manifests, max(settings.seconds, DECODE_S), seed=settings.seed)
    return simulate(rows, seed=settings.seed), options.texts or settings.manifests


def _ours(folder: Path, manifest: Manifest) -> dict[str, str]:
    return {found.id: found.text for found in transcribe(folder, manifest)[0]}


def _pipeline(folder: Path, manifest: Manifest, batch_size: int) -> dict[str, str]:
    """Transcribe with transformers' pipeline, the files in the order of the folder, read by ours."""
    from transformers import pipeline

    recognise = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    rows = sorted(manifest.utterances, key=lambda row: row.path)
    audio = ({"raw": read_audio(Path(row.path), AudioConfig()).numpy(), "sampling_rate": 16_000} for row in rows)
    found = recognise(audio, batch_size=batch_size)
    return {row.id: " ".join(each["text"].split()) for row, each in zip(rows, found, strict=True)}


if __name__ == "__main__":
    main()
