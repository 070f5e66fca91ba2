"""Beam search: speechssl.asr.decoding.search with the grammars of speechssl.asr.decoding.grammar and hot words."""

import dataclasses

import numpy as np
import pytest

from speechssl.asr.decoding.grammar import LetterGrammar, LexiconGrammar, Weights, WordGrammar
from speechssl.asr.decoding.search import Grammar, SearchConfig, search
from speechssl.asr.decoding.trie import HotWords
from speechssl.asr.lm.arpa import read_arpa, write_arpa
from speechssl.asr.lm.kneser_ney import NGramConfig, estimate
from speechssl.asr.lm.ngram_model import NGramModel
from speechssl.asr.lm.sentences import as_letters
from speechssl.errors import ConfigError
from tests.oracles.texts import oracle_texts

TOKENS = ("<blank>", "|", "a", "b")
WIDE = SearchConfig(beam=100_000, threshold=1e9)
WORDS = ("a", "ab", "aba", "bb")  # of the lexicon
ENTRIES = [(word, [TOKENS.index(letter) for letter in word]) for word in WORDS]
TEXTS = [["a", "ab"], ["ab", "a", "bb"], ["a"], ["bb", "ab"], ["a", "ab", "ba"]]
WEIGHTS = Weights(lm_weight=1.5, word_score=0.7, unknown_score=-1.0)


def random_log_probs(frames: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(frames, len(TOKENS))) * 1.5
    return values - np.log(np.exp(values).sum(1, keepdims=True))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, NGramModel]:
    found = {}
    for name, sentences in (("words", TEXTS), ("letters", [as_letters(words) for words in TEXTS])):
        path = tmp_path_factory.mktemp("lm") / "lm.arpa"
        write_arpa(path, estimate(sentences, NGramConfig(order=2)))
        found[name] = read_arpa(path)
    return found


def scores_of(log_probs: np.ndarray, grammar: Grammar, config: SearchConfig) -> dict[str, float]:
    found = {}
    for one in search(log_probs, grammar, config):
        text = " ".join("".join(TOKENS[token] for token in one.tokens).replace("|", " ").split())
        assert text not in found
        found[text] = one.score
    return found


def with_model(scores: dict[str, float], lm: NGramModel, weights: Weights, *, letters: bool) -> dict[str, float]:
    """Add to the scores of texts what a language model and the weights of words add."""
    found = {}
    for text, score in scores.items():
        words = text.split()
        probability = lm.score_sentence(as_letters(words) if letters else words).sum()
        unknown = 0 if letters else sum(word not in lm.ids for word in words)
        extra = weights.word_score * len(words) + weights.unknown_score * unknown
        found[text] = score + weights.lm_weight * probability + extra
    return found


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_without_a_model_every_text_scores_as_all_its_paths(add, seed):
    log_probs = random_log_probs(6, seed)
    found = scores_of(log_probs, LetterGrammar(TOKENS, 1), SearchConfig(beam=10**5, threshold=1e9, add_paths=add))
    assert found == pytest.approx(oracle_texts(log_probs.tolist(), TOKENS, add=add))
    assert [*found.values()] == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("add", [True, False])
