"""Batches of real speech: audio and lengths drawn from manifests, put together as each project's own recipe does.

About so many seconds a batch for everybody. Audio that a recipe crops away is not counted, nor is padding.
"""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, read_audio
from speechssl.data.batching import Batch, BatchConfig, BatchSampler, Crop, Example, collate
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Utterance
from speechssl.model.frames import Stack, frame_count

__all__ = ["draw_utterances", "length_buckets", "make_batches", "mixed_batches", "random_batches", "sampled_batches"]

LONGEST_S = 15.0  # what is longer is cropped, or left out where there is text
SHORTEST_S = 2.0  # as all recipes leave out
SAMPLE_S = 7200.0  # of audio, from which batches are put together
LETTERS = 31

Batches = list[list[Crop]]


def draw_utterances(manifests: Sequence[Path], *, is_whole: bool, seed: int) -> list[Utterance]:
    """Draw utterances of all manifests, their paths made absolute.

    Args:
        manifests: to draw from.
        is_whole: leave out what would have to be cropped.
        seed: of the draw.
    """
    found = []
    for manifest in map(read_manifest, manifests):
        for row in manifest.utterances:
            if row.duration_s >= SHORTEST_S and not (is_whole and row.duration_s > LONGEST_S):
                found.append(dataclasses.replace(row, path=str(manifest.audio_path(row).resolve())))
    random.Random(seed).shuffle(found)
    total, chosen = 0.0, []
    for row in found:
        if total >= SAMPLE_S:
            break
        chosen.append(row)
        total += min(row.duration_s, LONGEST_S)
    return chosen


def draw_speech(manifests: Sequence[Path], seconds: float, *, seed: int) -> list[Utterance]:
    """Draw whole utterances, their paths absolute, until there is so much audio."""
    rows: list[Utterance] = []
    for row in draw_utterances(manifests, is_whole=True, seed=seed):
        if sum(each.duration_s for each in rows) >= seconds:
            break
        rows.append(row)
    return rows


def sampled_batches(utterances: Sequence[Utterance], seconds: float, *, seed: int) -> Batches:
    """Put together batches as `BatchSampler` does: similar lengths, so many seconds with the padding."""
    config = BatchConfig(seconds=seconds, max_crop_s=LONGEST_S, min_s=SHORTEST_S)
    return [*BatchSampler(utterances, config, seed=seed).epoch(0)]


def random_batches(utterances: Sequence[Utterance], seconds: float, *, seed: int) -> Batches:
    """Put together batches as transformers' scripts do: a fixed number in random order, as many as last so long."""
    crops = [_head(index, row) for index, row in enumerate(utterances)]
    random.Random(seed).shuffle(crops)
    mean_s = sum(crop.num_samples for crop in crops) / len(crops) / SAMPLE_RATE
    count = max(1, round(seconds / mean_s))
    return [crops[first : first + count] for first in range(0, len(crops) - count + 1, count)]


def length_buckets(utterances: Sequence[Utterance], seconds: float, *, is_whole: bool, seed: int) -> Batches:
    """Put together batches as fairseq2's and torchaudio's recipes do: by length, all cropped to the shortest.

    A bucket takes utterances up to the length of which `count` fill a batch; counts above 8 are multiples of 8.
    Buckets that never fill are left out: on hundreds of hours they are few.

    Args:
        utterances: in the order in which they fill buckets.
        seconds: in a batch.
        is_whole: keep utterances whole and pad them, as for transcribed speech.
        seed: of the order of batches.
    """
    limit = int(seconds * SAMPLE_RATE)
    buckets: dict[int, list[Crop]] = {}
    batches: Batches = []
    for index, row in enumerate(utterances):
        crop = _head(index, row)
        count = max(1, limit // crop.num_samples)
        count -= count % 8 if count > 8 else 0
        bucket = buckets.setdefault(count, [])
        bucket.append(crop)
        if len(bucket) == count:
            shortest = min(each.num_samples for each in bucket)
            batches.append(bucket if is_whole else [dataclasses.replace(each, num_samples=shortest) for each in bucket])
            buckets[count] = []
    random.Random(seed).shuffle(batches)
    return batches


def mixed_batches(
    style: str, utterances: Sequence[Utterance], seconds: float, total_s: float, *, is_whole: bool, seed: int
) -> tuple[Batches, float]:
    """Return the first batches of an epoch that hold so much audio, and how much they hold.

    Args:
        style: `sampled`, `random` or `buckets`.
        utterances: to put together.
        seconds: in a batch.
        total_s: of audio that is wanted.
        is_whole: do not crop.
        seed: of order and crops.
    """
    match style:
        case "sampled":
            batches = sampled_batches(utterances, seconds, seed=seed)
        case "random":
            batches = random_batches(utterances, seconds, seed=seed)
        case "buckets":
            batches = length_buckets(utterances, seconds, is_whole=is_whole, seed=seed)
        case _:
            raise ValueError(f"no such way to put batches together: {style}")
    chosen, found = [], 0.0
    for batch in batches:
        if found >= total_s:
            break
        chosen.append(batch)
        found += sum(crop.num_samples for crop in batch) / SAMPLE_RATE
    return chosen, found


def make_batches(
    utterances: Sequence[Utterance], batches: Batches, *, stack: Stack, clusters: Sequence[int], seed: int
) -> Iterator[Batch]:
    """Read the audio of batches; labels are drawn at random, texts keep their lengths.

    Args:
        utterances: with absolute paths.
        batches: what to read.
        stack: of the encoder's convolutions, for the number of labels.
        clusters: units of each label stream.
        seed: of the labels.
    """
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        examples = []
        for crop in batch:
            row = utterances[crop.index]
            waveform = read_audio(Path(row.path), AudioConfig(), start=crop.start, num_samples=crop.num_samples)
            frames = frame_count(len(waveform), stack)
            labels = torch.stack([torch.randint(k, (frames,), generator=generator) for k in clusters])
            tokens = torch.tensor([1 + ord(letter) % LETTERS for letter in (row.text or "a")])
            examples.append(Example(id=row.id, waveform=waveform, labels=labels, tokens=tokens))
        yield collate(examples)


def _head(index: int, row: Utterance) -> Crop:
    return Crop(index, 0, min(row.num_samples_16k, int(LONGEST_S * SAMPLE_RATE)))
