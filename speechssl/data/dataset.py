"""Crop of an utterance -> example: waveform, with unit labels or text tokens. One at a time, in any worker."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speechssl.data.audio import SAMPLE_RATE, AudioConfig, read_audio
from speechssl.data.batching import Batch, BatchSampler, Crop, Example, collate
from speechssl.data.labels import FrameLabels
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.vocabulary import BLANK
from speechssl.errors import AudioError, SpeechSSLError, TrainingError

__all__ = ["SpeechDataset", "load_batches", "load_in_order", "read_utterance"]


def read_utterance(
    manifest: Manifest, row: Utterance, config: AudioConfig, *, start: int = 0, num_samples: int | None = None
) -> Tensor:
    """Read an utterance that `manifest` lists, or a part of it, wherever it lies.

    Args:
        manifest: says where paths start from.
        row: the utterance.
        config: policy for decoding.
        start: first sample wanted, at 16 kHz.
        num_samples: wanted, at 16 kHz; None for all from `start` on.

    Returns:
        (time,) float32, 16 kHz.

    Raises:
        AudioError: it cannot be read, or is not as the manifest says.
    """
    return read_audio(
        manifest.place(row),
        config,
        segment=row.segment,
        start=start,
        num_samples=num_samples,
        expected_samples=row.file_samples or row.num_samples,
    )


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
            waveform = read_utterance(
                self.manifest, row, self.audio, start=crop.start, num_samples=None if is_whole else crop.num_samples
            )
            if len(waveform) < self.window:
                raise AudioError(
                    f"{self.manifest.place(row)}: {len(waveform)} samples at 16 kHz, expected at least "
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

    def stand_in(self) -> Batch:
        """Return a second of noise in place of a batch whose audio is all bad; the training loop gives it no weight."""
        num_samples = max(SAMPLE_RATE, 8 * self.window)
        noise = torch.rand(num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
        frames = (num_samples - self.window) // self.hop + 1
        example = Example(
            id="",
            waveform=noise,
            labels=torch.zeros((len(self.labels), frames), dtype=torch.long) if self.labels else None,
            tokens=None if self.tokens is None else torch.tensor([BLANK + 1]),
        )
        return replace(collate([example]), ids=(), is_stand_in=True)


def load_batches(
    dataset: SpeechDataset,
    sampler: BatchSampler,
    *,
    epoch: int,
    position: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[int, int, Batch]]:
    """Yield this rank's batches without end, from any place; the same for any number of workers.

    The batches of all epochs are one sequence, and ranks take them in turn. Where a batch has no usable audio, a
    stand-in comes in its place, so that every rank has as many.

    Args:
        dataset: reads the crops.
        sampler: plans the epochs.
        epoch: to begin with.
        position: in it of the first batch that any rank takes.
        workers: processes that read; 0 reads in this one.
        rank: of this process.
        world_size: number of ranks.

    Yields:
        Epoch and position with which all ranks go on after this batch, and the batch.

    Raises:
        SpeechSSLError: what the dataset raises; also from a worker.
        TrainingError: a worker died.
    """
    position += rank
    while True:
        batches = sampler.epoch(epoch)
        loader: DataLoader[Batch] = DataLoader(
            _Guarded(dataset),  # type: ignore[arg-type]
            batch_sampler=batches[position::world_size],
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_ignore_stops,
            pin_memory=torch.cuda.is_available(),  # or its copy to the device makes the step wait
            generator=torch.Generator(),  # or it would draw from the global one, and a resumed run would differ
        )
        for batch in _living(loader):
            if batch.error is not None:
                raise batch.error
            following = position - rank + world_size  # may lie past the end, and then means the next epoch
            yield epoch, following, batch if batch.ids else replace(dataset.stand_in(), skipped=batch.skipped)
            position += world_size
        epoch, position = epoch + 1, position - len(batches)


class _Guarded(Dataset[Example | str | SpeechSSLError]):
    """Hands errors back as values: a worker's exception would arrive as its traceback, in one long text."""

    def __init__(self, dataset: SpeechDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, crop: Crop) -> Example | str | SpeechSSLError:
        try:
            return self.dataset[crop]
        except SpeechSSLError as error:
            return error


def _ignore_stops(_: int) -> None:
    """Leave Ctrl-C, and what schedulers send to a whole process group, to the process that trains and will save."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _living(loader: "DataLoader[Batch]") -> Iterator[Batch]:
    try:
        yield from loader
    except RuntimeError as error:  # torch has no class for it
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads audio died ({str(error).splitlines()[0]}); memory may have run out: lower "
            "train.workers or batch.seconds, and run the same command again to go on"
        ) from error


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
