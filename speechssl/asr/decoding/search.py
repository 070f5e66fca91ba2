"""Prefix beam search over CTC log-probabilities, frame by frame, with arrays instead of loops over prefixes.

A `Grammar` gives the possible extensions of a prefix and their scores. Each prefix has two scores: of the paths that
end in a blank and of those that do not (Graves 2012, section 7.5; Hannun et al., arXiv:1408.2873). The probabilities of
paths to one prefix are added, or the best path counts. As in flashlight, each of the two scores takes a place in the
beam. Word boundaries before the first word and after a word boundary are skipped, and after the last frame each
hypothesis may end its last word at no cost.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from speechssl.config import configuration
from speechssl.errors import ConfigError
from speechssl.text.vocabulary import BLANK

__all__ = ["CLOSED", "Extensions", "Found", "Grammar", "SearchConfig", "closing_frame", "search"]

CLOSED = -1e4  # log-probability of all tokens but the word boundary in the closing frame

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@configuration
class SearchConfig:
    """Limits of the search."""

    beam: int = 100  # scores kept after each frame, at most two per prefix (flashlight: beam_size)
    threshold: float = 50.0  # scores this far below the best are dropped (flashlight: beam_threshold)
    tokens: int | None = (
        None  # most probable tokens tried in each frame; None: all, or 30 for pieces (flashlight: beam_size_token)
    )
    add_paths: bool = True  # add the probabilities of paths; False: take the best path (flashlight: log_add)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.beam < 1 or self.threshold <= 0 or (self.tokens is not None and self.tokens < 1):
            raise ConfigError(
                "search: expected beam, threshold and tokens above 0, "
                f"found {self.beam}, {self.threshold} and {self.tokens}"
            )


class Extensions(NamedTuple):
    """Possible extensions of some prefixes."""

    owner: Integers  # (extensions,): index of the extended prefix
    token: Integers  # (extensions,)
    edge: Integers  # (extensions,): unique among the extensions of one prefix
    bonus: Floats  # (extensions,): added to the score
    state: Integers  # (extensions, width): state of the grammar after the extension


class Grammar(Protocol):
    """Interface of the grammars: allowed extensions of prefixes, represented by rows of integers (states)."""

    edges: int  # larger than any edge

    @property
    def boundary(self) -> int | None:
        """The token between words; None if there is no such token."""
        ...

    def start(self) -> Integers:
        """Return the (width,) state of the empty prefix."""
        ...

    def extend(self, states: Integers, is_allowed: NDArray[np.bool_]) -> Extensions:
        """Return the extensions of (prefixes, width) states by the allowed tokens, (vocab,) bool."""
        ...

    def is_between_words(self, states: Integers) -> NDArray[np.bool_]:
        """Return (prefixes,) bool, True after a boundary that ended a word, or at the optional one before the text."""
        ...

    def finish(self, states: Integers) -> Floats:
        """Return (prefixes,) scores for the end of the text."""
        ...


class Found(NamedTuple):
    """A prefix at the end of the search."""

    score: float
    tokens: tuple[int, ...]  # tokens without blanks
    edges: tuple[int, ...]  # edges of the grammar, one per token


class _Prefixes:
    """All prefixes that have been in the beam, by number; the empty one is 0."""

    def __init__(self, grammar: Grammar) -> None:
        self.edges = grammar.edges
        self.numbers: dict[int, int] = {}  # number by key: parent x edges + edge
        self.keys = np.full(1, -1)
        self.tokens = np.full(1, BLANK if grammar.boundary is None else grammar.boundary)
        self.states = grammar.start()[None]

    def add(self, keys: Integers, tokens: Integers, states: Integers) -> Integers:
        """Return the numbers of prefixes, adding new ones."""
        numbers = np.empty(len(keys), np.int64)
        for place, key in enumerate(keys.tolist()):
            numbers[place] = self.numbers.setdefault(key, len(self.numbers) + 1)
        needed = len(self.numbers) + 1
        if needed > len(self.keys):
            more = max(needed, 2 * len(self.keys)) - len(self.keys)
            self.keys = np.concatenate([self.keys, np.zeros(more, np.int64)])
            self.tokens = np.concatenate([self.tokens, np.zeros(more, np.int64)])
            self.states = np.concatenate([self.states, np.zeros((more, self.states.shape[1]), np.int64)])
        self.keys[numbers], self.tokens[numbers], self.states[numbers] = keys, tokens, states
        return numbers

    def trace(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return tokens and edges of a prefix, first to last."""
        tokens, edges = [], []
        while number:
            tokens.append(int(self.tokens[number]))
            number, edge = divmod(int(self.keys[number]), self.edges)
            edges.append(edge)
        return tuple(tokens[::-1]), tuple(edges[::-1])


