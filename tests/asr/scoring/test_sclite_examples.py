"""Counts of sclite's own test suite (SCTK, src/sclite/testdata, in the public domain), as its `base` has them."""

import pytest

from speechssl.asr.scoring.alignment import align
from speechssl.asr.scoring.evaluate import Reference, ScoreConfig, evaluate

# test15_d, Ukrainian: id, reference, hypothesis; correct, substitutions, deletions, insertions
UKRAINIAN = [
    (
        "ukr_0001",
        "Я відповідаю за навчання та застосування цього загону",
        "я відповідаю за навчання та застосування цього загону",
        (8, 0, 0, 0),
    ),
    (
        "ukr_0002",
        "Ці компактні, добре підготовлені загони можуть використовуватися будь-де у світі для допомоги дружнім урядам "
        "в оборонних операціях",
        "ці компактні добре підготовлені загони можуть використовуватися будь де у світі для допомоги дружнім урядам "
        "в оборонних операціях",
        (15, 2, 0, 1),
    ),
    (
        "ukr_0003",
        "Вони також можуть використовуватися у нетрадиційній бойовій ролі",
        "вони також можуть використовуватися у нетрадиційні бойові ролі",
        (6, 2, 0, 0),
    ),
    (
        "ukr_0004",
        "Під час тренувань наголошується на індивідуальному виживанні за різних умов",
        "під час тренувань наголошується на індивідуальному виживанню за різних умов",
        (9, 1, 0, 0),
    ),
    (
        "ukr_0005",
        "У мої обов'язки входить контроль за всіма адміністративними та мітеріально-технічними питаннями",
        "у мої обов'язки входить контроль за всіма адміністративними та матеріально технічними питаннями",
        (10, 1, 0, 1),
    ),
    (
        "ukr_0006",
        "Якщо загін розділять на дві команди, я буду командувати однією з них",
        "якщо загін розділять на дві команди я буду командувати однією з них",
        (11, 1, 0, 0),
    ),
]
# of test7, what has one reading: no alternatives, fragments or words that may be left out
PLAIN = [
    ("this is the ten", "th e is th en", (1, 3, 0, 1)),
    ("this is the tea", "th e is th en", (1, 3, 0, 1)),
    ("uh uh had a long age-old problem of my bright", "uh uh have along which go problem of my private", (5, 5, 0, 0)),
    ("a b c d f g", "a b c d e f g", (6, 0, 0, 1)),
    ("", "a b c e f g h i j k", (0, 0, 0, 10)),
    ("", "d e f", (0, 0, 0, 3)),
    ("a c d", "a c i d", (3, 0, 0, 1)),
    ("a d c", "a c", (2, 0, 1, 0)),
    ("a aa;a b;b;b b c d", "", (0, 0, 6, 0)),
    ("a aa;a b;b;b b c d", "z aa;a b;b;b y x w", (2, 4, 0, 0)),
]
# of test17, Vietnamese: the letters after z, in small ones and in both cases
SMALL = (
    "à á á â â ã è é ê ì í ò ó ô ô õ ù ú ú ý ý ă đ đ ĩ ũ ơ ư ư ạ ả ấ ấ ầ ẩ ẫ ậ ắ "
    "ằ ẳ ẵ ặ ẹ ẻ ẽ ế ề ể ễ ệ ỉ ị ọ ỏ ố ố ồ ổ ỗ ộ ớ ờ ở ỡ ợ ụ ủ ủ ứ ừ ử ữ ự ỳ ỵ ỷ ỹ"
)
MIXED = (
    "à Á á Â â ã è é ê ì í ò ó Ô ô õ ù Ú ú Ý ý ă Đ đ ĩ ũ ơ Ư ư ạ ả Ấ ấ ầ ẩ ẫ ậ ắ "
    "ằ ẳ ẵ ặ ẹ ẻ ẽ ế ề ể ễ ệ ỉ ị ọ ỏ Ố ố ồ ổ ỗ ộ ớ ờ ở ỡ ợ ụ Ủ ủ ứ ừ ử ữ ự ỳ ỵ ỷ ỹ"
)
ASCII = "abcdefghijklmnopqrstuvwxyz"


def counts(reference: str, hypothesis: str) -> tuple[int, ...]:
    (steps,) = align([reference.split()], [hypothesis.split()], "nist")
    kinds = [step.kind for step in steps]
    return tuple(kinds.count(kind) for kind in ("hit", "substitution", "deletion", "insertion"))


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), PLAIN)
def test_plain_cases(reference: str, hypothesis: str, expected: tuple[int, ...]) -> None:
    assert counts(reference, hypothesis) == expected


@pytest.mark.parametrize(("reference", "hypothesis", "expected"), [row[1:] for row in UKRAINIAN])
def test_ukrainian_utterances(reference: str, hypothesis: str, expected: tuple[int, ...]) -> None:
    assert counts(reference.lower(), hypothesis) == expected


def test_ukrainian_totals_as_a_user_scores_them() -> None:
    references = [Reference(id=row[0], text=row[1], speaker="ukr", language="uk", groups={}) for row in UKRAINIAN]
    hypotheses = {row[0]: row[2] for row in UKRAINIAN}
    scored = evaluate(references, hypotheses, ScoreConfig(normaliser="lower", alignment="nist", samples=10))
    errors = scored.total.words.errors
    assert (errors.reference, errors.substitutions, errors.deletions, errors.insertions) == (66, 7, 0, 2)


def test_vietnamese_cases_are_folded_and_empty_sides_counted() -> None:
    small = " ".join(["( ) - / < > _", *(f"{letter} {letter}" for letter in ASCII), SMALL])
    mixed = " ".join(["( ) - / < > _", *(f"{letter.upper()} {letter}" for letter in ASCII), MIXED])
    rows = [("low-low:", small, small), ("low_mc:", small, mixed), ("mc-low:", mixed, small), ("mc-mc:", mixed, mixed)]
    rows += [("mc-null:", mixed, ""), ("null-mc:", "", mixed)]
    found = [counts(f"{name} {one}".lower(), f"{name} {other}".lower()) for name, one, other in rows]
    assert found == [(137, 0, 0, 0)] * 4 + [(1, 0, 136, 0), (1, 0, 0, 136)]
