"""Frames of CTC tokens to words with times in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.text.vocabulary import BLANK, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import: what is written of transcripts goes without
    from torch import Tensor

__all__ = ["Timed", "Token", "Transcript", "best_path", "tokens_of", "words_of"]


@dataclass(frozen=True, kw_only=True)
class Token:
    """A CTC token and the frames that it holds, repeats merged and blanks left out."""

    id: int
    start: int  # first frame
    end: int  # first frame behind it
    probability: float  # the largest of its frames


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A word, or a letter, phone or piece of it, and when it was said."""

    text: str
    start_s: float
    end_s: float
    confidence: float  # mean probability of its letters, each at its best frame


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was said in one utterance."""

    id: str
    text: str
    duration_s: float
    words: tuple[Timed, ...] = ()
    letters: tuple[Timed, ...] = ()
    path: str | None = None  # of the audio
    start_s: float = 0.0  # of the utterance in its file
    alternatives: tuple[tuple[str, float], ...] = ()  # texts with scores, the best first, where more were asked for

    @property
    def confidence(self) -> float | None:
        """Mean of the words', or None without any."""
        return sum(word.confidence for word in self.words) / len(self.words) if self.words else None


def best_path(log_probs: "Tensor") -> list[Token]:
    """Return the tokens of the most probable token of each frame: greedy decoding, with times.

    Args:
        log_probs: (frames, vocab), of one utterance without padding.
    """
    values, ids = log_probs.max(-1)
    return tokens_of(ids.tolist(), values.exp().tolist())


def tokens_of(path: Sequence[int], probabilities: Sequence[float]) -> list[Token]:
    """Merge the repeats of a path and leave its blanks out.

    Args:
        path: token of each frame.
        probabilities: of that token in each frame.
    """
    tokens, position = [], 0
    for token, run in groupby(path):
        length = len(list(run))
        if token != BLANK:
            best = max(probabilities[position : position + length])
            tokens.append(Token(id=token, start=position, end=position + length, probability=best))
        position += length
    return tokens


def words_of(
    tokens: Sequence[Token], vocabulary: Vocabulary, *, hop: int, window: int
) -> tuple[tuple[Timed, ...], tuple[Timed, ...]]:
    """Put tokens together to words.

    Args:
        tokens: in order.
        vocabulary: of the model.
        hop: samples from one frame to the next.
        window: samples that a frame looks at; its middle half hop before and behind is taken for its time.

    Returns:
        Words and letters, in seconds from the beginning of the utterance.
    """
    words, letters = [], []
    for places in vocabulary.words([token.id for token in tokens]):
        spelt = [tokens[place] for place in places]
        timed = [_timed([token], vocabulary, hop, window) for token in spelt]
        letters += timed
        words.append(_timed(spelt, vocabulary, hop, window))
    return tuple(words), tuple(letters)


def _timed(tokens: Sequence[Token], vocabulary: Vocabulary, hop: int, window: int) -> Timed:
    middle = (window - hop) / 2  # where the hop lies that stands for a frame
    return Timed(
        text=vocabulary.write([vocabulary.tokens[token.id] for token in tokens]),
        start_s=(tokens[0].start * hop + middle) / SAMPLE_RATE,
        end_s=(tokens[-1].end * hop + middle) / SAMPLE_RATE,
        confidence=sum(token.probability for token in tokens) / len(tokens),
    )