class _Beam(NamedTuple):
    """The active prefixes."""

    numbers: Integers  # (prefixes,)
    blank: Floats  # (prefixes,): log score of the paths that end in a blank; -inf if pruned
    other: Floats  # (prefixes,): log score of the paths that end in the prefix's last token


def closing_frame(vocab: int, boundary: int) -> Floats:
    """Return the (vocab,) log-probabilities of the frame that ends the last word."""
    frame = np.full(vocab, CLOSED)
    frame[boundary] = 0.0
    return frame


def search(log_probs: Floats, grammar: Grammar, config: SearchConfig) -> list[Found]:
    """Return the prefixes in the beam at the end, best first.

    Args:
        log_probs: (frames, vocab) of one utterance.
        grammar: the allowed texts and their scores.
        config: limits of the search.
    """
    prefixes = _Prefixes(grammar)
    nothing, certain = np.full(1, -np.inf), np.zeros(1)
    vocab = log_probs.shape[1]
    frames = [*log_probs]
    if grammar.boundary is None:
        beam = _Beam(np.zeros(1, np.int64), certain, nothing)  # as after a blank
    else:
        beam = _Beam(np.zeros(1, np.int64), nothing, certain)  # as after a boundary
        frames.append(closing_frame(vocab, grammar.boundary))
    is_allowed = np.ones(vocab, bool)
    for frame in frames:
        if config.tokens is not None and config.tokens < vocab:
            is_allowed[:] = False
            is_allowed[np.argpartition(-frame, config.tokens - 1)[: config.tokens]] = True
        beam = _step(beam, frame, prefixes, grammar, config, is_allowed)
    merge = np.logaddexp if config.add_paths else np.maximum
    states = prefixes.states[beam.numbers]
    scores = merge(beam.blank, beam.other)
    if grammar.boundary is not None:
        is_done = grammar.is_between_words(states)
        scores = np.where(is_done, scores, -np.inf) if is_done.any() else scores - CLOSED  # else: no word could end
    scores = scores + grammar.finish(states)
    order = np.argsort(-scores, kind="stable")
    return [Found(float(scores[i]), *prefixes.trace(int(beam.numbers[i]))) for i in order if scores[i] > -np.inf]


def _step(
    beam: _Beam,
    frame: Floats,
    prefixes: _Prefixes,
    grammar: Grammar,
    config: SearchConfig,
    is_allowed: NDArray[np.bool_],
) -> _Beam:
    """Advance the beam by a frame."""
    merge = np.logaddexp if config.add_paths else np.maximum
    states, last, keys = (table[beam.numbers] for table in (prefixes.states, prefixes.tokens, prefixes.keys))
    either = merge(beam.blank, beam.other)
    blank = either + frame[BLANK]
    other = np.where(grammar.is_between_words(states), either, beam.other) + frame[last]
    more = grammar.extend(states, is_allowed)
    new = np.where(more.token == last[more.owner], beam.blank[more.owner], either[more.owner])
    new = new + frame[more.token] + more.bonus
    new_keys = beam.numbers[more.owner] * prefixes.edges + more.edge
    sorting = np.argsort(keys, kind="stable")
    places = sorting[np.minimum(np.searchsorted(keys, new_keys, sorter=sorting), len(keys) - 1)]
    is_known = keys[places] == new_keys  # leads to an active prefix
    other[places[is_known]] = merge(other[places[is_known]], new[is_known])
    new[is_known] = -np.inf
    scores = np.concatenate([blank, other, new])
    kept = np.flatnonzero(scores >= max(scores.max() - config.threshold, np.finfo(np.float64).min))
    if len(kept) > config.beam:
        kept = kept[np.argpartition(-scores[kept], config.beam - 1)[: config.beam]]
    size = len(beam.numbers)
    is_kept = np.zeros(len(scores), bool)
    is_kept[kept] = True
    blank = np.where(is_kept[:size], blank, -np.inf)
    other = np.where(is_kept[size : 2 * size], other, -np.inf)
    lives = np.flatnonzero(is_kept[:size] | is_kept[size : 2 * size])
    born = np.flatnonzero(is_kept[2 * size :])
    numbers = prefixes.add(new_keys[born], more.token[born], more.state[born])
    return _Beam(
        np.concatenate([beam.numbers[lives], numbers]),
        np.concatenate([blank[lives], np.full(len(born), -np.inf)]),
        np.concatenate([other[lives], new[born]]),
    )
