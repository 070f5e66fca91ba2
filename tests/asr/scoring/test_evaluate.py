"""Totals, groups and comparisons: speechssl.asr.scoring.evaluate and speechssl.asr.scoring.score_summary."""

import dataclasses
import json

import pytest

from speechssl.asr.scoring.evaluate import Reference, ScoreConfig, evaluate, evaluate_systems, judge
from speechssl.asr.scoring.score_summary import as_json, difference_lines, lines, utterance_rows
from speechssl.asr.scoring.wer import score_texts
from speechssl.errors import ConfigError, ManifestError

QUICK = ScoreConfig(samples=200)
TEXTS = {"a": "one two three", "b": "one two", "c": "six", "d": "ten one"}
HEARD = {"a": "one too three", "b": "two", "c": "six six", "d": "ten one"}
SPEAKERS = {"a": "x", "b": "x", "c": "y", "d": "y"}


def references(**changes: str) -> list[Reference]:
    return [
        Reference(id=key, text=text, speaker=SPEAKERS[key], groups={"speaker": SPEAKERS[key]})
        for key, text in {**TEXTS, **changes}.items()
    ]


def test_totals_are_those_of_jiwer() -> None:
    found, expected = evaluate(references(), HEARD, QUICK).total, score_texts(TEXTS, HEARD)
    assert found.words.errors == expected.words
    assert found.characters.errors == expected.characters
    assert found.words.interval.low <= expected.wer <= found.words.interval.high


def test_groups_add_up_to_the_total() -> None:
    found = evaluate(references(), HEARD, QUICK)
    groups = found.groups["speaker"]
    assert [group.name for group in groups] == ["x", "y"]
    for name in ("substitutions", "deletions", "insertions", "reference"):
        assert sum(getattr(group.words.errors, name) for group in groups) == getattr(found.total.words.errors, name)
    assert [group.words.errors.rate for group in groups] == [2 / 5, 1 / 3]
    assert [group.utterances for group in groups] == [2, 2]


def test_both_sides_are_normalised() -> None:
    config = dataclasses.replace(QUICK, normaliser="plain")
    heard = {**HEARD, "a": "One, two — THREE!", "b": "one two"}
    assert evaluate(references(b="One two?"), heard, config).total.words.errors.rate == 1 / 8
    assert evaluate(references(b="One two?"), heard, QUICK).total.words.errors.substitutions == 4


def test_speakers_are_drawn_where_asked_for() -> None:
    found = evaluate(references(), HEARD, dataclasses.replace(QUICK, blocks="speaker"))
    assert found.total.blocks == 2
    assert found.total.words.interval.low == 1 / 3  # both draws are speaker y
    assert found.total.words.interval.high == 2 / 5
    unknown = [dataclasses.replace(row, speaker=None) for row in references()]
    with pytest.raises(ManifestError, match="blocks=speaker, but 4 utterances have no speaker: a, b, c"):
        evaluate(unknown, HEARD, dataclasses.replace(QUICK, blocks="speaker"))


@pytest.mark.parametrize(
    ("rows", "heard", "said"),
    [
        ([], {}, "nothing to score"),
        ([*references(), references()[0]], HEARD, "1 ids occur twice: a"),
        (references(), {"a": "x", "b": "x", "c": "x"}, "1 utterances have no hypothesis: d"),
        (references(), {**HEARD, "e": "x"}, "1 utterances have no reference: e"),
        (references(c=" "), HEARD, r"1 references are empty \(texts as they are\): c"),
    ],
)
def test_ids_and_texts_that_do_not_fit_are_errors(rows: list[Reference], heard: dict[str, str], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        evaluate(rows, heard, QUICK)


def test_a_text_that_normalising_empties_is_an_error_and_not_a_perfect_score() -> None:
    with pytest.raises(ManifestError, match="punctuation"):
        evaluate(references(c="?!"), HEARD, dataclasses.replace(QUICK, normaliser="plain"))


def test_an_empty_hypothesis_is_all_deletions() -> None:
    found = evaluate(references(), dict.fromkeys(TEXTS, ""), QUICK).total.words.errors
    assert (found.deletions, found.reference, found.rate) == (8, 8, 1)


@pytest.mark.parametrize("change", [{"level": 1.0}, {"samples": 0}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="level must lie between 0 and 1"):
        ScoreConfig(**change)  # type: ignore[arg-type]


def test_two_systems_are_compared_on_the_same_speech() -> None:
    first = evaluate(references(), HEARD, QUICK)
    second = evaluate(references(), TEXTS, QUICK)
    words, characters = judge(references(), first, second)
    assert words.difference == pytest.approx(-3 / 8)
    assert characters.difference < 0
    assert judge(references(), first, first)[0].p_value == 1
    assert difference_lines((words, characters))[0].startswith("WER of the second minus the first: -37.50 points [")


def test_systems_scored_together_have_the_figures_of_each_alone() -> None:
    together = evaluate_systems(references(), [HEARD, TEXTS], QUICK)
    alone = [evaluate(references(), heard, QUICK) for heard in (HEARD, TEXTS)]
    assert [as_json(each) for each in together] == [as_json(each) for each in alone]
    assert judge(references(), *together) == judge(references(), *alone)


def test_systems_scored_in_two_ways_are_not_compared() -> None:
    other = evaluate(references(), HEARD, dataclasses.replace(QUICK, seed=1))
    with pytest.raises(ValueError, match="expected two systems scored alike"):
        judge(references(), evaluate(references(), HEARD, QUICK), other)


def test_the_report_names_normaliser_alignment_draws_and_few_blocks() -> None:
    said = "\n".join(lines(evaluate(references(), HEARD, QUICK)))
    assert "texts: texts as they are; alignment of words: levenshtein" in said
    assert "4 utterances drawn 200 times, seed 0" in said
    assert "only 4 utterances: the intervals are too narrow" in said
    assert "by speaker:" in said
    assert "WER  37.50 %" in said


def test_json_holds_what_older_readers_look_for_and_the_intervals() -> None:
    found = json.loads(json.dumps(as_json(evaluate(references(), HEARD, QUICK))))
    assert found["wer"] == 3 / 8
    assert found["words"] == {"substitutions": 1, "deletions": 1, "insertions": 1, "reference": 8}
    assert set(found["wer_interval"]) == {"low", "high"}
    assert found["groups"]["speaker"]["y"]["utterances"] == 2
    assert found["config"]["samples"] == 200


def test_the_worst_utterance_comes_first() -> None:
    header, *rows = utterance_rows(evaluate(references(), HEARD, QUICK).utterances)
    assert [row[0] for row in rows] == ["c", "b", "a", "d"]
    assert dict(zip(header, rows[1], strict=True))["deletions"] == "1"
    assert rows[0][-2:] == ["six", "six six"]
