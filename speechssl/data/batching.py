"""Which utterances, cropped where, make up each batch: a pure function of (seed, epoch).

Batches hold utterances of similar length and at most so many seconds, padding counted. Nothing here reads audio;
nothing depends on the number of workers or ranks: ranks take batches in turn from the one list of an epoch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl.config import configuration
from speechssl.data.audio import SAMPLE_RATE
from speechssl.data.manifest import Utterance
from speechssl.errors import ConfigError, ManifestError, SpeechSSLError

__all__ = ["Batch", "BatchConfig", "BatchSampler", "Crop", "Example", "collate", "seeded_generator"]


@configuration
class BatchConfig:
    """How utterances are cut and put together."""

    seconds: float = 87.5  # audio in a batch of one rank, padding counted (fairseq: max_tokens = 1.4M samples)
    max_utterances: int = 1024
    max_crop_s: float | None = 15.625  # longer utterances are cropped at random (fairseq: max_sample_size)
    min_s: float = 2.0  # shorter utterances are left out, counted and reported (fairseq: min_sample_size)

    def __post_init__(self) -> None:
        if self.max_crop_s is not None and not 0 < self.max_crop_s <= self.seconds:
            raise ConfigError(
                f"batch.max_crop_s must lie between 0 and batch.seconds ({self.seconds}), found {self.max_crop_s}"
            )


@dataclass(frozen=True)
class Crop:
    """A part of an utterance, in samples at 16 kHz."""

    index: int  # of the utterance in the manifest
    start: int
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """One crop, read."""

    id: str
    waveform: Tensor  # (time,) float32
    labels: Tensor | None = None  # (streams, frames) int64
    tokens: Tensor | None = None  # (tokens,) int64


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples padded to one length."""

    ids: tuple[str, ...]
    waveforms: Tensor  # (batch, time) float32
    num_samples: Tensor  # (batch,) int64
    labels: Tensor | None = None  # (streams, batch, frames) int64, 0 in the padding
    targets: Tensor | None = None  # (batch, tokens) int64, 0 in the padding
    target_lengths: Tensor | None = None  # (batch,) int64
    skipped: tuple[str, ...] = ()  # why examples were left out, one message each
    error: SpeechSSLError | None = None  # why reading has to stop
    is_stand_in: bool = False  # noise in place of a batch whose audio is all bad: counts for nothing

    @property
    def duration_s(self) -> float:
        """Seconds of audio, padding not counted."""
        return 0.0 if self.is_stand_in else float(self.num_samples.sum()) / SAMPLE_RATE

    @property
    def padding(self) -> float:
        """Share of the batch that is no audio."""
        return 1 - float(self.num_samples.sum()) / max(self.waveforms.numel(), 1)

    def pin_memory(self) -> "Batch":
        """Return the batch in memory from which a GPU copies without waiting; the loader calls this."""
        return replace(
            self,
            waveforms=self.waveforms.pin_memory(),
            labels=None if self.labels is None else self.labels.pin_memory(),
            targets=None if self.targets is None else self.targets.pin_memory(),
        )

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device; lengths stay on the host, where the masks are drawn."""
        return replace(
            self,
            waveforms=self.waveforms.to(device, non_blocking=True),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            targets=None if self.targets is None else self.targets.to(device, non_blocking=True),
        )


def seeded_generator(*key: int | str) -> torch.Generator:
    """Return a generator whose state depends on `key` alone, and not additively: (1, 2) is unrelated to (2, 1)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class BatchSampler:
    """Length-bucketed batches, epoch after epoch.

    Utterances shorter than `config.min_s` are left out; `left_out` lists their ids.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        config: BatchConfig,
        *,
        seed: int,
        hop: int = 1,
    ) -> None:
        """Prepare batches of `utterances`.

        Args:
            utterances: of the manifest, in its order.
            config: how to cut and fill.
            seed: of order and crops.
            hop: crops start at multiples of so many samples, so that frame labels line up with frames.

        Raises:
            ManifestError: nothing is left, or an utterance that may not be cropped fills more than a batch.
        """
        self.config, self.seed, self.hop = config, seed, hop
        self.lengths = {i: row.num_samples_16k for i, row in enumerate(utterances)}
        self.left_out = [utterances[i].id for i, n in self.lengths.items() if n < config.min_s * SAMPLE_RATE]
        self.lengths = {i: n for i, n in self.lengths.items() if n >= config.min_s * SAMPLE_RATE}
        if not self.lengths:
            raise ManifestError(
                f"no utterance is at least batch.min_s={config.min_s} s long; lower it, or correct the manifest"
            )
        longest = max(self.lengths, key=self.lengths.__getitem__)
        if config.max_crop_s is None and self.lengths[longest] > config.seconds * SAMPLE_RATE:
            raise ManifestError(
                f"{utterances[longest].id}: lasts {self.lengths[longest] / SAMPLE_RATE:.1f} s, more than a batch "
                f"(batch.seconds={config.seconds}); raise batch.seconds or cut the utterance"
            )

        listed = hashlib.blake2b(digest_size=8)
        for index, length in self.lengths.items():
            listed.update(f"{utterances[index].id}\t{length}\n".encode())
        self.fingerprint = listed.hexdigest()  # of what is trained on: a position means nothing in another list

    def epoch(self, epoch: int) -> list[list[Crop]]:
        """Return the batches of one epoch."""
        generator = seeded_generator(self.seed, "order", epoch)
        draws = torch.rand((len(self.lengths), 2), generator=generator, dtype=torch.float64).tolist()
        crops = [self._crop(i, n, draw[0]) for (i, n), draw in zip(self.lengths.items(), draws, strict=True)]
        if self.config.max_crop_s is None:
            jittered = sorted(range(len(crops)), key=lambda k: crops[k].num_samples * (1 + 0.1 * draws[k][1]))
        else:  # many share the full length: keep their company random
            order = torch.randperm(len(crops), generator=generator).tolist()
            jittered = sorted(order, key=lambda k: crops[k].num_samples)
        batches = self._fill([crops[k] for k in jittered])
        return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]

    def _crop(self, index: int, length: int, draw: float) -> Crop:
        limit = length if self.config.max_crop_s is None else int(self.config.max_crop_s * SAMPLE_RATE)
        if length <= limit:
            return Crop(index, 0, length)
        starts = (length - limit) // self.hop + 1
        return Crop(index, int(draw * starts) * self.hop, limit)

    def _fill(self, crops: list[Crop]) -> list[list[Crop]]:
        batches: list[list[Crop]] = [[]]
        limit = self.config.seconds * SAMPLE_RATE
        longest = 0
        for crop in crops:
            longest = max(longest, crop.num_samples)
            if batches[-1] and (
                longest * (len(batches[-1]) + 1) > limit or len(batches[-1]) >= self.config.max_utterances
            ):
                batches.append([])
                longest = crop.num_samples
            batches[-1].append(crop)
        return batches


def collate(examples: Sequence[Example | str | SpeechSSLError]) -> Batch:
    """Pad examples to a batch.

    Args:
        examples: strings are the reasons why an example was skipped, errors why reading has to stop.

    Returns:
        The batch; without examples where none could be read.
    """
    good = [example for example in examples if isinstance(example, Example)]
    skipped = tuple(example for example in examples if isinstance(example, str))
    error = next((example for example in examples if isinstance(example, SpeechSSLError)), None)
    if not good:
        nothing = torch.zeros((0, 0))
        none = torch.zeros(0, dtype=torch.long)
        return Batch(ids=(), waveforms=nothing, num_samples=none, skipped=skipped, error=error)
    labels = [example.labels.T for example in good if example.labels is not None]  # (frames, streams)
    tokens = [example.tokens for example in good if example.tokens is not None]
    return Batch(
        ids=tuple(example.id for example in good),
        waveforms=pad_sequence([example.waveform for example in good], batch_first=True),
        num_samples=torch.tensor([len(example.waveform) for example in good]),
        labels=pad_sequence(labels).permute(2, 1, 0).contiguous() if labels else None,
        targets=pad_sequence(tokens, batch_first=True) if tokens else None,
        target_lengths=torch.tensor([len(row) for row in tokens]) if tokens else None,
        skipped=skipped,
        error=error,
    )
