"""Stage `stream`: raw samples as they arrive -> words as soon as they are settled, before the input ends."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from speechssl.asr.transcripts.timed import Timed, Transcript, best_path, words_of
from speechssl.audio.piped import Samples, samples_of
from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import configuration
from speechssl.errors import AudioError, ConfigError
from speechssl.hub.model_formats import read_saved
from speechssl.model.frames import frame_count
from speechssl.model.incremental import IncrementalEncoder
from speechssl.model.precision import Precision, pack
from speechssl.parallel import pick_device
from speechssl.tasks.ctc import CTCModel
from speechssl.text.vocabulary import BLANK, Vocabulary

__all__ = ["StreamConfig", "stream", "transcribe_stream"]

_LONGEST_S = 60.0  # after which a word without end, as models write in noise, is cut


@configuration
class StreamConfig:
    """How much audio is needed before a word is written.

    A word is written when the next begins, or its boundary is found, at most `chunk_s + ahead_s` later. A frame passes
    the convolutions once and the Transformer `(chunk_s + ahead_s) / chunk_s` times.
    """

    chunk_s: float = 1.0  # new audio for each run of the model
    ahead_s: float = 1.0  # look-ahead: a frame is settled when this much audio follows it
    context_s: float = 20.0  # audio that attention and statistics reach back to, that of a run included

    def __post_init__(self) -> None:
        if not (self.chunk_s > 0 and self.ahead_s >= 0 and self.chunk_s + self.ahead_s < self.context_s):
            raise ConfigError(
                f"expected chunk_s above 0 and chunk_s + ahead_s below context_s, found {self.chunk_s}, {self.ahead_s} "
                f"and {self.context_s}"
            )


def transcribe_stream(
    run: Path,
    source: BinaryIO,
    config: StreamConfig | None = None,
    *,
    tell: Callable[[Timed], None],
    precision: Precision = "float32",
) -> Transcript:
    """Transcribe samples with a fine-tuned model, or with the best step of a run.

    Args:
        run: folder of the run, or of a converted model.
        source: 16-bit little-endian mono samples at 16 kHz, raw or as wav, read until it ends.
        config: chunks and context; None for the defaults.
        tell: called with each word as soon as it is settled.
        precision: numbers of matrix products; other devices than CPUs compute in float32.

    Returns:
        All words, with the id `stream`; the duration is the end of the last word.

    Raises:
        AudioError: the source ends within a sample, or is another kind of file.
        CheckpointError: the model is not fine-tuned, or cannot be read.
    """
    samples = samples_of(source)
    saved = read_saved(run)
    model, vocabulary = saved.recogniser(shares=True)
    normalize = bool(saved.description.audio.normalize)
    del saved  # whose tensors packing is to release one by one
    model = pack(model.to(pick_device()), precision, in_place=True)
    words = []
    kept = _Kept(vocabulary, model.encoder.config.hop, model.encoder.config.window)
    for word in _heard(model, kept, samples, config or StreamConfig(), normalize=normalize):
        tell(word)
        words.append(word)
    return Transcript(
        id="stream",
        text=vocabulary.decode(kept.tokens),
        duration_s=words[-1].end_s if words else 0.0,
        words=tuple(words),
    )


def stream(
    model: CTCModel, vocabulary: Vocabulary, source: Samples, config: StreamConfig, *, normalize: bool = False
) -> Iterator[Timed]:
    """Yield the words in 16-bit little-endian mono samples at 16 kHz, each as soon as it is settled.

    Args:
        model: CTC model in evaluation mode.
        vocabulary: vocabulary of the model.
        source: samples, read until it ends.
        config: chunks and context.
        normalize: bring the audio of each run to zero mean and unit variance, as in the model's training.

    Raises:
        AudioError: the source ends within a sample.
    """
    kept = _Kept(vocabulary, model.encoder.config.hop, model.encoder.config.window)
    yield from _heard(model, kept, source, config, normalize=normalize)


def _heard(
    model: CTCModel, kept: "_Kept", source: Samples, config: StreamConfig, *, normalize: bool
) -> Iterator[Timed]:
    encoder = model.encoder.config
    context = round(config.context_s * encoder.frames_per_second)
    encoded = IncrementalEncoder(model.encoder, normalize=normalize, context=context)
    for chunk in _chunks(source, round(config.chunk_s * SAMPLE_RATE)):
        encoded.frames.add(chunk)
        sure = frame_count(encoded.frames.num_samples - round(config.ahead_s * SAMPLE_RATE), encoder.stack)
        sure -= sure % encoder.transformer.group
        if sure > kept.frames:
            yield from kept.add(_log_probs(model, encoded.settle(sure)))
    if encoded.frames.available > kept.frames:
        yield from kept.add(_log_probs(model, encoded.settle(encoded.frames.available)))
    yield from kept.finish()


class _Kept:
    """Settled frames of words that have not ended, without the blanks before them."""

    def __init__(self, vocabulary: Vocabulary, hop: int, window: int) -> None:
        self.frames = 0  # number of settled frames
        self.tokens: list[int] = []  # tokens of ended words, and the boundaries between them
        self._last = BLANK  # token of the last frame of ended words
        self._vocabulary, self._hop, self._window = vocabulary, hop, window
        self._open = torch.zeros((0, len(vocabulary)))  # log-probabilities since the last ended word

    def add(self, log_probs: Tensor) -> Iterator[Timed]:
        """Add (frames, vocab) log-probabilities and yield the words ended by a boundary or by the next word."""
        self.frames += len(log_probs)
        self._open = torch.cat([self._open, log_probs])
        if last := self._ended():
            yield from self._words(self._open[:last], self.frames - len(self._open))
            self._open = self._open[last:]
        if silent := int((self._open.argmax(-1) == BLANK).long().cumprod(0).sum()):  # blanks before the next word
            self._open, self._last = self._open[silent:], BLANK

    def finish(self) -> Iterator[Timed]:
        """Yield the word that ends with the source."""
        yield from self._words(self._open, self.frames - len(self._open))

    def _ended(self) -> int:
        """Return how many of the open frames belong to ended words; repeats of a token stay together."""
        ids = self._open.argmax(-1).tolist()
        for frame in reversed(range(len(ids))):
            if self._vocabulary.is_boundary(ids[frame]):
                return frame + 1
            if self._vocabulary.begins_word(ids[frame]) and ids[frame] != ids[max(0, frame - 1)]:
                return frame
        if len(ids) * self._hop > _LONGEST_S * SAMPLE_RATE:
            return max((frame + 1 for frame, each in enumerate(ids) if each == BLANK), default=len(ids))
        return 0

    def _words(self, log_probs: Tensor, first: int) -> Iterator[Timed]:
        tokens = best_path(log_probs)
        is_same = bool(tokens) and tokens[0].start == 0 and tokens[0].id == self._last  # as that of the frame before
        self.tokens += [token.id for token in tokens[is_same:]]
        self._last = int(log_probs[-1].argmax()) if len(log_probs) else self._last
        words, _ = words_of(tokens, self._vocabulary, hop=self._hop, window=self._window)
        shift_s = first * self._hop / SAMPLE_RATE
        for word in words:
            yield Timed(
                text=word.text,
                start_s=word.start_s + shift_s,
                end_s=word.end_s + shift_s,
                confidence=word.confidence,
            )


def _chunks(source: Samples, size: int) -> Iterator[Tensor]:
    left = b""
    while content := source.read(2 * size - len(left)):
        content = left + content
        left = content[len(content) // 2 * 2 :]
        yield torch.from_numpy(np.frombuffer(content[: len(content) // 2 * 2], "<i2").astype(np.float32) / 2**15)
    if left:
        raise AudioError("standard input ended within a sample; expected 16-bit little-endian mono at 16000 Hz")


@torch.no_grad()
def _log_probs(model: CTCModel, hidden: Tensor) -> Tensor:
    """Map (frames, dim) to (frames, vocab), on the CPU."""
    return model.head(model.dropout(hidden)).float().log_softmax(-1).cpu()
