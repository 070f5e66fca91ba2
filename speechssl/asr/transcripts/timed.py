"""CTC tokens with frames -> words with times in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.text.vocabulary import BLANK, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, and writing transcripts does not need it
    from torch import Tensor

__all__ = ["Timed", "Token", "Transcript", "best_path", "mean_probability", "tokens_of", "words_of"]


@dataclass(frozen=True, kw_only=True)
class Token:
    """A CTC token and its frames, with repeats merged and blanks left out."""

    id: int
    start: int  # first frame
    end: int  # first frame after it
    probability: float  # largest probability in its frames


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A word, or a letter, phone or piece, with its times."""

    text: str
    start_s: float
    end_s: float
    confidence: float  # mean probability of its letters, each at its best frame


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """Transcript of one utterance."""

    id: str
    text: str
    duration_s: float
    words: tuple[Timed, ...] = ()
    letters: tuple[Timed, ...] = ()
    path: str | None = None  # path of the audio
    start_s: float = 0.0  # start of the utterance in its file
    alternatives: tuple[tuple[str, float], ...] = ()  # n-best texts with scores, the best first, if requested
    shift: str | None = None  # noise or other shift that was applied to the audio; None: as recorded

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the words; None without words."""
        return sum(word.confidence for word in self.words) / len(self.words) if self.words else None


def best_path(log_probs: "Tensor") -> list[Token]:
    """Return the tokens of greedy decoding, with their frames.

    Args:
        log_probs: (frames, vocab) of one utterance, without padding.
    """
    values, ids = log_probs.max(-1)
    return tokens_of(ids.tolist(), values.exp().tolist())


def tokens_of(path: Sequence[int], probabilities: Sequence[float]) -> list[Token]:
    """Merge the repeats of a path and drop its blanks.

    Args:
        path: token of each frame.
        probabilities: probability of that token in each frame.
    """
    tokens, position = [], 0
    for token, run in groupby(path):
        length = len(list(run))
        if token != BLANK:
            best = max(probabilities[position : position + length])
            tokens.append(Token(id=token, start=position, end=position + length, probability=best))
        position += length
    return tokens


def mean_probability(tokens: Sequence[Token]) -> float:
    """Return the mean probability of tokens, each at its best frame: the confidence of a word, or of a text."""
    return sum(token.probability for token in tokens) / len(tokens)


def words_of(
    tokens: Sequence[Token], vocabulary: Vocabulary, *, hop: int, window: int
) -> tuple[tuple[Timed, ...], tuple[Timed, ...]]:
    """Join tokens to words.

    Args:
        tokens: tokens in order.
        vocabulary: vocabulary of the model.
        hop: samples from one frame to the next.
        window: samples in the window of a frame; a frame's time is the hop around the middle of its window.

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
    middle = (window - hop) / 2  # offset of the hop that represents a frame
    return Timed(
        text=vocabulary.write([vocabulary.tokens[token.id] for token in tokens]),
        start_s=(tokens[0].start * hop + middle) / SAMPLE_RATE,
        end_s=(tokens[-1].end * hop + middle) / SAMPLE_RATE,
        confidence=mean_probability(tokens),
    )
