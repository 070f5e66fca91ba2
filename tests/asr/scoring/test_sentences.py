"""Sentences of 52 languages: as tokens and back, scored, and counted as docs/scripts.md says."""

import pytest
import torch

from speechssl.asr.decoding.hypothesis import greedy_decode
from speechssl.asr.scoring.evaluate import Reference, ScoreConfig, evaluate
from speechssl.asr.scoring.normalise import normalise
from speechssl.text.policy import TextConfig
from speechssl.text.vocabulary import Vocabulary
from speechssl.text.words import lacks_blanks
from tests.asr.scoring.sentences import PAGE, SENTENCES, UNSPACED, page, unicode_words


@pytest.mark.parametrize(("language", "sentence"), [row[:2] for row in SENTENCES], ids=[row[0] for row in SENTENCES])
def test_what_goes_in_comes_out_of_tokens_and_scores_without_an_error(language: str, sentence: str) -> None:
    policy = TextConfig(case="lower", punctuation="remove", language=language)
    vocabulary = Vocabulary.from_texts([sentence], text=policy)
    ids = vocabulary.encode(sentence, where=language)
    frames = torch.tensor([[token for each in ids for token in (each, each, 0)]])
    logits = torch.nn.functional.one_hot(frames, len(vocabulary))
    heard = vocabulary.decode(greedy_decode(logits, torch.tensor([frames.shape[1]]))[0])
    assert heard == policy.apply(sentence) == policy.apply(heard)
    reference = Reference(id="a", text=sentence, language=language, groups={})
    found = evaluate([reference], {"a": heard}, ScoreConfig(normaliser="plain", samples=10)).total
    assert found.words.errors.rate == found.characters.errors.rate == 0
    assert found.words.errors.reference == len(normalise(sentence, "plain", language).split())


def test_the_page_says_what_is_so() -> None:
    pytest.importorskip("uniseg")
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m tests.asr.scoring.sentences"


@pytest.mark.parametrize(("language", "sentence", "why"), SENTENCES, ids=[row[0] for row in SENTENCES])
def test_words_are_those_of_unicode_or_the_page_says_why_not(language: str, sentence: str, why: str) -> None:
    pytest.importorskip("uniseg")
    assert (len(normalise(sentence, "plain", language).split()) != unicode_words(sentence)) == bool(why)


@pytest.mark.parametrize(("language", "sentence", "why"), SENTENCES, ids=[row[0] for row in SENTENCES])
def test_a_scoring_finds_the_scripts_for_which_the_page_says_cer(language: str, sentence: str, why: str) -> None:
    assert bool(lacks_blanks([normalise(sentence, "plain", language)])) == (why == UNSPACED)
