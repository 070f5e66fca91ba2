"""Word pieces of a unigram model (Kudo 2018, arXiv:1804.10959), trained by SentencePiece and segmented here.

A model stores its pieces and their log-probabilities, so that decoding, alignment and scoring need no further package;
only training needs SentencePiece (extra `pieces`). SentencePiece's encoder would need its binary file beside each
model. Byte-pair encoding would need the merges; the unigram model was as good or better in the paper.
"""

import io
import math
from collections.abc import Iterable, Mapping

from speechssl.errors import ConfigError, VocabularyError

__all__ = ["WORD_START", "segment", "train_pieces"]

WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's mark for the space before a word


def train_pieces(texts: Iterable[str], size: int) -> dict[str, float]:
    """Train pieces on normalised texts, deterministically.

    Args:
        texts: with single spaces.
        size: number of pieces, including all letters; the result has fewer if the texts do not give as many.

    Returns:
        Log-probability by piece, the most probable first. Every letter and the start of a word are pieces.

    Raises:
        ConfigError: SentencePiece is not installed.
        VocabularyError: no text holds a letter, one holds the mark of the start of a word, or the size is too small.
    """
    lines = [text for text in texts if text]
    letters = {letter for text in lines for letter in text if not letter.isspace()}
    if not letters:
        raise VocabularyError("the training texts hold no letters; give the manifest a text column")
    if WORD_START in letters:
        raise VocabularyError(f"a training text holds {WORD_START!r}, which marks the start of a word; remove it")
    if size < len(letters) + 2:
        raise VocabularyError(
            f"units.size={size} is too small: the training texts hold {len(letters)} letters, each of which is a "
            f"piece, beside the start of a word; raise it to {len(letters) + 2} or more"
        )
    scores = _train(lines, size)
    lowest = min(scores.values())
    return scores | dict.fromkeys(sorted((letters | {WORD_START}) - set(scores)), lowest - 10)


def segment(text: str, scores: Mapping[str, float]) -> list[str]:
    """Return the most probable pieces of a text, word by word (Viterbi).

    Args:
        text: with single spaces.
        scores: log-probability by piece.

    Raises:
        ValueError: a word cannot be composed of pieces.
    """
    longest = max(map(len, scores), default=0)
    return [piece for word in text.split() for piece in _segment_word(WORD_START + word, scores, longest)]


def _segment_word(word: str, scores: Mapping[str, float], longest: int) -> list[str]:
    best = [0.0] + [-math.inf] * len(word)  # best log-probability of pieces that end here
    start = [0] * (len(word) + 1)
    for end in range(1, len(word) + 1):
        for begin in range(max(0, end - longest), end):
            score = best[begin] + scores.get(word[begin:end], -math.inf)
            if score > best[end]:
                best[end], start[end] = score, begin
    if best[-1] == -math.inf:
        raise ValueError(f"{word[1:]!r} cannot be composed of the pieces")
    pieces, end = [], len(word)
    while end:
        pieces.append(word[start[end] : end])
        end = start[end]
    return pieces[::-1]


def _train(lines: list[str], size: int) -> dict[str, float]:
    try:
        import sentencepiece
    except ImportError as error:
        raise ConfigError(
            "units.kind=pieces: expected the package sentencepiece, found none; `pip install 'speechssl[pieces]'`"
        ) from error
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=written,
            vocab_size=size + 1,  # the unknown token is removed below
            model_type="unigram",
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",  # texts are normalised already
            max_sentence_length=1_000_000,  # bytes; longer lines are skipped
            num_threads=1,  # more threads are not deterministic
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise VocabularyError(f"units.size={size}: SentencePiece cannot choose pieces ({error}); lower it") from error
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return {model.id_to_piece(i): model.get_score(i) for i in range(model.get_piece_size()) if not model.is_unknown(i)}
