"""Names of utterances in files: speechssl.features.description."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speechssl.features.description import id_of_name, name_of_id

ODD = [
    "",
    ".",
    "..",
    "a/b",
    "/a",
    "a b",
    "ä",
    "x\ty",
    "a%2Fb",
    "__metadata__",
    "__",
    "_",
    ".hidden",
    "100%",
    "a%/b",
    "%",
]


@pytest.mark.parametrize(
    "key", [*ODD, "n" * 500, "/" * 300, "ж" * 200, "a" * 200, "a" * 199 + "%b", "a" * 200 + "..", "a" * 200 + "__b"]
)
def test_odd_ids_come_back(key):
    assert id_of_name(name_of_id(key)) == key


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_any_id_comes_back(key):
    assert id_of_name(name_of_id(key)) == key


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
@example("a" * 200 + "..")
@example("a" * 200 + "__b")
def test_names_are_safe_everywhere(key):
    parts = name_of_id(key).split("/")
    assert all(0 < len(part) <= 210 and not part.startswith((".", "__")) for part in parts)
    assert all(part.isascii() and part.isprintable() and " " not in part for part in parts)
    assert all(part.endswith("%") for part in parts[:-1]), "a folder may be called like the file of another id"


def test_different_ids_have_different_names():
    assert len({name_of_id(key) for key in ODD}) == len(ODD)


def test_ordinary_ids_are_their_names():
    assert name_of_id("84-121123-0003") == "84-121123-0003"
