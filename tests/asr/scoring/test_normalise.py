"""Normalisers: speechssl.asr.scoring.normalise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.asr.scoring.normalise import NORMALISERS, Normaliser, describe_normaliser, normalise
from speechssl.text.policy import TextConfig


@pytest.mark.parametrize(
    ("text", "how", "language", "expected"),
    [
        (" A  b ", "none", None, " A  b "),
        ("Cafe\u0301  au\nlait", "nfc", None, "Café au lait"),
        ("ÉCOLE", "lower", None, "école"),
        ("IŞIK İl", "lower", "tr", "ışık il"),
        ("IS", "lower", "en", "is"),
        ("Rendez-vous -- l’été, n'est-ce pas?", "plain", "fr", "rendez-vous l'été n'est-ce pas"),
        ("за\u0301мок", "plain", "ru", "замок"),
        ("а\u0301", "plain", "nv", "а\u0301"),
        ("كَتَبَ", "plain", "ar", "كتب"),
        ("שָׁלוֹם", "plain", "he", "שלום"),
        ("פֿאַרשטיין אָּ שָׁלוֹם", "plain", "ydd", "פֿאַרשטיין אָּ שָלום"),  # letters of YIVO stay
        ("פֿאַר", "plain", "he", "פאר"),
        ("گرٕ چھُ كــ", "plain", "kas", "گرٕ چھُ ك"),
        ("हिन्दी है।", "plain", "hi", "हिन्दी है"),
        ("हिन्दी-उर्दू", "plain", "hi", "हिन्दी-उर्दू"),  # a vowel sign before the hyphen
        ("l＇été", "plain", "fr", "l'été"),
        ("Ich habe 3 € (drei).", "plain", "de", "ich habe 3 drei"),
        ("'tis -5 o'clock-", "plain", "en", "tis 5 o'clock"),
        ("Zu\u00adsam\u00admen", "plain", "de", "zusammen"),  # soft hyphens
        ("می\u200cروم\u200c.", "plain", "fa", "می\u200cروم"),  # a joiner inside a word, and one behind it
        ("...", "plain", None, ""),
    ],
)
def test_texts_are_normalised(text: str, how: Normaliser, language: str | None, expected: str) -> None:
    assert normalise(text, how, language) == expected


@given(st.text("aÉ1ही .,!'’-–\u00ad\u200c", max_size=12))
def test_what_stands_inside_words_is_what_a_policy_without_punctuation_keeps(text: str) -> None:
    assert normalise(text, "plain") == TextConfig(case="lower", punctuation="remove").apply(text)


@pytest.mark.parametrize("how", NORMALISERS)
def test_normalising_twice_is_normalising_once(how: Normaliser) -> None:
    for text in ("Don’t! STOP", "İstanbul'da", "e\u0301-e", "שָׁלוֹם"):
        once = normalise(text, how)
        assert normalise(once, how) == once


def test_every_normaliser_is_described() -> None:
    assert len({describe_normaliser(how) for how in NORMALISERS}) == len(NORMALISERS)  # type: ignore[arg-type]
