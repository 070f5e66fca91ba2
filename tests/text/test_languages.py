"""Codes of languages: speechssl.text.languages."""

import sys

import pytest

from speechssl.errors import ConfigError, PackageError
from speechssl.text.languages import Language, read_language
from speechssl.text.policy import TextConfig


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ("tr TR tur tr_tr tr-TR tr_TR.UTF-8 TUR", Language("tr")),
        ("aze azj az_AZ", Language("az")),
        ("azj-script_latin az-Latn azj_Latn az@latin", Language("az", "Latn")),
        ("cmn_hans_cn zh-Hans cmn-script_simplified", Language("zh", "Hans")),
        ("he iw heb he_IL", Language("he")),
        ("deu ger de-CH-1901", Language("de")),
        ("tok", Language("tok")),  # younger than the registry
        ("nv nav", Language("nv")),
        ("cak-dialect_south", Language("cak")),
    ],
)
def test_usual_forms_of_a_code_are_one_language(codes: str, expected: Language) -> None:
    assert {read_language(code) for code in codes.split()} == {expected}


@pytest.mark.parametrize("code", [None, "", "und", "MUL", "zxx", "mis", "unknown", "und-Latn"])
def test_a_language_that_is_not_known_is_none(code: str | None) -> None:
    assert read_language(code) is None


@pytest.mark.parametrize("code", ["xx", "qq_QQ", "turkish", "foo-script_latin", "azj-script_klingon", "tr-", "a b"])
def test_what_is_the_code_of_no_language_is_refused_in_a_recipe(code: str) -> None:
    with pytest.raises(ConfigError, match=rf"text\.language: '{code}' is not a language code; expected .* tur"):
        TextConfig(language=code)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langcodes", None)
    read_language.cache_clear()
    with pytest.raises(PackageError, match="pip install langcodes"):
        read_language("tr")
