"""The policy of texts."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.errors import ConfigError
from speechssl.text.policy import TextConfig, digits_in

PLAIN = TextConfig(case="lower", punctuation="remove")


@given(st.text(max_size=30))
def test_the_default_composes_letters_and_parts_words_by_one_space_and_does_no_more(text):
    assert TextConfig().apply(text) == " ".join(unicodedata.normalize("NFC", text).split())


@given(st.text(max_size=30), st.sampled_from(["keep", "lower", "upper"]), st.sampled_from(["keep", "remove"]))
def test_a_text_that_went_through_goes_through_unchanged(text, case, punctuation):
    policy = TextConfig(case=case, punctuation=punctuation)
    once = policy.apply(text)
    assert policy.apply(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t  STOP — now!", "don't stop now"),
        ("что-то, где—то", "что-то где то"),
        ("- 'quoted' rock'n'roll -", "quoted rock'n'roll"),
        ("नमस्ते।", "नमस्ते"),
        ("क्\u200dष और", "क्\u200dष और"),  # a joiner between two letters shapes them
        ("می\u200cخواهم، بله", "می\u200cخواهم بله"),
        ("\ufeffsoft\u00adware\u200f", "software"),
        ("مَرحبًا؟", "مَرحبًا"),
        ("你好，世界。", "你好 世界"),
        ("ΟΔΟΣ", "οδος"),
        ("e\u0301te\u0301 A+B", "été a b"),
    ],
)
def test_punctuation_goes_but_inside_words_in_any_script(text, expected):
    assert PLAIN.apply(text) == expected


def test_upper_case_composes_and_keeps_letters_without_case():
    assert TextConfig(case="upper").apply("straße е\u0308лка 学校") == "STRASSE Ё" + "ЛКА 学校"


@pytest.mark.parametrize(
    ("case", "text", "expected"), [("lower", "IĞDIR İL", "ığdır il"), ("upper", "ılık iz", "ILIK İZ")]
)
def test_turkish_keeps_its_two_letters_i_apart(case, text, expected):
    assert TextConfig(case=case, language="tr").apply(text) == expected
    assert TextConfig(case=case).apply(text) != expected


def test_replacements_come_first_in_their_order_and_match_composed_letters():
    policy = TextConfig(replace=(("е\u0308", "е"), ("%", " процентов"), ("q", "")), case="upper")
    assert policy.apply("ёлка 5% q") == "ЕЛКА 5 ПРОЦЕНТОВ"


def test_nothing_cannot_be_replaced():
    with pytest.raises(ConfigError, match=r"text\.replace: expected pairs of what to replace and by what"):
        TextConfig(replace=(("", "x"),))


def test_digits_of_all_scripts_are_refused_only_when_asked_for_and_kept_otherwise():
    assert digits_in("a7٣ ½ 三") == "7٣½"
    assert not TextConfig().refuses("7")
    assert TextConfig(digits="refuse").refuses("at 7")
    assert not TextConfig(digits="refuse").refuses("seven 三")
    assert PLAIN.apply("Room 7b.") == "room 7b"


def test_the_policy_in_words():
    assert TextConfig().describe() == "Unicode NFC, single spaces"
    assert "lower case, punctuation and symbols removed but inside words" in PLAIN.describe()
