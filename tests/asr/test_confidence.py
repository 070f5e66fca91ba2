"""Measures of confidence: speechssl.asr.confidence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.confidence import LONGEST_UNIT, agreement, certainty, lm_score, longest_loop, measures_of, path_score
from speechssl.asr.decoding.hypothesis import place_tokens
from speechssl.asr.lm.ngram_model import Entries, NGramModel
from speechssl.asr.transcripts.timed import Token, best_path
from tests.oracles.confidence import oracle_certainty, oracle_longest_loop, oracle_path_score
from tests.oracles.edit_distance import oracle_edit_distance


def log_probs(frames: int, vocab: int = 4, *, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(frames, vocab, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def frames_of(tokens: list[Token] | tuple[Token, ...], frames: int) -> list[int]:
    path = [0] * frames
    for token in tokens:
        path[token.start : token.end] = [token.id] * (token.end - token.start)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_the_path_of_greedy_decoding_has_the_highest_score(seed):
    rows = log_probs(12, seed=seed)
    tokens = best_path(rows)
    assert path_score(rows, tokens) == pytest.approx(oracle_path_score(rows.tolist(), frames_of(tokens, 12)), abs=1e-6)
    assert path_score(rows, tokens) == pytest.approx(float(rows.max(-1).values.mean()), abs=1e-6)
    other = place_tokens(rows, [1, 2, 1])
    assert path_score(rows, other) == pytest.approx(oracle_path_score(rows.tolist(), frames_of(other, 12)), abs=1e-6)
    assert path_score(rows, other) <= path_score(rows, tokens)


@pytest.mark.parametrize("seed", range(5))
def test_certainty_is_that_of_frames_that_are_no_blanks(seed):
    rows = log_probs(20, seed=seed)
    assert certainty(rows) == pytest.approx(oracle_certainty(rows.tolist()), abs=1e-6)


def test_certainty_is_1_for_sure_letters_and_0_for_blanks_and_for_uniform_frames():
    sure = torch.tensor([[-math.inf, 0.0], [0.0, -math.inf]])
    assert certainty(sure) == 1
    assert certainty(sure[1:]) == 0
    assert certainty(torch.tensor([[0.2499, 0.2501, 0.25, 0.25]]).log()) == pytest.approx(0, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.text("ab ", max_size=5), st.text("ab ", max_size=5))
def test_agreement_is_the_share_of_letters_without_an_edit(text, other):
    longer = max(len(text), len(other))
    expected = 1 - oracle_edit_distance(text, other) / longer if longer else 1
    assert agreement(text, other) == pytest.approx(expected)


@settings(max_examples=200, deadline=None)
@given(st.text("ab ", max_size=14))
def test_the_longest_loop_is_found(text):
    assert longest_loop(text) == oracle_longest_loop(text, LONGEST_UNIT)


def test_a_loop_of_letters_outside_of_the_basic_plane_is_found():
    assert longest_loop("\U00010400\U00010401" * 3) == 6


def unigrams(**log10: float) -> NGramModel:
    values = torch.tensor([*log10.values()]).double().numpy()
    entries = Entries(torch.arange(len(log10))[:, None].numpy(), values, 0 * values)
    return NGramModel.from_entries([*log10], [entries], where="test")


def test_a_language_model_of_words_and_one_of_letters_score_a_letter_gap_or_end():
    of_words = unigrams(**{"ab": -2.0, "b": -1.0, "</s>": -1.0})
    assert lm_score("ab b", of_words) == pytest.approx(-4 * math.log(10) / 6)
    of_letters = unigrams(**{"a": -1.0, "b": -0.5, "|": -0.25, "</s>": -1.0})
    assert lm_score("ab b", of_letters) == pytest.approx(-3.5 * math.log(10) / 6)


def test_measures_are_those_that_can_be_computed():
    rows = log_probs(8)
    assert [*measures_of(rows, "", [])] == ["posterior", "path", "certainty"]
    assert measures_of(rows, "", [])["posterior"] == 0
    tokens = [Token(id=1, start=0, end=1, probability=0.5), Token(id=2, start=1, end=2, probability=1.0)]
    found = measures_of(rows, "ab", tokens, lm=unigrams(a=-1.0), others=["ab", "aa"])
    assert found["posterior"] == 0.75
    assert found["agreement"] == pytest.approx((1 + 0.5) / 2)
    assert "lm" in found
