"""Reads crops as examples: a waveform with unit labels or text tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from speechssl.audio.pcm import PcmReader, read_pcm
from speechssl.audio.reading import SAMPLE_RATE, AudioConfig, normalize_waveform
from speechssl.data.augment import Augment, UtteranceSpeeds, change_speed
from speechssl.data.batching import Batch, Crop, Example, collate
from speechssl.data.utterances import Manifest, Utterance
from speechssl.data.waveform import read_utterance
from speechssl.errors import AudioError, SpeechSSLError
from speechssl.text.vocabulary import BLANK

__all__ = ["LabelStream", "SpeechDataset", "load_in_order", "read_utterance"]


class LabelStream(Protocol):
    """Labels of frames, as `FrameLabels` gives them."""

    def at_frames(self, utterance_id: str, *, start: int, num_frames: int, hop: int, window: int) -> Tensor:
        """Return the (num_frames,) int64 labels of the frames of a crop that begins with the sample `start`."""


class SpeechDataset(Dataset[Example | str]):
    """Reads crops of a manifest's utterances."""

    def __init__(
        self,
        manifest: Manifest,
        audio: AudioConfig,
        *,
        hop: int,
        window: int,
        labels: Sequence[LabelStream] = (),
        tokens: Mapping[str, Sequence[float]] | None = None,
        weights: Mapping[str, float] | None = None,
        skip_bad: bool = False,
        speeds: UtteranceSpeeds | None = None,
        augment: Augment | None = None,
        settings: str | None = None,
    ) -> None:
        """Set what is read and how.

        Args:
            manifest: the utterances.
            audio: how audio is read.
            hop: samples from one encoder frame to the next.
            window: receptive field of an encoder frame, in samples.
            labels: one source of labels per stream, such as `FrameLabels`.
            tokens: token ids of each utterance's text, its class, or another number to predict, by utterance id.
            weights: factor of each utterance's loss, by utterance id.
            skip_bad: return the reason instead of raising when a file cannot be used.
            speeds: speed perturbation; the same that the batches were planned with.
            augment: other augmentation.
            settings: prefix of the audio settings in error messages: a section, as `dev.audio.`, or `--` for options.
        """
        self.manifest, self.audio, self.hop, self.window = manifest, audio, hop, window
        self.labels, self.tokens, self.weights, self.skip_bad = tuple(labels), tokens, weights, skip_bad
        self.speeds, self.augment, self.settings = speeds, augment, settings

    def __getitem__(self, crop: Crop) -> Example | str:
        """Read one crop, or return why it was skipped."""
        return self.example(crop)

    def example(
        self, crop: Crop, *, epoch: int = 0, read: PcmReader = read_pcm, out: Tensor | None = None
    ) -> Example | str:
        """Read one crop, into `out`, (time,) float32, where possible, or return why it was skipped."""
        row = self.manifest.utterances[crop.index]
        try:
            if self.augment is None and self.speeds is None:
                waveform = self._as_recorded(row, crop, self.audio, read=read, out=out)
            else:
                waveform = self._augmented(row, crop, epoch, read=read, out=out)
            if len(waveform) < self.window:
                raise AudioError(
                    f"{self.manifest.place(row)}: {len(waveform)} samples at 16 kHz, expected at least "
                    f"{self.window} (one frame of the encoder); remove the utterance"
                )
        except AudioError as error:
            if self.skip_bad:
                return str(error.under(self.settings))
            raise error.under(self.settings) from error
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
            weight=None if self.weights is None else self.weights[row.id],
        )

    def _as_recorded(
        self, row: Utterance, crop: Crop, audio: AudioConfig, *, read: PcmReader, out: Tensor | None
    ) -> Tensor:
        is_whole = crop.start == 0 and crop.num_samples >= row.num_samples_16k
        wanted = None if is_whole else crop.num_samples
        return read_utterance(self.manifest, row, audio, start=crop.start, num_samples=wanted, read=read, out=out)

    def _augmented(self, row: Utterance, crop: Crop, epoch: int, *, read: PcmReader, out: Tensor | None) -> Tensor:
        """Change the speed, augment, then normalise, each if configured."""
        audio = replace(self.audio, normalize=False)
        speed = Fraction(1) if self.speeds is None else self.speeds.of(epoch, crop.index)
        if speed == 1:
            waveform = self._as_recorded(row, crop, audio, read=read, out=out)
        else:
            waveform = change_speed(self.manifest, row, audio, speed, start=crop.start, num_samples=crop.num_samples)
        if self.augment is not None:
            waveform = self.augment(waveform, epoch=epoch, index=crop.index)
        if self.audio.normalize:
            normalize_waveform(waveform)
        return waveform

    def batch(
        self, crops: Sequence[Crop], *, epoch: int = 0, read: PcmReader = read_pcm, place: Tensor | None = None
    ) -> Batch:
        """Read crops and pad them; an error becomes the batch's `error`, so that it passes between processes.

        Args:
            crops: the crops of the batch.
            epoch: epoch, for augmentation.
            read: reader of 16-bit PCM.
            place: (samples,) float32, memory for the waveforms, used if they fit.
        """
        shape = (len(crops), max(crop.num_samples for crop in crops))
        fits = place is not None and len(place) >= shape[0] * shape[1]
        room = place[: shape[0] * shape[1]].view(shape) if place is not None and fits else torch.empty(shape)
        examples: list[Example | str | SpeechSSLError] = []
        for crop, out in zip(crops, room.unbind(), strict=True):
            try:
                examples.append(self.example(crop, epoch=epoch, read=read, out=out))
            except SpeechSSLError as error:
                examples.append(error)
        return collate(examples, room if _pad(room, examples) else None)

    def stand_in(self) -> Batch:
        """Return a second of noise that replaces a batch without usable audio; training gives it no weight."""
        num_samples = max(SAMPLE_RATE, 8 * self.window)
        noise = torch.rand(num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
        frames = (num_samples - self.window) // self.hop + 1
        example = Example(
            id="",
            waveform=noise,
            labels=torch.zeros((len(self.labels), frames), dtype=torch.long) if self.labels else None,
            tokens=None if self.tokens is None else torch.tensor([BLANK + 1]),
            weight=None if self.weights is None else 1.0,
        )
        return replace(collate([example]), ids=(), is_stand_in=True)


def load_in_order(dataset: SpeechDataset, *, seconds: float, max_padding: float = 1.0) -> Iterator[Batch]:
    """Yield every utterance once, whole, batched by length, the longest first so that memory fails early.

    Args:
        dataset: the utterances.
        seconds: most audio in a batch, including padding; a batch has at least one utterance.
        max_padding: largest share of padding in a batch; a smaller share makes smaller batches.
    """
    rows = dataset.manifest.utterances
    order = sorted(range(len(rows)), key=lambda i: -rows[i].num_samples_16k)
    batch: list[Crop] = []
    for index in order:
        longest = batch[0].num_samples if batch else rows[index].num_samples_16k
        padded = longest * (len(batch) + 1)
        speech = sum(crop.num_samples for crop in batch) + rows[index].num_samples_16k
        if batch and (padded > seconds * 16_000 or padded - speech > max_padding * padded):
            yield collate([dataset[crop] for crop in batch])
            batch = []
        batch.append(Crop(index, 0, rows[index].num_samples_16k))
    if batch:
        yield collate([dataset[crop] for crop in batch])


def _pad(room: Tensor, examples: Sequence[Example | str | SpeechSSLError]) -> bool:
    """Zero the padding in `room`; return False if an example lies elsewhere, or the longest does not fill its row."""
    lengths = []
    for row, example in zip(room, examples, strict=True):
        if not isinstance(example, Example) or example.waveform.data_ptr() != row.data_ptr():
            return False
        lengths.append(len(example.waveform))
    for row, length in zip(room, lengths, strict=True):
        row[length:] = 0
    return max(lengths) == room.shape[1]
