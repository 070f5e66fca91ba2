"""Crop of an utterance -> example: waveform, with unit labels or text tokens. One at a time, in any worker."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from speechssl.data.audio import AudioConfig, read_audio
from speechssl.data.batching import Batch, BatchSampler, Crop, Example, collate
from speechssl.data.labels import FrameLabels
from speechssl.data.manifest import Manifest
from speechssl.errors import AudioError

__all__ = ["SpeechDataset", "load_batches", "load_in_order"]


class SpeechDataset(Dataset[Example | str]):
    """Reads what a `Crop` asks for."""

    def __init__(
        self,
        manifest: Manifest,
        audio: AudioConfig,
        *,
        hop: int,
        window: int,
        labels: Sequence[FrameLabels] = (),
        tokens: Mapping[str, Sequence[int]] | None = None,
        skip_bad_audio: bool = False,
    ) -> None:
        """Prepare to read.

        Args:
            manifest: the utterances.
            audio: policy for decoding.
            hop: samples from one encoder frame to the next.
            window: samples one encoder frame looks at.
            labels: one `FrameLabels` a stream.
            tokens: text of each utterance as ids.
            skip_bad_audio: hand back the reason instead of raising when a file cannot be used.
        """
        self.manifest, self.audio, self.hop, self.window = manifest, audio, hop, window
        self.labels, self.tokens, self.skip_bad_audio = tuple(labels), tokens, skip_bad_audio

    def __getitem__(self, crop: Crop) -> Example | str:
        """Read one crop; a string says why it was skipped."""
        row = self.manifest.utterances[crop.index]
        is_whole = crop.start == 0 and crop.num_samples >= row.num_samples_16k
        try:
            waveform = read_audio(
                self.manifest.audio_path(row),
                self.audio,
                start=crop.start,
                num_samples=None if is_whole else crop.num_samples,
                expected_samples=row.num_samples,
            )
            if len(waveform) < self.window:
                raise AudioError(
                    f"{self.manifest.audio_path(row)}: {len(waveform)} samples at 16 kHz, expected at least "
                    f"{self.window} (one frame of the encoder); remove the utterance"
                )
        except AudioError as error:
            if self.skip_bad_audio:
                return str(error)
            raise
        num_frames = (len(waveform) - self.window) // self.hop + 1
        streams = [
            stream.at_frames(row.id, start=crop.start, num_frames=num_frames, hop=self.hop, window=self.window)
            for stream in self.labels
        ]
        return Example(
            id=row.id,
            waveform=waveform,
            labels=torch.stack(streams) if streams else None,
            tokens=None if self.tokens is None else torch.tensor(self.tokens[row.id]),
        )


def load_batches(
    dataset: SpeechDataset, sampler: BatchSampler, *, epoch: int, position: int, workers: int
) -> Iterator[tuple[int, int, Batch]]:
    """Yield (epoch, position, batch) without end from any place; the same batches for any number of workers."""
    while True:
        batches = sampler.epoch(epoch)[position:]
        loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator(),  # or it would draw from the global one, and a resumed run would differ
        )
        for index, batch in enumerate(loader, start=position):
            yield epoch, index, batch
        epoch, position = epoch + 1, 0


def load_in_order(dataset: SpeechDataset, *, seconds: float) -> Iterator[Batch]:
    """Yield every utterance once, whole, batched by length, the longest first so that memory fails early."""
    rows = dataset.manifest.utterances
    order = sorted(range(len(rows)), key=lambda i: -rows[i].num_samples_16k)
    batch: list[Crop] = []
    for index in order:
        longest = batch[0].num_samples if batch else rows[index].num_samples_16k
        if batch and longest * (len(batch) + 1) > seconds * 16_000:
            yield collate([dataset[crop] for crop in batch])
            batch = []
        batch.append(Crop(index, 0, rows[index].num_samples_16k))
    if batch:
        yield collate([dataset[crop] for crop in batch])
