"""What is taken for what: speechssl.asr.scoring.error_page."""

from speechssl.asr.scoring.alignment import align
from speechssl.asr.scoring.error_page import confusions


def test_pairs_are_counted_and_ranked_with_how_often_the_token_was_said() -> None:
    said = ["a b b c", "b a"]
    heard = ["a x x c d", "b"]
    found = confusions(align([s.split() for s in said], [h.split() for h in heard], "levenshtein"), most=10)
    assert [tuple(each) for each in found] == [
        ("substitution", "b", "x", 2, 3),
        ("insertion", None, "d", 1, None),
        ("deletion", "a", None, 1, 2),
    ]


def test_only_the_most_frequent_are_kept_and_hits_are_none() -> None:
    alignments = align(["aab", "xyz"], ["ccb", "xyz"], "levenshtein")
    assert [each.times for each in confusions(alignments, most=1)] == [2]
    assert confusions(align(["abc"], ["abc"], "levenshtein"), most=5) == []
