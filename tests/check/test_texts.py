"""Transcripts: letters of other scripts, and texts that do not fit their audio."""

import numpy as np
import pytest

from speechssl.corpus.check.text_checks import count_letters, foreign_letters, normal_text, script_codes, unusual_rates
from speechssl.corpus.check.thresholds import CheckConfig
from speechssl.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "names", "foreign"),
    [
        ("жаба, 7 раз!", ["Cyrillic"], ""),
        ("pусский тeкст e", ["Cyrillic"], "pe"),  # Latin letters that look Cyrillic
        ("pусский", ["Cyrillic", "Latin"], ""),
        ("caf\u00e9 cafe\u0301", ["Latin"], ""),
        ("नमस्ते जी", ["Devanagari"], ""),
        ("コーヒー", ["Katakana"], ""),  # the long vowel mark is common to two scripts
        ("コーヒを", ["katakana"], "を"),
        ("日本 の", ["Han", "Hira"], ""),
        ("µ ª", ["Greek"], "ª"),
    ],
)
def test_letters_outside_the_scripts_are_found(text, names, foreign):
    assert foreign_letters(text, script_codes(names)) == foreign


def test_an_unknown_script_is_refused():
    with pytest.raises(ConfigError, match="no script is called 'Klingon'; expected a Unicode name"):
        script_codes(["Latin", "Klingon"])


@pytest.mark.parametrize("name", ["Old_Italic", "old italic", "Ital"])
def test_a_script_is_known_by_name_and_by_code(name):
    assert script_codes([name]) == {"Ital"}


def test_texts_are_the_same_whatever_their_case_spaces_and_punctuation():
    assert normal_text(" Wie geht's,  DIR?") == normal_text("wie geht s dir")
    assert normal_text("cafe\u0301") == normal_text("CAF\u00c9")
    assert normal_text("है") != normal_text("ह")
    assert normal_text("?! ...") == ""


def test_letters_and_digits_are_counted():
    assert count_letters("a-b, 7!") == 3


def found(letters, durations, languages=None, **config):
    languages = languages or ["nl"] * len(letters)
    return [index for index, *_ in unusual_rates(letters, durations, languages, CheckConfig(**config))]


@pytest.fixture
def durations() -> np.ndarray:
    """Draw seconds of 60 utterances that are read at 15 characters a second, give or take 10 %."""
    return np.random.default_rng(0).uniform(2, 10, 60)


@pytest.fixture
def letters(durations) -> list[int]:
    return [
        round(15 * s * np.exp(z)) for s, z in zip(durations, np.random.default_rng(1).normal(0, 0.1, 60), strict=True)
    ]


def test_usual_rates_are_not_found(letters, durations):
    assert found(letters, durations) == []


@pytest.mark.parametrize("factor", [3, 1 / 3])
def test_a_text_three_times_too_long_or_short_is_found(letters, durations, factor):
    letters[7] = round(letters[7] * factor)
    ((index, spreads, rate, usual),) = unusual_rates(letters, durations, ["nl"] * 60, CheckConfig())
    assert index == 7
    assert abs(spreads) > 6
    assert np.sign(spreads) == np.sign(factor - 1)
    assert rate == pytest.approx(letters[7] / durations[7])
    assert usual == pytest.approx(15, rel=0.05)


def test_ten_outliers_of_sixty_do_not_hide_each_other(letters, durations):
    assert found([3 * n if i < 10 else n for i, n in enumerate(letters)], durations) == list(range(10))


def test_each_language_has_its_own_pace(letters, durations):
    faster = [3 * count for count in letters]
    both = ["nl"] * 60 + ["es"] * 60
    assert found([*letters, *faster], [*durations, *durations], both) == []
    faster[3] = letters[3]
    assert found([*letters, *faster], [*durations, *durations], both) == [63]


def test_few_texts_short_utterances_and_missing_texts_are_not_judged(letters, durations):
    letters[7] *= 4
    assert found(letters, durations, text_rate_texts=61) == []
    durations[7] /= 20
    assert found(letters, durations) == []
    letters[8], durations[9] = 0, 0.0
    assert found(letters, durations) == []


def test_an_even_pace_does_not_make_outliers_of_slow_sentences():
    assert found([150] * 59 + [100], [10.0] * 60) == []
