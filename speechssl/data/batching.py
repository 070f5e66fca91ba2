"""Plans batches: which utterances, cropped where, as a pure function of (seed, epoch).

A batch holds utterances of similar length, up to a number of seconds with padding. The plan does not depend on the
number of workers or ranks: ranks take batches in turn from one list per epoch. Nothing here reads audio.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechssl import fingerprint
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import configuration
from speechssl.data.epochs import Crop, Epoch, Integers, first_of_batches
from speechssl.data.mixing import Mix, MixConfig, corpora
from speechssl.data.utterances import Ids, Rows, Utterance
from speechssl.errors import ConfigError, ManifestError, SpeechSSLError

__all__ = ["Batch", "BatchConfig", "BatchSampler", "Crop", "Example", "PlannedSpeeds", "collate", "seeded_generator"]


@configuration
class BatchConfig:
    """Cropping and batching of utterances."""

    seconds: float = 87.5  # audio in a batch of one rank, including padding (fairseq: max_tokens = 1.4M samples)
    max_utterances: int = 1024
    max_crop_s: float | None = 15.625  # longer utterances are cropped at random (fairseq: max_sample_size)
    min_s: float = 2.0  # shorter utterances are left out, counted and reported (fairseq: min_sample_size)
    jitter: float = 0.1  # relative noise on lengths when whole utterances are sorted; half of it becomes padding
    mix: MixConfig = MixConfig()  # shares of several corpora

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"batch.jitter must lie between 0 and 1, found {self.jitter}")
        if self.max_crop_s is not None and not 0 < self.max_crop_s <= self.seconds:
            raise ConfigError(
                f"batch.max_crop_s must lie between 0 and batch.seconds ({self.seconds}), found {self.max_crop_s}"
            )


@dataclass(frozen=True, kw_only=True)
class Example:
    """One crop with its audio and labels."""

    id: str
    waveform: Tensor  # (time,) float32
    labels: Tensor | None = None  # (streams, frames) int64
    tokens: Tensor | None = None  # (tokens,) int64, or a number to predict, (1,) float32
    weight: float | None = None  # factor of its loss


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples padded to one length."""

    ids: tuple[str, ...]
    waveforms: Tensor  # (batch, time) float32
    num_samples: Tensor  # (batch,) int64
    labels: Tensor | None = None  # (streams, batch, frames) int64, 0 in the padding
    targets: Tensor | None = None  # (batch, tokens) int64, 0 in the padding; or (batch, 1) float32
    target_lengths: Tensor | None = None  # (batch,) int64
    weights: Tensor | None = None  # (batch,) float32, factors of the losses; None: all 1
    skipped: tuple[str, ...] = ()  # why examples were left out, one message each
    error: SpeechSSLError | None = None  # why reading has to stop
    is_stand_in: bool = False  # noise in place of a batch whose audio is all bad: counts for nothing

    @property
    def duration_s(self) -> float:
        """Seconds of audio, excluding padding."""
        return 0.0 if self.is_stand_in else float(self.num_samples.sum()) / SAMPLE_RATE

    @property
    def padding(self) -> float:
        """Share of the batch that is padding."""
        return 1 - float(self.num_samples.sum()) / max(self.waveforms.numel(), 1)

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory, from which copies to a GPU are asynchronous."""
        return replace(
            self,
            waveforms=self.waveforms.pin_memory(),
            labels=None if self.labels is None else self.labels.pin_memory(),
            targets=None if self.targets is None else self.targets.pin_memory(),
            weights=None if self.weights is None else self.weights.pin_memory(),
        )

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device; lengths stay on the CPU, where masks are drawn."""
        return replace(
            self,
            waveforms=self.waveforms.to(device, non_blocking=True),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
            targets=None if self.targets is None else self.targets.to(device, non_blocking=True),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=True),
        )


