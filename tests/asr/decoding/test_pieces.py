"""Search over pieces of words: speechssl.asr.decoding.piece_beam, and what `build_decoder` makes of it."""

import itertools
import math
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from speechssl.asr.decoding.decoders import Beam, Flashlight, WithLexicon, build_decoder
from speechssl.asr.decoding.grammar import Weights
from speechssl.asr.decoding.search import SearchConfig
from speechssl.asr.lm.arpa import read_arpa, write_arpa
from speechssl.asr.lm.kneser_ney import NGramConfig, estimate
from speechssl.asr.lm.lexicon import Lexicon, read_lexicon, spell
from speechssl.asr.lm.sentences import as_letters
from speechssl.errors import ConfigError, VocabularyError
from speechssl.text.vocabulary import Vocabulary

TOKENS = ("<blank>", "▁", "▁a", "ab", "b", "a")
VOCABULARY = Vocabulary(TOKENS, "pieces", scores={token: -float(i) for i, token in enumerate(TOKENS[1:], start=1)})
TEXTS = [["a", "ab"], ["ab", "a", "bb"], ["a"], ["bb", "ab"], ["a", "ab", "ba"]]
WEIGHTS = Weights(lm_weight=1.5, word_score=0.7, unknown_score=-1.0)
WIDE = SearchConfig(beam=100_000, threshold=1e9, tokens=len(TOKENS))


def random_log_probs(frames: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(1, frames, len(TOKENS), generator=generator)).log_softmax(-1)


def oracle(log_probs: torch.Tensor) -> dict[str, float]:
    """Return the summed probability of all paths to each text, as logarithms."""
    found: dict[str, float] = defaultdict(float)
    rows = log_probs[0].double().tolist()
    for path in itertools.product(range(len(TOKENS)), repeat=len(rows)):
        written = "".join(TOKENS[token] for token, _ in itertools.groupby(path) if token)
        found[" ".join(written.replace("▁", " ").split())] += math.exp(
            sum(row[token] for row, token in zip(rows, path, strict=True))
        )
    return {text: math.log(value) for text, value in found.items()}


def decoded(config: Beam | WithLexicon, log_probs: torch.Tensor) -> dict[str, float]:
    (found,) = build_decoder(config, VOCABULARY).decode(log_probs, torch.tensor([log_probs.shape[1]]))
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    return {one.text: one.score for one in found}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    for name, sentences in (("words", TEXTS), ("letters", [as_letters(words) for words in TEXTS])):
        write_arpa(tmp_path / f"{name}.arpa", estimate(sentences, NGramConfig(order=2)))
    return {name: tmp_path / f"{name}.arpa" for name in ("words", "letters")}


@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_model_every_text_scores_as_all_its_paths(seed):
    log_probs = random_log_probs(5, seed)
    found = decoded(Beam(search=WIDE, nbest=10_000), log_probs)
    assert found == pytest.approx(oracle(log_probs))


@pytest.mark.parametrize("kind", ["words", "letters"])
def test_models_judge_whole_texts_however_their_words_are_put_together(kind, models):
    log_probs = random_log_probs(5, 2)
    found = decoded(Beam(lm=models[kind], weights=WEIGHTS, search=WIDE, nbest=10_000), log_probs)
    lm = read_arpa(models[kind])
    paths = oracle(log_probs)
    assert found.keys() == paths.keys()
    for text, score in paths.items():
        words = text.split()
        said = as_letters(words) if kind == "letters" else words
        unknown = 0 if kind == "letters" else sum(word not in lm.ids for word in words)
        extra = WEIGHTS.word_score * len(words) + WEIGHTS.unknown_score * unknown
        assert found[text] == pytest.approx(score + 1.5 * lm.score_sentence(said).sum() + extra)


@pytest.mark.parametrize("has_model", [True, False])
def test_a_lexicon_keeps_the_texts_of_its_words(has_model, models, tmp_path):
    lexicon, refused = Lexicon.from_sentences([["ab", "a", "bb", "x"]], VOCABULARY)
    lexicon.write(tmp_path / "lexicon.txt")
    assert refused == ["x"] and read_lexicon(tmp_path / "lexicon.txt", VOCABULARY) == lexicon
    assert (tmp_path / "lexicon.txt").read_text() == "a\t▁a\nab\t▁ ab\nbb\t▁ b b\n"
    lm = models["words"] if has_model else None
    log_probs = random_log_probs(6, 3)
    config = WithLexicon(lexicon=tmp_path / "lexicon.txt", lm=lm, search=WIDE, nbest=10_000)
    found = decoded(config, log_probs)
    expected = {text for text in oracle(log_probs) if set(text.split()) <= {"a", "ab", "bb"}}
    assert found.keys() == expected
    hot = decoded(
        WithLexicon(lexicon=config.lexicon, lm=lm, search=WIDE, nbest=10_000, hot_words=("ab",), hot_weight=2.0),
        log_probs,
    )
    assert hot == pytest.approx({text: score + 2 * text.split().count("ab") for text, score in found.items()})


def test_where_no_word_can_end_there_is_a_text_all_the_same(tmp_path):
    (tmp_path / "lexicon.txt").write_text("abab\t▁ ab ab\n")
    log_probs = torch.log(torch.eye(6)[[2, 4]] * 0.9 + 0.02)[None]
    assert [*decoded(WithLexicon(lexicon=tmp_path / "lexicon.txt", search=SearchConfig(beam=1)), log_probs)] == ["ab"]


def test_the_text_has_the_times_of_its_likeliest_pieces():
    log_probs = torch.log(torch.eye(6)[[2, 0, 4, 4, 0, 2]] * 0.9 + 0.02)[None]
    (found,) = build_decoder(Beam(), VOCABULARY).decode(log_probs, torch.tensor([6]))
    assert found[0].text == "ab a"
    assert [(token.id, token.start, token.end) for token in found[0].tokens] == [(2, 0, 1), (4, 2, 4), (2, 5, 6)]


def test_what_does_not_fit_is_refused(models, tmp_path):
    (tmp_path / "lexicon.txt").write_text("ab\t▁ ab\n")
    with pytest.raises(ConfigError, match="flashlight needs a token between words"):
        build_decoder(Flashlight(lexicon=tmp_path / "lexicon.txt"), VOCABULARY)
    with pytest.raises(VocabularyError, match="hot word 'ax' cannot be spelled"):
        build_decoder(Beam(hot_words=("ax",)), VOCABULARY)
    write_arpa(tmp_path / "other.arpa", estimate([["xy", "z"], ["z"], ["z", "xy"]], NGramConfig(order=2)))
    with pytest.raises(VocabularyError, match="none of its"):
        build_decoder(Beam(lm=tmp_path / "other.arpa"), VOCABULARY)
    (tmp_path / "lexicon.txt").write_text("Ab\t▁ ab\n")
    with pytest.raises(VocabularyError, match="Ab is spelled ▁ ab"):
        build_decoder(WithLexicon(lexicon=tmp_path / "lexicon.txt"), VOCABULARY)
    assert spell("ax", VOCABULARY) is None and spell("▁", VOCABULARY) is None
