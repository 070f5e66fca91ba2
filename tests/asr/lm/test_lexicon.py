"""Lexicons and the texts they come from: speechssl.asr.lm.lexicon, speechssl.asr.lm.sentences."""

import gzip

import pytest

from speechssl.asr.lm.lexicon import Lexicon, read_lexicon
from speechssl.asr.lm.sentences import read_sentences
from speechssl.errors import VocabularyError
from speechssl.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<blank>", "|", "a", "b", "й"))


def test_a_lexicon_comes_back_as_it_was_written_and_says_what_it_cannot_spell(tmp_path):
    sentences = [["ab", "xa", "a"], ["xa", "b|a", "ab"]]
    lexicon, refused = Lexicon.from_sentences(sentences, VOCABULARY)
    assert (lexicon.words, lexicon.spellings, refused) == (("a", "ab"), (("a",), ("a", "b")), ["xa", "b|a"])
    lexicon.write(tmp_path / "lexicon.txt")
    assert (tmp_path / "lexicon.txt").read_text() == "a\ta |\nab\ta b |\n"
    assert read_lexicon(tmp_path / "lexicon.txt", VOCABULARY) == lexicon
    assert Lexicon.from_sentences(sentences, VOCABULARY, min_count=2)[0].words == ("ab",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab\ta b |\nax\ta x |\n", r"lexicon.txt:2: ax is spelled with 'x'"),
        ("ab\n", r"lexicon.txt:1: expected a word and its tokens, found 'ab'"),
        ("ab\ta | b\n", r"spelled with '\|'"),
        ("\n", "holds no words"),
    ],
)
def test_a_lexicon_for_another_model_is_refused(text, message, tmp_path):
    (tmp_path / "lexicon.txt").write_text(text)
    with pytest.raises(VocabularyError, match=message):
        read_lexicon(tmp_path / "lexicon.txt", VOCABULARY)


def test_a_pronunciation_lexicon_serves_a_model_of_phones(tmp_path):
    phones = Vocabulary(("<blank>", "|", "k", "æ", "2"), "phones")
    (tmp_path / "lexicon.txt").write_text("# by hand\ncat\t0.9\tk æ\ncat(2)\t1.0\tk 2 |\n", encoding="utf-8")
    found = read_lexicon(tmp_path / "lexicon.txt", phones)
    assert (found.words, found.spellings) == (("cat", "cat"), (("k", "2"), ("k", "æ")))
    assert "on 2 of 2 lines, are probabilities" in found.notes[0]


def test_signs_of_comments_and_digits_may_be_letters(tmp_path):
    letters = Vocabulary(("<blank>", "|", "#", "1", "a", "(", "2", ")"))
    (tmp_path / "lexicon.txt").write_text("#a # a |\n1a 1 a |\na a |\na(2) a ( 2 ) |\n", encoding="utf-8")
    assert read_lexicon(tmp_path / "lexicon.txt", letters).words == ("#a", "1a", "a", "a(2)")


def test_words_that_no_letter_spells_make_no_lexicon():
    with pytest.raises(VocabularyError, match="none of 1 words can be spelled"):
        Lexicon.from_sentences([["x"]], VOCABULARY)


def test_sentences_are_lines_in_one_unicode_form_or_texts_of_a_manifest(tmp_path):
    (tmp_path / "a.txt").write_text("a b\n\n  \nи\u0306\n", encoding="utf-8")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"B a"))
    (tmp_path / "c.tsv").write_text(
        "id\tpath\tsamples\trate\tchannels\ttext\nu\tu.wav\t5\t16000\t1\tab a\nv\tv.wav\t5\t16000\t1\t\n"
    )
    paths = [tmp_path / name for name in ("a.txt", "b.gz", "c.tsv")]
    found = list(read_sentences(paths, change=str.lower))
    assert found == [["a", "b"], ["й"], ["b", "a"], ["ab", "a"]]


def test_text_with_a_reserved_word_or_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb </s>\n")
    with pytest.raises(VocabularyError, match=r"a\.txt: sentence 2 holds </s>"):
        list(read_sentences([tmp_path / "a.txt"]))
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(VocabularyError, match=r"b\.txt: expected text in UTF-8"):
        list(read_sentences([tmp_path / "b.txt"]))


def test_sentences_may_be_texts_of_a_table(tmp_path):
    (tmp_path / "t.tsv").write_text("id\tspeaker\ttext\na\tanna\tone two\nb\tbert\t\n")
    assert [*read_sentences([tmp_path / "t.tsv"])] == [["one", "two"]]