def seeded_generator(*key: int | str) -> torch.Generator:
    """Return a generator seeded with a hash of `key`: (1, 2) and (2, 1) give unrelated states."""
    digest = bytes.fromhex(fingerprint.of_parts([repr(key).encode()]))
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class PlannedSpeeds(Protocol):
    """Lengths of utterances under speed perturbation, as `augment.Speeds` gives them."""

    def lengths(self, epoch: int, indices: Integers, lengths: Integers) -> Integers:
        """Return how many samples the utterances `indices`, of `lengths` at speed 1, have in an epoch."""

    def longest(self, length: int) -> int:
        """Return how many samples an utterance has at the lowest speed."""


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
        speeds: "PlannedSpeeds | None" = None,
    ) -> None:
        """Prepare batches of `utterances`.

        Args:
            utterances: the manifest's utterances, in order.
            config: cropping and batching.
            seed: seed of order and crops.
            hop: crops start at multiples of this number of samples, so that frame labels line up with frames.
            speeds: speed perturbation, which changes the lengths in each epoch.

        Raises:
            ManifestError: no utterance is long enough, or one that may not be cropped is longer than a batch.
        """
        self.config, self.seed, self.hop, self._speeds = config, seed, hop, speeds
        rows = Rows.of(utterances)
        lengths = rows.lengths_16k
        is_kept = lengths >= config.min_s * SAMPLE_RATE
        if not is_kept.any():
            raise ManifestError(
                f"no utterance is at least batch.min_s={config.min_s} s long; lower it, or correct the manifest"
            )
        longest = int(lengths.argmax())
        at_most = int(lengths[longest]) if speeds is None else speeds.longest(int(lengths[longest]))
        if config.max_crop_s is None and at_most > config.seconds * SAMPLE_RATE:
            raise ManifestError(
                f"{utterances[longest].id}: lasts {at_most / SAMPLE_RATE:.1f} s, more than a batch "
                f"(batch.seconds={config.seconds}); raise batch.seconds or cut the utterance"
            )
        self.indices = np.flatnonzero(is_kept)  # utterances that are long enough
        self.lengths = lengths[is_kept]  # samples at 16 kHz, one per index
        self.left_out = Ids(utterances, np.flatnonzero(~is_kept))
        self._utterances = utterances
        self._mix: Mix | None = None
        listed = fingerprint.begin()
        for lines in rows.list_lengths(lengths, is_kept):
            listed.update(lines)
        if config.mix.alpha < 1:
            codes = corpora(utterances, config.mix.by)[1][is_kept]
            listed.update(codes.tobytes())
            self._mix = Mix(codes, self.lengths, alpha=config.mix.alpha, generator=self._round)
        self.fingerprint = listed.hexdigest()  # a saved position is valid only for the same list of utterances

    def epoch(self, epoch: int) -> Epoch:
        """Return the batches of one epoch."""
        lengths, indices = self.lengths, self.indices
        if self._mix is not None:
            chosen = self._mix.epoch(epoch)
            lengths, indices = lengths[chosen], indices[chosen]
        if self._speeds is not None:
            lengths = self._speeds.lengths(epoch, indices, lengths)
        generator = seeded_generator(self.seed, "order", epoch)
        draws = torch.rand((len(lengths), 2), generator=generator, dtype=torch.float64).numpy()
        places, jitter = draws[:, 0].copy(), draws[:, 1].copy()
        del draws  # here and below: memory, as there may be millions of crops
        if self.config.max_crop_s is None:
            order = _sorted(lengths * (1 + self.config.jitter * jitter))
            lengths = num_samples = lengths[order]
        else:  # many crops have the full length: shuffle before the stable sort, so that batches differ
            del jitter
            limit = int(self.config.max_crop_s * SAMPLE_RATE)
            order = torch.randperm(len(lengths), generator=generator).numpy()
            order = order[_sorted(np.minimum(lengths[order], limit))]
            lengths = lengths[order]
            num_samples = np.minimum(lengths, limit)
        crops = (indices[order], self._starts(lengths, num_samples, places[order]), num_samples)
        del places, lengths, indices, order
        first = first_of_batches(
            num_samples, limit=self.config.seconds * SAMPLE_RATE, max_crops=self.config.max_utterances
        )
        return Epoch(crops, first, torch.randperm(len(first) - 1, generator=generator).numpy())

    @property
    def passes(self) -> NDArray[np.float64]:
        """(indices,) float64, how often an epoch holds each of the utterances `indices`, on average."""
        return np.ones(len(self.indices)) if self._mix is None else self._mix.passes

    def describe(self, epoch: int = 0) -> str:
        """Describe an epoch in one line: hours of each corpus, number of batches, share of padding."""
        names, codes = corpora(self._utterances, self.config.mix.by)
        codes = codes[self.indices]
        hours = np.bincount(codes, self.lengths, len(names)) / SAMPLE_RATE / 3600
        rounds = np.ones(len(names)) if self._mix is None else self._mix.rounds
        parts = [
            f"{name or 'other'} {of:.2f} h" + ("" if self._mix is None else f" x {times:.2g}")
            for name, of, times in zip(names, hours.tolist(), rounds.tolist(), strict=True)
        ]
        planned = self.epoch(epoch)
        return (
            f"data: {', '.join(parts) if len(parts) > 1 else f'{hours.sum():.2f} h'}; an epoch: {len(planned)} "
            f"batches, {planned.num_samples / SAMPLE_RATE / 3600:.2f} h, {planned.padding:.1%} padding"
        )

    def _round(self, corpus: int, number: int) -> torch.Generator:
        return seeded_generator(self.seed, "round", corpus, number)

    def _starts(self, lengths: Integers, num_samples: Integers, draws: NDArray[np.float64]) -> Integers:
        """Return the starts of crops of `num_samples` in utterances of `lengths`, from draws in [0, 1)."""
        starts = np.zeros_like(lengths)
        is_cut = lengths > num_samples
        places = (lengths[is_cut] - num_samples[is_cut]) // self.hop + 1
        starts[is_cut] = (draws[is_cut] * places).astype(np.int64) * self.hop
        return starts


def _sorted(values: NDArray[Any]) -> Integers:
    """Return the indices that sort `values`, stably; torch takes half the time of numpy."""
    return torch.sort(torch.from_numpy(values), stable=True).indices.numpy()


def collate(examples: Sequence[Example | str | SpeechSSLError], waveforms: Tensor | None = None) -> Batch:
    """Pad examples to a batch.

    Args:
        examples: examples; a string is the reason why one was skipped, an error the reason why reading has to stop.
        waveforms: (batch, time) float32, the padded waveforms of the examples; None to pad them here.

    Returns:
        The batch; it is empty if no example could be read.
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
    weights = [example.weight for example in good if example.weight is not None]
    return Batch(
        ids=tuple(example.id for example in good),
        waveforms=pad_sequence([e.waveform for e in good], batch_first=True) if waveforms is None else waveforms,
        num_samples=torch.tensor([len(example.waveform) for example in good]),
        labels=pad_sequence(labels).permute(2, 1, 0).contiguous() if labels else None,
        targets=pad_sequence(tokens, batch_first=True) if tokens else None,
        target_lengths=torch.tensor([len(row) for row in tokens]) if tokens else None,
        weights=torch.tensor(weights) if weights else None,
        skipped=skipped,
        error=error,
    )
