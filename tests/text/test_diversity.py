"""Diversity of texts: speechssl.text.diversity."""

import dataclasses

import pytest

from speechssl.text.diversity import diversity


def test_words_and_letters_are_counted():
    found = diversity(["ab ab", "ab c"], at_most=10)
    assert (found.words, found.distinct_words, found.distinct_letters) == (4, 2, 3)
    assert found.word_entropy == pytest.approx(0.75 * 0.415037 + 0.25 * 2, abs=1e-5)  # of 3/4 and 1/4
    assert found.mean_letters == 4.5


def test_one_word_again_and_again_has_no_entropy():
    assert diversity(["a a a"], at_most=3).word_entropy == 0


def test_texts_are_compared_at_one_number_of_words():
    texts = [f"word{number}" for number in range(100)]
    found = diversity(texts, at_most=10)
    assert (found.words, found.distinct_words) == (10, 10)
    assert found == diversity(texts, at_most=10)
    assert diversity(texts, at_most=10, seed=1) != found


def test_no_texts_have_no_diversity():
    assert set(dataclasses.asdict(diversity([], at_most=5)).values()) == {0}
