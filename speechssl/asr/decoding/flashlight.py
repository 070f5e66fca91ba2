"""Beam search with a lexicon by flashlight, through torchaudio's `ctc_decoder`; extra `decode`.

It finds the same texts in the same order as our own search with a lexicon, and is faster for narrow beams. kenlm reads
the language model.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.decoding.hypothesis import Hypothesis, first_words, place_tokens
from speechssl.asr.decoding.search import CLOSED, SearchConfig, closing_frame
from speechssl.asr.lm.lexicon import Lexicon
from speechssl.asr.transcripts.timed import Token
from speechssl.errors import ConfigError
from speechssl.text.vocabulary import BLANK, WORD_BOUNDARY, Vocabulary

__all__ = ["FlashlightDecoder"]


class FlashlightDecoder:
    """Flashlight's lexicon decoder, with the closing frame of our search."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        lexicon: Lexicon,
        lm: Path | None,
        weights: Weights,
        config: SearchConfig,
        *,
        nbest: int = 1,
    ) -> None:
        """Prepare the decoder; `lm` is an ARPA file or a kenlm binary.

        Raises:
            ConfigError: flashlight-text or kenlm is not installed, or the model cannot be read.
        """
        self._vocabulary = vocabulary
        self._nbest = nbest
        self._beam = config.beam
        self._adds_paths = config.add_paths
        self._boundary = vocabulary.tokens.index(WORD_BOUNDARY)
        self._join = vocabulary.join
        self._last = torch.from_numpy(closing_frame(len(vocabulary), self._boundary)).float()[None]
        make = _ctc_decoder()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lexicon.txt"
            lexicon.write(path)
            try:
                self._decoder = make(
                    lexicon=str(path),
                    tokens=list(vocabulary.tokens),
                    lm=None if lm is None else str(lm),
                    beam_size=config.beam,
                    beam_size_token=config.tokens,
                    beam_threshold=config.threshold,
                    lm_weight=weights.lm_weight,
                    word_score=weights.word_score,
                    log_add=config.add_paths,
                    blank_token=vocabulary.tokens[BLANK],
                    sil_token=WORD_BOUNDARY,
                )
            except RuntimeError as error:
                raise ConfigError(f"{lm}: kenlm cannot use the model: {' '.join(str(error).split())}") from error

    def decode(self, log_probs: Tensor, counts: Tensor) -> list[list[Hypothesis]]:
        """Decode a batch; see `Decoder`."""
        found = []
        for row, count in zip(log_probs.float().cpu(), counts.tolist(), strict=True):
            heard = row[:count].contiguous()
            self._decoder.decode_begin()
            self._decoder.decode_step(heard)
            self._decoder.decode_step(self._last)
            self._decoder.decode_end()
            best, is_cut = self._best(self._results(len(heard)))
            if is_cut:  # texts may end in unfinished words: several hypotheses may share one text
                best, _ = self._best(self._decoder.decoder.get_all_final_hypothesis())
            found.append(
                [
                    Hypothesis(text=text, score=score, place=partial(self._place, heard, one))
                    for text, (score, one) in [*best.items()][: self._nbest]
                ]
            )
        return found

    def _results(self, count: int) -> Sequence[Any]:
        """Return `count` of flashlight's results, best first; returning all would take as long as a frame.

        Flashlight's single best result stops at the last word end, which may lie before the last frame; then the first
        of all results is used. Its tokens are those of the frames, of the closing frame, and one at either end.
        """
        if self._nbest == 1 and len((best := self._decoder.decoder.get_best_hypothesis(0)).tokens) == count + 3:
            return [best]
        return self._decoder.decoder.get_all_final_hypothesis()[: self._nbest]

    def _best(self, results: Sequence[Any]) -> tuple[dict[str, tuple[float, Any]], bool]:
        """Return score and best result by text, best first.

        Also return whether none of them could end its last word, which is then left out of the text.
        """
        best: dict[str, tuple[float, Any]] = {}
        is_cut = False
        for one in results:
            is_cut |= one.score < CLOSED / 2
            score = one.score - CLOSED if is_cut else one.score
            text = self._join(self._words(one))
            if text not in best:
                best[text] = (score, one)
            elif self._adds_paths:
                best[text] = (float(np.logaddexp(best[text][0], score)), best[text][1])
        return dict(sorted(best.items(), key=lambda item: -item[1][0])), is_cut

    def _words(self, one: Any) -> list[str]:
        return [self._decoder.word_dict.get_entry(word) for word in one.words if word >= 0]

    def _place(self, heard: Tensor, one: Any) -> tuple[Token, ...]:
        merged = [token for token, _ in groupby(one.tokens) if token != BLANK]
        return place_tokens(heard, first_words(merged, self._boundary, len(self._words(one))))


def _ctc_decoder() -> Any:
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "decoding with flashlight needs flashlight-text and kenlm: pip install 'speechssl[decode]' "
            "(Python 3.12 or older, a compiler), or use kind=lexicon, which needs neither and finds the same texts"
        ) from error
    return ctc_decoder
