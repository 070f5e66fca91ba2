"""Lists and mappings of texts are scored by one call, as the command scores files."""

import pytest

from speechssl.asr.scoring.evaluate import ScoreConfig
from speechssl.asr.scoring.scores_of import score
from speechssl.errors import ManifestError

FEW = ScoreConfig(samples=50)


def test_lists_and_mappings_give_the_same_figures():
    said, heard = ["one two", "three"], ["one", "tree four"]
    by_list, by_id = (
        score(said, heard, config=FEW),
        score(dict(enumerate_ids(said)), dict(enumerate_ids(heard)), config=FEW),
    )
    assert by_list == by_id
    assert (by_list.wer, by_list.cer) == (1.0, pytest.approx((4 + 6) / 12))
    assert by_list.total.words.errors.deletions == 1
    assert by_list.total.words.interval.low <= by_list.wer <= by_list.total.words.interval.high


def enumerate_ids(texts):
    return [(str(place), text) for place, text in enumerate(texts)]


def test_common_scores_what_both_have_and_says_what_is_left_out():
    found = score({"a": "one", "b": "two"}, {"b": "two", "c": "x"}, config=FEW, common=True)
    assert (found.wer, [row.id for row in found.utterances]) == (0.0, ["b"])
    assert found.left_out is not None
    assert found.left_out.described() == ["1 references: a", "1 hypotheses: c"]
    with pytest.raises(ManifestError, match=r"1 utterances have no hypothesis: a; .* --common scores what both have"):
        score({"a": "one", "b": "two"}, {"b": "two"})
    with pytest.raises(
        ManifestError, match="no utterance is on all sides; left over: 1 references: a; 1 hypotheses: b"
    ):
        score({"a": "one"}, {"b": "two"}, common=True)


def test_languages_and_speakers_count():
    config = ScoreConfig(samples=50, normaliser="lower", blocks="speaker")
    found = score(["IŞIK"], ["ışık"], config=config, languages={"0": "tr"}, speakers={"0": "anna"})
    assert found.wer == 0


@pytest.mark.parametrize(
    ("said", "heard", "message"),
    [
        (["a"], {"0": "a"}, "both mappings or both lists"),
        (["a"], ["a", "b"], "as many hypotheses as references, found 2 and 1"),
        ("a", ["a"], "references: expected a list of texts, or texts by id, found one text"),
    ],
)
def test_sides_of_two_kinds_are_refused(said, heard, message):
    with pytest.raises(ValueError, match=message):
        score(said, heard)
