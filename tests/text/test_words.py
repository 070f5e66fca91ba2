"""What belongs to a word: speechssl.text.words."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speechssl.text.languages import Language, read_language
from speechssl.text.policy import TextConfig
from speechssl.text.words import lacks_blanks, lowered, raised, without_punctuation


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("", "a—b a–b a―b a‒b", "a b a b a b a b"),  # dashes
        ("", "a-b a‐b a‑b a--b", "a-b a-b a-b a b"),  # hyphens
        ("", "don’t don‘t donʼt don′t don＇t", "don't don't don't don't don't"),
        ("", "excel·lent paraŀlel syl‧la", "excel·lent paral·lel syl·la"),
        ("", "卡尔·马克思 τι·πως ジョン・スミス", "卡尔 马克思 τι πως ジョン スミス"),
        ("ca", "col.legi mal.fet", "col·legi mal fet"),
        ("", 'צה״ל צה"ל צה\'\'ל "שלום" a"b', 'צה"ל צה"ל צה"ל שלום a b'),
        ("", "סנדוויץ׳ 'שלום עולם' צ'ק בית־ספר", "סנדוויץ' שלום עולם צ'ק בית-ספר"),
        ("", "ինչո՞ւ այո՛, Հա՜յ", "ինչու այո Հայ"),
        ("", "EU:ssa 10:30", "EU ssa 10 30"),
        ("fin", "EU:ssa klo 10:30 näin:", "EU:ssa klo 10 30 näin"),
        ("haw", "‘okina Hawai’i 'āina ‘ike.", "ʻokina Hawaiʻi ʻāina ʻike"),
        ("uzn", "o'zbek tog‘ ma’no", "oʻzbek togʻ ma'no"),
        ("mt", "ta' 'il-belt' x'", "ta' il-belt x'"),
        ("ktz", "Ju|'hoan !Kung! 5!", "Juǀ'hoan ǃKung 5"),
        ("", "a꞉b ma˥", "a꞉b ma˥"),  # letters, though symbols for Unicode
        ("", "كتــاب", "كتاب"),
        ("", "می\u200c\u200cروم a\u200cb ab\u200d", "می\u200cروم ab ab"),
        ("", "അവന്\u200d", "അവൻ"),
        ("", "I ❤️ you 3,5 and/or a_b", "I you 3 5 and or a b"),
    ],
)
def test_signs_stay_where_they_belong_to_words(language: str, text: str, expected: str) -> None:
    assert without_punctuation(text, read_language(language)) == expected


@pytest.mark.parametrize(
    ("language", "low", "high"),
    [
        ("tr", "ışık iz", "IŞIK İZ"),
        ("crh", "qırım", "QIRIM"),
        ("kk-Latn", "iri", "İRİ"),
        ("kk", "iri", "IRI"),
        ("az-Cyrl", "it", "IT"),
        ("el", "δρόμος", "ΔΡΌΜΟΣ"),
    ],
)
def test_letters_have_their_languages_capitals(language: str, low: str, high: str) -> None:
    assert (lowered(high, read_language(language)), raised(low, read_language(language))) == (low, high)


@pytest.mark.parametrize("text", ["ΤΗΣ.ΑΛΛΑ", "τησ αλλα", "τηςαλλα αλλα"])
def test_a_sigma_has_the_form_of_its_place(text: str) -> None:
    words = TextConfig(case="lower", punctuation="remove").apply(text).split()
    assert all(("ς" in word[-1:]) == (word[-1] in "σς") and "ς" not in word[:-1] for word in words)


@example("1'’1", "haw", "keep")
@given(
    st.text("aIioglyσςא׳״'\"’ʻ-–:·.!|क्\u200c\u200d 1\u0301", max_size=14),
    st.sampled_from([None, "ca", "fi", "ha", "haw", "mt", "naq", "tr", "uz"]),
    st.sampled_from(["keep", "lower", "upper"]),
)
def test_a_second_pass_changes_nothing(text: str, language: str | None, case: str) -> None:
    policy = TextConfig(case=case, punctuation="remove", language=language)  # type: ignore[arg-type]
    once = policy.apply(text)
    assert policy.apply(once) == once


def test_a_language_is_named_with_or_without_its_script() -> None:
    assert Language("kk", "Latn").is_one_of(frozenset({"kk-Latn"}))
    assert not Language("kk").is_one_of(frozenset({"kk-Latn"}))


@pytest.mark.parametrize(
    "text",
    [
        "ผมไปตลาดครับ",
        "ຂ້ອຍໄປຕະຫຼາດ",
        "ខ្ញុំទៅផ្សារ",
        "ကျွန်တော် ဈေးသွားမယ်",
        "今日は いい天気ですね",
        "打开灯",
        "བོད་ཡིག་ཡག་པོ་འདུག",
        "ᨾᩩᩁᨻᩢ᩠ᨶ",
        "我们都会用wifi",
    ],
)
def test_scripts_without_blanks_between_words_are_found_by_their_letters(text: str) -> None:
    assert lacks_blanks(["one two", text, "раз два"]) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "ผม ไป ตลาด ครับ",
        "今日 は いい 天気 です ね",
        "今 天 天 气",
        "བོད ཡིག ཡག པོ",
        "오늘은 날씨가",
        "we say 你好 and go on",
    ],
)
def test_texts_whose_words_are_parted_or_of_another_script_are_not(text: str) -> None:
    assert lacks_blanks([text]) == []
