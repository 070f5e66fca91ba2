"""Crop of an utterance -> example: waveform, with unit labels or text tokens. In any worker, with any reader."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from speechssl.data.audio import SAMPLE_RATE, AudioConfig, normalize_waveform, read_audio
from speechssl.data.batching import Batch, Crop, Example, collate
from speechssl.data.labels import FrameLabels
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.pcm import PcmReader, read_pcm, to_float
from speechssl.data.vocabulary import BLANK
from speechssl.errors import AudioError, SpeechSSLError

__all__ = ["SpeechDataset", "load_in_order", "read_utterance"]


def read_utterance(
    manifest: Manifest,
    row: Utterance,
    config: AudioConfig,
    *,
    start: int = 0,
    num_samples: int | None = None,
    read: PcmReader = read_pcm,
    out: Tensor | None = None,
) -> Tensor:
    """Read an utterance that `manifest` lists, or a part of it, wherever it lies.

    Args:
        manifest: says where paths start from.
        row: the utterance.
        config: policy for decoding.
        start: first sample wanted, at 16 kHz.
        num_samples: wanted, at 16 kHz; None for all from `start` on.
        read: tried first, where the audio is of the usual kind; `read_audio` looks at what it leaves.
        out: (time,) float32, room that is used if the audio fits.

    Returns:
        (time,) float32, 16 kHz.

    Raises:
        AudioError: it cannot be read, or is not as the manifest says.
    """
    waveform = _read_usual(manifest, row, config, start=start, num_samples=num_samples, read=read, out=out)
    if waveform is not None:
        return waveform
    return read_audio(
        manifest.place(row),
        config,
        segment=row.segment,
        start=start,
        num_samples=num_samples,
        expected_samples=row.file_samples or row.num_samples,
    )


def _read_usual(
    manifest: Manifest,
    row: Utterance,
    config: AudioConfig,
    *,
    start: int,
    num_samples: int | None,
    read: PcmReader,
    out: Tensor | None,
) -> Tensor | None:
    """Read 16-bit mono audio at 16 kHz; None where it is not that, or something seems wrong."""
    if (row.sample_rate, row.channels) != (SAMPLE_RATE, 1) or config.min_sample_rate > SAMPLE_RATE:
        return None
    count = row.num_samples - start
    if num_samples is not None:
        count = min(count, num_samples)
    elif row.duration_s > config.max_duration_s:
        return None
    if count <= 0:
        return None
    samples = read(manifest.place(row), row.start + start, count, row.file_samples or row.num_samples)
    if samples is None or (num_samples is None and start == 0 and not samples.any()):
        return None
    waveform = torch.empty(count) if out is None or len(out) < count else out[:count]
    to_float(samples, waveform.numpy())
    if config.normalize:
        normalize_waveform(waveform)
    return waveform


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
        return self.example(crop)

    def example(self, crop: Crop, *, read: PcmReader = read_pcm, out: Tensor | None = None) -> Example | str:
        """Read one crop, into `out`, (time,) float32, if it can be; a string says why it was skipped."""
        row = self.manifest.utterances[crop.index]
        is_whole = crop.start == 0 and crop.num_samples >= row.num_samples_16k
        wanted = None if is_whole else crop.num_samples
        try:
            waveform = read_utterance(
                self.manifest, row, self.audio, start=crop.start, num_samples=wanted, read=read, out=out
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

    def batch(self, crops: Sequence[Crop], *, read: PcmReader = read_pcm) -> Batch:
        """Read crops and pad them; what would be raised becomes the batch's `error`, which passes between processes."""
        room = _room(len(crops), max(crop.num_samples for crop in crops))
        examples: list[Example | str | SpeechSSLError] = []
        for crop, out in zip(crops, room.unbind(), strict=True):
            try:
                examples.append(self.example(crop, read=read, out=out))
            except SpeechSSLError as error:
                examples.append(error)
        return collate(examples, room if _pad(room, examples) else None)

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


def _room(batch: int, time: int) -> Tensor:
    """Return (batch, time) float32 to be filled; in a worker process, memory that the parent sees without a copy."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty((batch, time))
    storage = torch.UntypedStorage._new_shared(4 * batch * time, device="cpu")  # as torch's own collate does
    return torch.empty(0).set_(storage, 0, (batch, time))  # type: ignore[call-overload]


def _pad(room: Tensor, examples: Sequence[Example | str | SpeechSSLError]) -> bool:
    """Write zeros behind the examples; False if one is not in its place, or none fills its row."""
    lengths = []
    for row, example in zip(room, examples, strict=True):
        if not isinstance(example, Example) or example.waveform.data_ptr() != row.data_ptr():
            return False
        lengths.append(len(example.waveform))
    for row, length in zip(room, lengths, strict=True):
        row[length:] = 0
    return max(lengths) == room.shape[1]
