"""Beam search in numpy: the prefix search with one of its grammars."""

from functools import partial
from itertools import groupby

import numpy as np
from torch import Tensor

from speechssl.asr.decoding.grammar import LexiconGrammar
from speechssl.asr.decoding.hypothesis import Hypothesis, first_words, place_tokens
from speechssl.asr.decoding.search import Found, Grammar, SearchConfig, search
from speechssl.asr.lm.lexicon import Lexicon
from speechssl.text.vocabulary import Vocabulary

__all__ = ["BeamDecoder"]


class BeamDecoder:
    """Decoder that returns several hypotheses for each utterance."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        grammar: Grammar,
        config: SearchConfig,
        *,
        nbest: int = 1,
        lexicon: Lexicon | None = None,
    ) -> None:
        """Prepare the decoder.

        Args:
            vocabulary: vocabulary of the model.
            grammar: the allowed texts and their scores.
            config: limits of the search.
            nbest: most hypotheses returned.
            lexicon: lexicon of a `LexiconGrammar`, whose words form the text.
        """
        self._vocabulary = vocabulary
        self._grammar = grammar
        self._config = config
        self._nbest = nbest
        self._lexicon = lexicon

    def decode(self, log_probs: Tensor, counts: Tensor) -> list[list[Hypothesis]]:
        """Decode a batch; see `Decoder`."""
        rows = zip(log_probs.cpu(), counts.tolist(), strict=True)
        return [self._decode_one(row[:count]) for row, count in rows]

    def _decode_one(self, log_probs: Tensor) -> list[Hypothesis]:
        found = search(log_probs.double().numpy(), self._grammar, self._config)
        merge = np.logaddexp if self._config.add_paths else np.maximum
        scores: dict[str, float] = {}
        spoken: dict[str, list[int]] = {}  # tokens of the best spelling, by text
        for one in found:
            words = self._words(one)
            text = self._vocabulary.join(words)
            scores[text] = float(merge(scores[text], one.score)) if text in scores else one.score
            boundary = self._grammar.boundary
            tokens = list(one.tokens) if boundary is None else first_words(one.tokens, boundary, len(words))
            spoken.setdefault(text, tokens)
        best = sorted(scores, key=lambda text: -scores[text])[: self._nbest]
        return [
            Hypothesis(text=text, score=scores[text], place=partial(place_tokens, log_probs, spoken[text]))
            for text in best
        ]

    def _words(self, found: Found) -> list[str]:
        if self._grammar.boundary is None:
            return self._vocabulary.decode(found.tokens).split()
        if self._lexicon is None or not isinstance(self._grammar, LexiconGrammar):
            spelt = groupby(found.tokens, key=self._grammar.boundary.__eq__)
            return [self._vocabulary.decode([*run]) for is_boundary, run in spelt if not is_boundary]
        entries = map(self._grammar.entry, found.edges)
        return [self._lexicon.words[entry] for entry in entries if entry is not None]
