"""Who is measured at which work, and on which batches."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from batches import draw_utterances, make_batches, mixed_batches
from learners import Learner, Runner
from measuring import OURS, Outcome
from ours import OurLearner, our_extractor, our_learner
from peers import PEERS
from plain import PLAIN
from sizes import Size, equal_batch

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.data.batching import Batch

__all__ = ["PLAIN_NAME", "STYLES", "TASKS", "Contender", "batches_of", "contenders", "turn"]

TASKS = ("wav2vec2", "hubert", "ctc", "extract")
PLAIN_NAME = "plain modules"
ALONE_S = 10.0  # the single utterance of feature extraction
STYLES = {
    OURS: "sampled",
    PLAIN_NAME: "sampled",
    "transformers": "random",
    "fairseq2": "buckets",
    "torchaudio": "buckets",
}

Contender = Learner | OurLearner | Runner


def contenders(size: Size, task: str) -> dict[str, Callable[[], Contender]]:
    """List who is measured at a task, by name, each with what builds it: the peers for BASE, else plain modules."""
    build = partial(our_extractor, size) if task == "extract" else partial(our_learner, size, task)
    found: dict[str, Callable[[], Contender]] = {OURS: build}
    if size.name == "base":
        return found | {name: partial(peer, size) for name, peer in PEERS[task].items()}
    return found | {PLAIN_NAME: partial(PLAIN[task], size)}


def batches_of(
    size: Size,
    task: str,
    kind: str,
    contender: str,
    *,
    manifests: Sequence[Path],
    seconds: float,
    total_s: float,
    seed: int,
) -> list[Batch]:
    """Make what a contender is measured on.

    Args:
        size: of the model.
        task: one of `TASKS`.
        kind: `equal`, `single` (one utterance), or `mixed` (real speech).
        contender: whose recipe puts mixed batches together; for feature extraction all get the same.
        manifests: of real speech, for mixed batches.
        seconds: of audio in a mixed batch.
        total_s: of audio in all mixed batches, at least.
        seed: of everything that is drawn.
    """
    if kind == "equal":
        return [equal_batch(size, seed=seed)]
    if kind == "single":
        generator = torch.Generator().manual_seed(seed)
        time = int(ALONE_S * SAMPLE_RATE)
        waveforms = 0.1 * torch.randn((1, time), generator=generator)
        return [Batch(ids=("u0",), waveforms=waveforms, num_samples=torch.tensor([time]))]
    is_whole = task == "ctc"
    utterances = draw_utterances(manifests, is_whole=is_whole, seed=seed)
    style = "sampled" if task == "extract" else STYLES[contender]
    chosen, _ = mixed_batches(style, utterances, seconds, total_s, is_whole=is_whole, seed=seed)
    return list(make_batches(utterances, chosen, stack=size.encoder.conv, clusters=size.clusters, seed=seed))


def turn(
    contender: Contender, batches: Sequence[Batch], steps: int, before: Callable[[], None] = lambda: None
) -> Callable[[], Outcome]:
    """Return what takes a contender through its batches so many times, after calling `before`."""

    def work() -> Outcome:
        before()
        outcomes = [contender(batch) for _ in range(steps) for batch in batches]
        last, audio_s = outcomes[-1], sum(outcome.audio_s for outcome in outcomes)
        return Outcome(loss=last.loss, predicted=last.predicted, audio_s=audio_s)

    return work
