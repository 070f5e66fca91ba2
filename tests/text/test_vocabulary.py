"""Letters to ids and back, in any script."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.errors import VocabularyError
from speechssl.text.vocabulary import BLANK, WORD_BOUNDARY, Vocabulary

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="|"), max_size=30).filter(
    lambda text: text.split() != []
)


def test_blank_is_0_and_the_word_boundary_1_and_letters_follow_in_order():
    vocabulary = Vocabulary.from_texts(["cab", "b da"])
    assert vocabulary.tokens == ("<blank>", "|", "a", "b", "c", "d")
    assert BLANK == 0
    assert vocabulary.tokens.index(WORD_BOUNDARY) == 1
    assert len(vocabulary) == 6


def test_words_are_joined_by_one_boundary_whatever_the_white_space():
    vocabulary = Vocabulary.from_texts(["ab"])
    assert vocabulary.encode("  a \t b\n", where="u1") == [2, 1, 3]


def test_words_are_found_among_ids_whatever_the_boundaries_around_them():
    vocabulary = Vocabulary.from_texts(["abc"])
    ids = [1, *vocabulary.encode("ab c", where="u1"), 1, 1, *vocabulary.encode("abc", where="u1")]
    assert ids == [1, 2, 3, 1, 4, 1, 1, 2, 3, 4]
    assert vocabulary.words(ids) == [[1, 2], [4], [7, 8, 9]]


def test_a_text_is_never_encoded_with_the_blank():
    vocabulary = Vocabulary.from_texts(["abc"])
    assert BLANK not in vocabulary.encode("abc cba", where="u1")


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("ёж и йод", set("ёжийод")),
        ("नमस्ते", {"न", "म", "स", "\u094d", "त", "\u0947"}),
        ("مرحبا", set("مرحبا")),
        ("学校", set("学校")),
        ("d'été", {"d", "'", "é", "t"}),
        ("𐌰𐌱", {"𐌰", "𐌱"}),
    ],
)
def test_any_script_is_taken_letter_by_letter_and_comes_back(text, letters):
    vocabulary = Vocabulary.from_texts([text])
    assert set(vocabulary.tokens[2:]) == letters
    assert vocabulary.decode(vocabulary.encode(text, where="u1")) == text


@pytest.mark.parametrize("word", ["ёлка", "été", "йод", "क़लम"])
def test_composed_and_decomposed_letters_are_the_same(word):
    composed, decomposed = unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)
    assert Vocabulary.from_texts([composed]) == Vocabulary.from_texts([decomposed])
    vocabulary = Vocabulary.from_texts([composed])
    assert vocabulary.encode(decomposed, where="u1") == vocabulary.encode(composed, where="u1")
    assert vocabulary.decode(vocabulary.encode(decomposed, where="u1")) == composed


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_every_training_text_comes_back_normalised(texts):
    vocabulary = Vocabulary.from_texts(texts)
    for text in texts:
        ids = vocabulary.encode(text, where="u1")
        assert vocabulary.decode(ids) == " ".join(unicodedata.normalize("NFC", text).split())


def test_decoding_drops_blanks_and_merges_word_boundaries():
    vocabulary = Vocabulary.from_texts(["ab"])
    assert vocabulary.decode([1, 2, 0, 2, 1, 1, 3, 0, 1]) == "aa b"


def test_nothing_decodes_to_the_empty_text():
    assert Vocabulary.from_texts(["ab"]).decode([]) == ""


def test_unknown_letters_are_named_with_the_utterance():
    vocabulary = Vocabulary.from_texts(["ab"])
    with pytest.raises(VocabularyError, match=r"u17: the text holds 'x' 'ё', which the vocabulary lacks; normalise"):
        vocabulary.encode("ax ё a", where="u17")


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_text_is_refused_with_the_utterance(text):
    with pytest.raises(VocabularyError, match="u17: the text is empty; remove the utterance or transcribe it"):
        Vocabulary.from_texts(["ab"]).encode(text, where="u17")


@pytest.mark.parametrize("texts", [[], [""], [" ", "\n"]])
def test_training_texts_without_letters_are_refused(texts):
    with pytest.raises(VocabularyError, match="the training texts hold no letters; give the manifest a text column"):
        Vocabulary.from_texts(texts)


def test_the_sign_of_the_word_boundary_is_refused_in_training_texts():
    with pytest.raises(VocabularyError, match=r"holds '\|', which marks word boundaries; remove it"):
        Vocabulary.from_texts(["a|b"])


def test_the_sign_of_the_word_boundary_is_an_unknown_letter_in_other_texts():
    with pytest.raises(VocabularyError, match=r"u17: the text holds '\|'"):
        Vocabulary.from_texts(["ab"]).encode("a|b", where="u17")
