"""Decoder configurations of four kinds, and the decoders built from them for a vocabulary."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from speechssl.asr.decoding.beam import BeamDecoder
from speechssl.asr.decoding.flashlight import FlashlightDecoder
from speechssl.asr.decoding.grammar import LetterGrammar, LexiconGrammar, Weights, WordGrammar
from speechssl.asr.decoding.hypothesis import Decoder, GreedyDecoder
from speechssl.asr.decoding.piece_beam import PieceGrammar, letters_of
from speechssl.asr.decoding.search import SearchConfig
from speechssl.asr.decoding.trie import HotWords
from speechssl.asr.lm.arpa import read_arpa
from speechssl.asr.lm.lexicon import Lexicon, read_lexicon, spell
from speechssl.asr.lm.ngram_model import NGramModel
from speechssl.asr.lm.sentences import BEGIN, END, UNKNOWN
from speechssl.config import Discriminator, configuration
from speechssl.errors import ConfigError, VocabularyError
from speechssl.text.vocabulary import WORD_BOUNDARY, Vocabulary

__all__ = ["Beam", "DecoderConfig", "Flashlight", "Greedy", "WithLexicon", "build_decoder", "decoder_for"]


@configuration
class Greedy:
    """Greedy decoding: the most probable token of each frame."""

    kind: Literal["greedy"] = "greedy"


@configuration
class Beam:
    """Beam search over any letters, with or without a language model; needs no other package."""

    kind: Literal["beam"] = "beam"
    lm: Path | None = None  # ARPA file of words, or of letters (lm build --letters), which is detected
    weights: Weights = Weights()
    search: SearchConfig = SearchConfig()
    nbest: int = 1
    hot_words: tuple[str, ...] = ()
    hot_weight: float = 5.0  # score added for each hot word in the text, in natural logarithms


@configuration
class WithLexicon:
    """Beam search over the words of a lexicon, with or without a language model; needs no other package."""

    kind: Literal["lexicon"] = "lexicon"
    lexicon: Path
    lm: Path | None = None  # ARPA file of words
    weights: Weights = Weights()
    search: SearchConfig = SearchConfig(add_paths=False)
    nbest: int = 1
    hot_words: tuple[str, ...] = ()  # words to prefer; missing ones are added to the lexicon, spelled in letters
    hot_weight: float = 5.0


@configuration
class Flashlight:
    """The search of `WithLexicon` by flashlight; needs the extra `decode`."""

    kind: Literal["flashlight"] = "flashlight"
    lexicon: Path
    lm: Path | None = None  # ARPA file or kenlm binary of words
    weights: Weights = Weights()
    search: SearchConfig = SearchConfig(add_paths=False)
    nbest: int = 1


PIECES_TRIED = 30  # tokens per frame for models of pieces, which have hundreds, if `SearchConfig.tokens` is None

DecoderConfig = Annotated[Greedy | Beam | WithLexicon | Flashlight, Discriminator("kind")]


def decoder_for(
    lm: Path | None,
    lexicon: Path | None,
    weights: Weights,
    *,
    beam: int = 0,
    nbest: int = 1,
    hot: Sequence[str] = (),
    native: bool = False,
) -> Greedy | Beam | WithLexicon | Flashlight:
    """Choose the kind of decoder by the given options: greedy without any, a beam, or the words of a lexicon.

    Args:
        lm: ARPA file of words; without a lexicon also one of letters.
        lexicon: file of the words that may be written.
        weights: weights of the language model.
        beam: beam size; 0: that of `SearchConfig`, or greedy decoding if no other option needs a search.
        nbest: hypotheses of each utterance.
        hot: words to prefer.
        native: search with flashlight.

    Raises:
        ConfigError: flashlight is requested without a lexicon, or with hot words.
    """
    width = beam or SearchConfig.beam
    if native:
        if lexicon is None or hot:
            raise ConfigError(
                "flashlight needs a lexicon and supports no hot words; name a lexicon, or leave flashlight out"
            )
        return Flashlight(
            lexicon=lexicon, lm=lm, weights=weights, search=SearchConfig(beam=width, add_paths=False), nbest=nbest
        )
    if lexicon is not None:
        search = SearchConfig(beam=width, add_paths=False)
        return WithLexicon(lexicon=lexicon, lm=lm, weights=weights, search=search, nbest=nbest, hot_words=tuple(hot))
    if lm is None and not beam and nbest == 1 and not hot:
        return Greedy()
    return Beam(lm=lm, weights=weights, search=SearchConfig(beam=width), nbest=nbest, hot_words=tuple(hot))


def build_decoder(
    config: Greedy | Beam | WithLexicon | Flashlight, vocabulary: Vocabulary, *, lm: NGramModel | None = None
) -> Decoder:
    """Build a decoder for a model.

    Args:
        config: kind and settings.
        vocabulary: vocabulary of the model.
        lm: content of `config.lm`, if it was read before.

    Raises:
        ConfigError: a package is missing, or the vocabulary has no word boundary.
        VocabularyError: language model, lexicon or hot words do not match the vocabulary.
    """
    if isinstance(config, Greedy):
        return GreedyDecoder(vocabulary)
    if config.nbest < 1:
        raise ConfigError(f"nbest must be at least 1, found {config.nbest}")
    if vocabulary.written_in == "pieces":
        if isinstance(config, Flashlight):
            raise ConfigError("flashlight needs a token between words, and the model writes pieces; leave it out")
        return _with_pieces(config, vocabulary, lm or _read(config.lm))
    if WORD_BOUNDARY not in vocabulary.tokens:
        raise ConfigError(
            f"the model's vocabulary has no word boundary {WORD_BOUNDARY!r}: it can be decoded with kind=greedy only"
        )
    match config:
        case Flashlight():
            lexicon = _lexicon(config.lexicon, vocabulary)
            return FlashlightDecoder(vocabulary, lexicon, config.lm, config.weights, config.search, nbest=config.nbest)
        case WithLexicon():
            return _with_lexicon(config, vocabulary, lm or _read(config.lm))
        case Beam():
            return _beam(config, vocabulary, lm or _read(config.lm))


def _lexicon(path: Path, vocabulary: Vocabulary) -> Lexicon:
    """Read a lexicon, and print notes on ignored lines to standard error."""
    lexicon = read_lexicon(path, vocabulary)
    for note in lexicon.notes:
        print(note, file=sys.stderr)
    return lexicon


def _with_lexicon(config: WithLexicon, vocabulary: Vocabulary, lm: NGramModel | None) -> Decoder:
    lexicon = _lexicon(config.lexicon, vocabulary)
    missing = sorted(set(config.hot_words) - set(lexicon.words))
    hot = _hot_words(config, vocabulary)
    added = [spell(word, vocabulary) or () for word in missing]
    lexicon = Lexicon((*lexicon.words, *missing), (*lexicon.spellings, *added))
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    entries = [
        (word, [ids[token] for token in spelling])
        for word, spelling in zip(lexicon.words, lexicon.spellings, strict=True)
    ]
    grammar = LexiconGrammar(len(ids), ids[WORD_BOUNDARY], entries, lm, config.weights, hot)
    return BeamDecoder(vocabulary, grammar, config.search, nbest=config.nbest, lexicon=lexicon)


def _beam(config: Beam, vocabulary: Vocabulary, lm: NGramModel | None) -> Decoder:
    hot = _hot_words(config, vocabulary)
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    boundary = ids[WORD_BOUNDARY]
    if lm is None or _is_of_letters(lm):
        letters = LetterGrammar(vocabulary.tokens, boundary, lm, config.weights, hot)
        return BeamDecoder(vocabulary, letters, config.search, nbest=config.nbest)
    known = [(word, [ids[token] for token in spelling]) for word in lm.ids if (spelling := spell(word, vocabulary))]
    if not known:
        raise _no_words(config.lm, len(lm.ids), vocabulary)
    words = WordGrammar(len(ids), boundary, lm, known, config.weights, hot)
    return BeamDecoder(vocabulary, words, config.search, nbest=config.nbest)


def _with_pieces(config: Beam | WithLexicon, vocabulary: Vocabulary, lm: NGramModel | None) -> Decoder:
    letters = letters_of(vocabulary)
    ids = {letter: number for number, letter in enumerate(letters)}
    hot = _hot_words(config, Vocabulary(letters))
    judge: LetterGrammar | WordGrammar
    words: Collection[str] | None = None  # words that are scored, or allowed; None for letters
    if isinstance(config, WithLexicon):
        words = _of_pieces(config, vocabulary)
    elif lm is not None and not _is_of_letters(lm):
        words = lm.ids
    if words is None:
        judge = LetterGrammar(letters, ids[WORD_BOUNDARY], lm, config.weights, hot)
    else:
        known = [(word, [ids[letter] for letter in word]) for word in words if {*word} <= ids.keys()]
        if not known:
            raise _no_words(config.lm, len(words), vocabulary)
        is_lexicon = isinstance(config, WithLexicon)
        judge = WordGrammar(len(letters), ids[WORD_BOUNDARY], lm, known, config.weights, hot, only_known=is_lexicon)
    search = config.search if config.search.tokens else replace(config.search, tokens=PIECES_TRIED)
    return BeamDecoder(vocabulary, PieceGrammar(vocabulary, judge), search, nbest=config.nbest)


def _of_pieces(config: WithLexicon, vocabulary: Vocabulary) -> list[str]:
    """Return the words of a lexicon and the hot words; their spelling must be the one that their pieces write."""
    lexicon = _lexicon(config.lexicon, vocabulary)
    for word, spelling in zip(lexicon.words, lexicon.spellings, strict=True):
        if vocabulary.write(spelling) != word:
            raise VocabularyError(
                f"{config.lexicon}: {word} is spelled {' '.join(spelling)}, which writes another word; "
                "make the lexicon with `speechssl lm lexicon` for this model"
            )
    return [*lexicon.words, *config.hot_words]


def _no_words(path: Path | None, count: int, vocabulary: Vocabulary) -> VocabularyError:
    return VocabularyError(
        f"{path}: none of its {count} words can be spelled in the model's {vocabulary.written_in}; "
        "build it from texts of its language and case"
    )


def _is_of_letters(lm: NGramModel) -> bool:
    ordinary = lm.ids.keys() - {UNKNOWN, BEGIN, END}
    return WORD_BOUNDARY in ordinary and all(len(word) == 1 for word in ordinary)


def _read(path: Path | None) -> NGramModel | None:
    return None if path is None else read_arpa(path)


def _hot_words(config: Beam | WithLexicon, vocabulary: Vocabulary) -> HotWords | None:
    if not config.hot_words:
        return None
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    for word in config.hot_words:
        if spell(word, vocabulary) is None:
            raise VocabularyError(
                f"hot word {word!r} cannot be spelled in the model's {vocabulary.written_in}; "
                "give single words, as the model writes them"
            )
    spellings = [[ids[token] for token in spell(word, vocabulary) or ()] for word in config.hot_words]
    return HotWords(spellings, len(ids), ids[WORD_BOUNDARY], config.hot_weight)
