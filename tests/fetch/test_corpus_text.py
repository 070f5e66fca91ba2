"""The words of a transcript: speechssl.corpus.fetch.spoken_text."""

import unicodedata

import pytest

from speechssl.corpus.fetch.spoken_text import LANGUAGES, Spoken, normalize_text


@pytest.mark.parametrize(
    ("language", "written", "words"),
    [
        ("en", "Don't press the POUND key!", "don't press the pound key"),
        ("en", "That's it -- de-activated.", "that's it de-activated"),
        ("en", "'quoted' words", "quoted words"),
        ("en", "The caller\u2019s  name…", "the caller's name"),
        ("ru", "+Окна вол+ос, ещё  кто-то - вот.", "окна волос ещё кто-то вот"),
        ("ru", "за\u0301мок", "замок"),
        ("fr", "Composez aujourd'hui, rendez-vous à l’hôtel", "composez aujourd'hui rendez-vous à l'hôtel"),
        ("it", "Quell'operatore è già loggato.", "quell'operatore è già loggato"),
        ("it", "porta-voce", "porta voce"),
        ("es", "¿Qué número? «año»", "qué número año"),
        ("nl", "'t Is zo'n privé-geval, 's avonds.", "t is zo'n privé-geval s avonds"),
        ("cs", "To je vrak. Prší-li, Žluťoučký kůň!", "to je vrak prší-li žluťoučký kůň"),
        ("ca", "Col·legi d'una", "col·legi d'una"),
        ("el", "Ένα σκυλί.", "ένα σκυλί"),
        ("be", "Сям'я", "сям'я"),
        ("ro", "O fată și un băiat", "o fată și un băiat"),
    ],
)
def test_normalization_keeps_the_words_and_drops_the_punctuation(language: str, written: str, words: str) -> None:
    assert normalize_text(written, language) == Spoken(words)


@pytest.mark.parametrize(
    ("language", "written", "reason"),
    [
        ("en", "Press 1", "digits in the text"),
        ("en", "press * to toggle", "symbols in the text"),
        ("en", "followed by #", "symbols in the text"),
        ("en", "five $", "symbols in the text"),
        ("ru", "протокол IAX", "letters of another alphabet in the text"),
        ("cs", "привет", "letters of another alphabet in the text"),
        ("en", "...", "no words in the text"),
        ("en", "", "no words in the text"),
    ],
)
def test_a_text_that_does_not_say_what_is_spoken_gives_none_and_the_reason(
    language: str, written: str, reason: str
) -> None:
    assert normalize_text(written, language) == Spoken(None, reason)


@pytest.mark.parametrize("language", LANGUAGES)
def test_decomposed_and_composed_letters_give_the_same_text_and_a_second_pass_changes_nothing(language: str) -> None:
    written = "йод ёж" if language in ("ru", "be", "bg") else "άλφα ώρα" if language == "el" else "Çà ñandú, élève"
    once = normalize_text(unicodedata.normalize("NFD", written), language)
    assert once == normalize_text(written, language)
    assert once.text is not None
    assert normalize_text(once.text, language) == once


def test_an_unlisted_language_keeps_its_own_alphabet() -> None:
    assert normalize_text("გამარჯობა!", "ka") == Spoken("გამარჯობა")
    assert normalize_text("हिन्दी-उर्दू में।", "hi") == Spoken("हिन्दी-उर्दू में")
    assert normalize_text("三个人。", "zh-CN") == Spoken("三个人")
    assert normalize_text("IŞIK!", "tr") == Spoken("ışık")


def test_a_folder_that_is_no_language_has_the_rules_of_none() -> None:
    assert normalize_text("It's it.", "my_corpus") == Spoken("it's it")