def test_models_of_letters_and_of_words_add_what_they_say_of_whole_texts(add, models):
    log_probs = random_log_probs(6, 2)
    config = SearchConfig(beam=10**5, threshold=1e9, add_paths=add)
    paths = oracle_texts(log_probs.tolist(), TOKENS, add=add)
    letters = LetterGrammar(TOKENS, 1, models["letters"], WEIGHTS)
    expected = with_model(paths, models["letters"], WEIGHTS, letters=True)
    assert scores_of(log_probs, letters, config) == pytest.approx(expected)
    known = [(word, [TOKENS.index(letter) for letter in word]) for word in ("a", "ab", "ba", "bb")]
    words = WordGrammar(len(TOKENS), 1, models["words"], known, WEIGHTS)
    expected = with_model(paths, models["words"], WEIGHTS, letters=False)
    assert scores_of(log_probs, words, config) == pytest.approx(expected)


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("has_model", [True, False])
def test_a_lexicon_keeps_the_texts_of_its_words(add, has_model, models):
    log_probs = random_log_probs(7, 3)
    lm = models["words"] if has_model else None
    grammar = LexiconGrammar(len(TOKENS), 1, ENTRIES, lm, WEIGHTS)
    found = scores_of(log_probs, grammar, SearchConfig(beam=10**5, threshold=1e9, add_paths=add))
    paths = oracle_texts(log_probs.tolist(), TOKENS, add=add)
    expected = {text: score for text, score in paths.items() if set(text.split()) <= set(WORDS)}
    if lm is None:
        expected = {text: score + WEIGHTS.word_score * len(text.split()) for text, score in expected.items()}
    else:
        counted = dataclasses.replace(WEIGHTS, unknown_score=0.0)  # the lexicon's own words are welcome
        expected = with_model(expected, lm, counted, letters=False)
    assert found == pytest.approx(expected)


def test_an_edge_says_which_word_ended():
    grammar = LexiconGrammar(len(TOKENS), 1, ENTRIES, None, Weights())
    best = search(np.log(np.eye(4)[[2, 1, 2, 3]] + 1e-9), grammar, WIDE)[0]
    assert [WORDS[entry] for edge in best.edges if (entry := grammar.entry(edge)) is not None] == ["a", "ab"]


def test_hot_words_earn_their_weight_once_for_each_in_a_text(models):
    log_probs = random_log_probs(6, 4)
    hot = HotWords([[2, 3], [3, 3]], len(TOKENS), 1, 3.0)
    for grammar, led in (
        (LetterGrammar(TOKENS, 1), LetterGrammar(TOKENS, 1, hot=hot)),
        (LexiconGrammar(4, 1, ENTRIES, None, WEIGHTS), LexiconGrammar(4, 1, ENTRIES, None, WEIGHTS, hot)),
    ):
        plain = scores_of(log_probs, grammar, WIDE)
        earned = {text: 3.0 * sum(word in ("ab", "bb") for word in text.split()) for text in plain}
        assert max(earned.values()) == 6.0
        expected = {text: score + earned[text] for text, score in plain.items()}
        assert scores_of(log_probs, led, WIDE) == pytest.approx(expected)


def test_hot_words_are_found_by_a_beam_that_would_have_lost_them():
    # "ba" leads until the last letter
    log_probs = np.log(np.array([[0.01, 0.01, 0.18, 0.8], [0.96, 0.01, 0.02, 0.01], [0.01, 0.01, 0.01, 0.97]]))
    narrow = SearchConfig(beam=2, threshold=50.0)
    texts = [
        next(iter(scores_of(log_probs, LetterGrammar(TOKENS, 1, hot=hot), narrow)))
        for hot in (None, HotWords([[2, 3]], len(TOKENS), 1, 4.0))
    ]
    assert texts == ["bb", "ab"]


def test_narrow_beams_thresholds_and_few_tokens_find_likely_texts_among_those_of_a_wide_search():
    log_probs = random_log_probs(6, 5)
    wide = scores_of(log_probs, LetterGrammar(TOKENS, 1), WIDE)
    best = next(iter(wide))
    for config in (SearchConfig(beam=8), SearchConfig(threshold=4.0), SearchConfig(tokens=2)):
        found = scores_of(log_probs, LetterGrammar(TOKENS, 1), config)
        assert len(found) < len(wide)
        assert wide[next(iter(found))] > wide[best] - 1.5
        assert all(score <= wide[text] + 1e-9 for text, score in found.items())


def test_no_frames_say_nothing():
    assert scores_of(random_log_probs(0, 0), LetterGrammar(TOKENS, 1), WIDE) == {"": pytest.approx(0.0)}


@pytest.mark.parametrize("values", [{"beam": 0}, {"threshold": 0.0}, {"tokens": 0}])
def test_a_search_without_room_is_refused(values):
    with pytest.raises(ConfigError, match="expected beam, threshold and tokens above 0"):
        SearchConfig(**values)
