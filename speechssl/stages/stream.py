"""Stage `stream`: raw samples as they come in -> words as soon as they are sure, without hearing the whole."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from speechssl.asr.transcripts.timed import Timed, Transcript, best_path, words_of
from speechssl.audio.piped import Samples, samples_of
from speechssl.audio.reading import SAMPLE_RATE, normalize_waveform
from speechssl.config import configuration
from speechssl.data.batching import Example, collate
from speechssl.errors import AudioError, ConfigError
from speechssl.hub.model_formats import read_saved
from speechssl.model.frames import frame_count
from speechssl.parallel import pick_device
from speechssl.tasks.ctc import CTCModel
from speechssl.text.vocabulary import BLANK, Vocabulary

__all__ = ["StreamConfig", "stream", "transcribe_stream"]


@configuration
class StreamConfig:
    """How much is heard before a word is written. A word comes at most `chunk_s + ahead_s` and itself late."""

    chunk_s: float = 1.0  # the model runs once for so much new audio
    ahead_s: float = 1.0  # frames are kept when so much is known behind them
    context_s: float = 20.0  # that the model hears at a time

    def __post_init__(self) -> None:
        if not (self.chunk_s > 0 and self.ahead_s >= 0 and self.chunk_s + self.ahead_s < self.context_s):
            raise ConfigError(
                f"expected chunk_s above 0 and chunk_s + ahead_s below context_s, found {self.chunk_s}, {self.ahead_s} "
                f"and {self.context_s}"
            )


def transcribe_stream(
    run: Path, source: BinaryIO, config: StreamConfig | None = None, *, tell: Callable[[Timed], None]
) -> Transcript:
    """Transcribe samples with a fine-tuned model, of a run its best step.

    Args:
        run: folder of the run, or of a converted model.
        source: of 16-bit little-endian mono samples at 16 kHz, or wav of such, read until it ends.
        config: how soon; None for the defaults.
        tell: called with each word as soon as its end has been heard.

    Returns:
        All words, with the id `stream`; it lasts as long as to the end of the last.

    Raises:
        AudioError: the source ends within a sample, or is a file of another kind.
        CheckpointError: the model is not fine-tuned, or cannot be read.
    """
    samples = samples_of(source)
    saved = read_saved(run)
    model, vocabulary = saved.recogniser(shares=True)
    model.to(pick_device())
    words = []
    normalize = bool(saved.description.audio.normalize)
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
    """Yield the words of 16-bit little-endian mono samples at 16 kHz, each when its end has been heard.

    Args:
        model: in evaluation mode.
        vocabulary: of the model.
        source: of samples, read until it ends.
        config: how soon.
        normalize: bring what is heard at a time to zero mean and unit variance, as the model was trained.

    Raises:
        AudioError: the source ends within a sample.
    """
    kept = _Kept(vocabulary, model.encoder.config.hop, model.encoder.config.window)
    yield from _heard(model, kept, source, config, normalize=normalize)


def _heard(
    model: CTCModel, kept: "_Kept", source: Samples, config: StreamConfig, *, normalize: bool
) -> Iterator[Timed]:
    encoder = model.encoder.config
    heard = torch.zeros(0)
    dropped = 0  # samples before `heard`
    for chunk in _chunks(source, round(config.chunk_s * SAMPLE_RATE)):
        heard = torch.cat([heard, chunk])
        excess = len(heard) - round(config.context_s * SAMPLE_RATE)
        if excess > 0:
            excess = -(-excess // encoder.hop) * encoder.hop  # whole frames
            heard, dropped = heard[excess:], dropped + excess
        sure = dropped + len(heard) - round(config.ahead_s * SAMPLE_RATE)
        until = max(0, (sure - encoder.window) // encoder.hop + 1)
        if until > kept.frames:
            log_probs = _log_probs(model, heard, normalize)
            yield from kept.add(log_probs[kept.frames - dropped // encoder.hop : until - dropped // encoder.hop])
    if len(heard) >= encoder.window:
        yield from kept.add(_log_probs(model, heard, normalize)[kept.frames - dropped // encoder.hop :])
    yield from kept.finish()


class _Kept:
    """Frames that are settled, of words that are not finished."""

    def __init__(self, vocabulary: Vocabulary, hop: int, window: int) -> None:
        self.frames = 0  # settled in all
        self.tokens: list[int] = []  # of words that ended, and the boundaries between them
        self._last = BLANK  # token of the last frame of those
        self._vocabulary, self._hop, self._window = vocabulary, hop, window
        self._open = torch.zeros((0, len(vocabulary)))  # log-probabilities since the last word that ended

    def add(self, log_probs: Tensor) -> Iterator[Timed]:
        """Take (frames, vocab) and yield the words that a boundary, or the beginning of the next, ends."""
        self.frames += len(log_probs)
        self._open = torch.cat([self._open, log_probs])
        if last := self._ended():
            yield from self._words(self._open[:last], self.frames - len(self._open))
            self._open = self._open[last:]

    def finish(self) -> Iterator[Timed]:
        """Yield the word that the end of the source ends."""
        yield from self._words(self._open, self.frames - len(self._open))

    def _ended(self) -> int:
        """Return how many of the open frames hold words that have ended; repeats of a token stay together."""
        ids = self._open.argmax(-1).tolist()
        for frame in reversed(range(len(ids))):
            if self._vocabulary.is_boundary(ids[frame]):
                return frame + 1
            if self._vocabulary.begins_word(ids[frame]) and ids[frame] != ids[max(0, frame - 1)]:
                return frame
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
def _log_probs(model: CTCModel, waveform: Tensor, normalize: bool) -> Tensor:
    device = next(model.parameters()).device
    if normalize:
        waveform = waveform.clone()
        normalize_waveform(waveform)
    logits, _ = model.logits(collate([Example(id="", waveform=waveform)]).to(device))
    count = frame_count(len(waveform), model.encoder.config.conv)
    return logits[0, :count].float().log_softmax(-1).cpu()
