"""Word and character errors: speechssl.asr.scoring.wer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.asr.scoring.wer import ErrorRate, score_texts
from speechssl.errors import ManifestError
from tests.oracles.edit_distance import oracle_edit_distance

SENTENCES = st.lists(st.sampled_from(["a", "b", "cd"]), max_size=5).map(" ".join)
LETTERS = st.text(alphabet="абé ", max_size=5)


def _errors(rate: ErrorRate) -> int:
    return rate.substitutions + rate.deletions + rate.insertions


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(SENTENCES.filter(bool), SENTENCES), min_size=1, max_size=3))
def test_word_errors_match_the_oracle(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ({str(i): pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    words = score_texts(references, hypotheses).words
    expected = sum(oracle_edit_distance(reference.split(), hypothesis.split()) for reference, hypothesis in pairs)
    assert _errors(words) == expected
    assert words.reference == sum(len(reference.split()) for reference, _ in pairs)
    assert words.rate == expected / words.reference


@settings(max_examples=100, deadline=None)
@given(reference=LETTERS.filter(str.strip), hypothesis=LETTERS)
def test_character_errors_match_the_oracle(reference: str, hypothesis: str) -> None:
    characters = score_texts({"a": reference}, {"a": hypothesis}).characters
    expected = oracle_edit_distance(reference.strip(), hypothesis.strip())
    assert _errors(characters) == expected
    assert characters.reference == len(reference.strip())


@pytest.mark.parametrize(
    ("hypothesis", "words", "characters"),
    [
        ("one two three", (0, 0, 0), (0, 0, 0)),
        ("one six three", (1, 0, 0), (3, 0, 0)),
        ("one two", (0, 1, 0), (0, 6, 0)),
        ("one two three ten", (0, 0, 1), (0, 0, 4)),
        ("", (0, 3, 0), (0, 13, 0)),
    ],
)
def test_kinds_of_errors_are_told_apart(
    hypothesis: str, words: tuple[int, int, int], characters: tuple[int, int, int]
) -> None:
    scores = score_texts({"a": "one two three"}, {"a": hypothesis})
    for rate, expected in ((scores.words, words), (scores.characters, characters)):
        assert (rate.substitutions, rate.deletions, rate.insertions) == expected


def test_rates_are_errors_over_all_reference_tokens_and_not_a_mean_of_rates() -> None:
    scores = score_texts({"a": "one", "b": "one two three"}, {"a": "six", "b": "one two three"})
    assert scores.wer == 1 / 4
    assert scores.cer == 3 / 16
    assert scores.utterances == 2


def test_texts_are_joined_by_id_and_not_by_order() -> None:
    scores = score_texts({"a": "one", "b": "two", "c": "six"}, {"c": "six", "a": "one", "b": "two"})
    assert scores.wer == 0


def test_texts_are_not_normalised() -> None:
    assert score_texts({"a": "One two."}, {"a": "one two"}).wer == 1


def test_error_rate_may_exceed_one() -> None:
    assert score_texts({"a": "one"}, {"a": "two six ten"}).wer == 3


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ({"a": "x", "b": "x", "c": "x"}, {"b": "x"}, "2 utterances have no hypothesis: a, c"),
        ({"b": "x"}, {"a": "x", "b": "x"}, "1 utterances have no reference: a"),
        (dict.fromkeys("abcde", "x"), {}, "5 utterances have no hypothesis: a, b, c$"),
    ],
)
def test_missing_ids_are_counted_and_named(
    references: dict[str, str], hypotheses: dict[str, str], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        score_texts(references, hypotheses)


@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_reference_is_an_error(empty: str) -> None:
    with pytest.raises(ManifestError, match="1 references are empty: b; remove them or transcribe them"):
        score_texts({"a": "x", "b": empty}, {"a": "x", "b": "x"})


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ManifestError, match="there is nothing to score"):
        score_texts({}, {})
