"""Chosen utterances, and an account of the others."""

from dataclasses import replace

import pytest

from speechssl.corpus.filter import Wanted, choose, read_ids
from speechssl.data.manifest import write_manifest
from speechssl.errors import ManifestError


@pytest.fixture
def rows(make_utterances):
    short, middle, long, other = make_utterances([8_000, 32_000, 320_000, 32_000])
    return [
        replace(short, text="a", language="ru", speaker="x"),
        replace(middle, text="b", language="nl", speaker="x", split="dev"),
        replace(long, text="", language="ru", speaker="y"),
        other,
    ]


@pytest.mark.parametrize(
    ("wanted", "kept", "reason"),
    [
        (Wanted(min_s=0.5), [0, 1, 2, 3], None),
        (Wanted(min_s=1), [1, 2, 3], "shorter than 1 s"),
        (Wanted(max_s=2), [0, 1, 3], "longer than 2 s"),
        (Wanted(languages=["ru"]), [0, 2], "another language, or none"),
        (Wanted(speakers=["y", "z"]), [2], "another speaker, or none"),
        (Wanted(splits=["dev"]), [1], "another split, or none"),
        (Wanted(has_text=True), [0, 1], "no text"),
        (Wanted(has_text=False), [2, 3], "has a text"),
        (Wanted(ids={"u0003", "u0000"}), [0, 3], "not among the ids"),
        (Wanted(not_ids={"u0003", "gone"}), [0, 1, 2], "among the ids to leave out"),
    ],
)
def test_each_wish_keeps_what_fits_and_counts_the_rest(rows, wanted, kept, reason):
    found, left_out = choose(rows, wanted)
    assert found == [rows[i] for i in kept]
    assert left_out == ({reason: len(rows) - len(kept)} if reason else {})


def test_an_id_that_is_not_there_and_an_empty_result_are_errors(rows):
    with pytest.raises(ManifestError, match="1 of the ids asked for are not in the manifest: gone"):
        choose(rows, Wanted(ids={"u0000", "gone"}))
    with pytest.raises(ManifestError, match=r"no utterance is left of 4: 4 longer than 0\.1 s; relax the conditions"):
        choose(rows, Wanted(max_s=0.1))


def test_ids_come_from_a_list_or_a_manifest(rows, tmp_path):
    (tmp_path / "ids.txt").write_text("u0001\nu0002\n", encoding="utf-8")
    write_manifest(tmp_path / "rows.tsv", rows[1:3])
    assert read_ids(tmp_path / "ids.txt") == read_ids(tmp_path / "rows.tsv") == {"u0001", "u0002"}


@pytest.mark.parametrize("text", ["", "a\n\nb\n", "a\tb\n", "id\tx\n\t1\n"])
def test_a_list_with_holes_is_refused(tmp_path, text):
    (tmp_path / "ids").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match="ids: expected an id a line"):
        read_ids(tmp_path / "ids")
