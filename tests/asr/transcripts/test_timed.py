"""Tokens to words with times: speechssl.asr.transcripts.timed."""

import pytest
import torch

from speechssl.asr.decoding.hypothesis import greedy_decode
from speechssl.asr.transcripts.timed import Timed, Token, Transcript, best_path, words_of
from speechssl.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<blank>", "|", "a", "b"))


def log_probs(path: list[int], best: float = 0.7) -> torch.Tensor:
    probabilities = torch.full((len(path), 4), (1 - best) / 3)
    probabilities[torch.arange(len(path)), torch.tensor(path)] = best
    return probabilities.log()


def test_the_best_path_merges_repeats_and_leaves_blanks_out() -> None:
    tokens = best_path(log_probs([0, 2, 2, 0, 2, 1, 3, 3]))
    assert [(token.id, token.start, token.end) for token in tokens] == [(2, 1, 3), (2, 4, 5), (1, 5, 6), (3, 6, 8)]
    assert all(token.probability == pytest.approx(0.7) for token in tokens)


def test_the_best_path_has_the_text_of_greedy_decoding() -> None:
    random = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    (expected,) = greedy_decode(random[None], torch.tensor([200]))
    assert [token.id for token in best_path(random)] == expected


def test_a_token_is_as_probable_as_in_its_best_frame() -> None:
    frames = log_probs([2, 2])
    frames[1] = torch.tensor([0.02, 0.02, 0.95, 0.01]).log()
    assert best_path(frames)[0].probability == pytest.approx(0.95)


def test_words_have_the_times_of_their_letters() -> None:
    tokens = best_path(log_probs([0, 2, 2, 3, 1, 1, 0, 3]))
    words, letters = words_of(tokens, VOCABULARY, hop=320, window=400)
    assert [word.text for word in words] == ["ab", "b"]
    assert [letter.text for letter in letters] == ["a", "b", "b"]
    assert words[0].start_s == letters[0].start_s == pytest.approx((320 + 40) / 16_000)
    assert words[0].end_s == letters[1].end_s == pytest.approx((4 * 320 + 40) / 16_000)
    assert words[1].end_s == pytest.approx((8 * 320 + 40) / 16_000)


def test_confidence_is_the_mean_of_letters_and_of_words() -> None:
    tokens = [Token(id=2, start=0, end=1, probability=0.5), Token(id=3, start=1, end=2, probability=1.0)]
    (word,), _ = words_of(tokens, VOCABULARY, hop=320, window=400)
    assert word.confidence == 0.75
    other = Timed(text="b", start_s=0, end_s=1, confidence=0.25)
    assert Transcript(id="x", text="ab b", duration_s=1, words=(word, other)).confidence == 0.5
    assert Transcript(id="x", text="", duration_s=1).confidence is None


def test_nothing_said_has_no_words() -> None:
    assert words_of(best_path(log_probs([0, 1, 0])), VOCABULARY, hop=320, window=400) == ((), ())


def test_words_of_pieces_begin_where_a_piece_says_so_and_a_lone_start_is_of_none() -> None:
    pieces = Vocabulary(("<blank>", "▁", "▁ab", "c"), "pieces", scores={"▁": -1.0, "▁ab": -1.0, "c": -2.0})
    tokens = best_path(log_probs([0, 2, 3, 0, 2, 2, 1, 0, 3, 3]))
    words, parts = words_of(tokens, pieces, hop=320, window=400)
    assert [word.text for word in words] == ["abc", "ab", "c"] == pieces.decode([token.id for token in tokens]).split()
    assert [part.text for part in parts] == ["ab", "c", "ab", "c"]
    assert [round((word.start_s * 16_000 - 40) / 320) for word in words] == [1, 4, 8]
    assert [round((word.end_s * 16_000 - 40) / 320) for word in words] == [3, 6, 10]


def test_words_of_phones_have_dots_between_and_phones_their_times() -> None:
    phones = Vocabulary(("<blank>", "|", "oʊ", "k"), "phones", lexicon={"oak": ("oʊ", "k")})
    words, sounds = words_of(best_path(log_probs([2, 2, 3, 1, 0, 3])), phones, hop=320, window=400)
    assert [word.text for word in words] == ["oʊ.k", "k"]
    assert [sound.text for sound in sounds] == ["oʊ", "k", "k"]
