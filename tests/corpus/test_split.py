"""Splits: shares reached, speakers never parted, and nothing mixed up when data are added."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.corpus.split import describe_misses, split_by_hours, split_by_shares
from speechssl.data.utterances import Utterance
from speechssl.errors import ManifestError

SHARES = {"test": 0.1, "dev": 0.1, "train": 0.8}


def utterance(key: int, speaker: int | None = None, seconds: float = 5.0) -> Utterance:
    return Utterance(
        id=f"u{key}",
        path=f"u{key}.wav",
        num_samples=int(seconds * 16_000),
        sample_rate=16_000,
        channels=1,
        speaker=None if speaker is None else f"s{speaker}",
    )


def ids(rows: list[Utterance]) -> set[str]:
    return {row.id for row in rows}


def test_shares_by_id_are_reached_and_every_utterance_is_in_one_split():
    rows = [utterance(key) for key in range(4000)]
    splits = split_by_shares(rows, SHARES, by="id")
    assert sum(map(len, splits.values())) == 4000
    assert set.union(*map(ids, splits.values())) == ids(rows)
    for name, share in SHARES.items():
        assert len(splits[name]) / 4000 == pytest.approx(share, abs=0.02)
        assert {row.split for row in splits[name]} == {name}


def test_no_speaker_is_in_two_splits():
    splits = split_by_shares([utterance(key, key % 90) for key in range(900)], SHARES, by="speaker")
    speakers = [{row.speaker for row in rows} for rows in splits.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 90


def test_added_data_and_another_order_leave_everyone_in_their_split():
    rows = [utterance(key, key % 90) for key in range(900)]
    before = split_by_shares(rows, SHARES, by="speaker")
    more = rows + [utterance(key, 50 + key % 400) for key in range(900, 2000)]
    random.Random(1).shuffle(more)
    after = split_by_shares(more, SHARES, by="speaker")
    for name in SHARES:
        assert ids(before[name]) <= ids(after[name])


def test_another_salt_is_another_division():
    rows = [utterance(key) for key in range(100)]
    assert split_by_shares(rows, SHARES, by="id") != split_by_shares(rows, SHARES, by="id", salt="x")


@given(
    old=st.lists(st.tuples(st.integers(0, 30), st.floats(1, 20)), min_size=30, max_size=60),
    new=st.lists(st.tuples(st.integers(0, 60), st.floats(1, 20)), max_size=60),
)
@settings(max_examples=40, deadline=None)
def test_what_was_trained_on_is_never_tested_on_after_more_was_added(old, new):
    def rows(found):
        return [utterance(key, speaker, seconds) for key, (speaker, seconds) in enumerate(found)]

    hours = {"test": 10 / 3600, "dev": 10 / 3600}
    try:
        before = split_by_hours(rows(old), hours, rest="train", by="speaker")
    except ManifestError:
        return  # too few speakers to fill all three
    after = split_by_hours(rows(old + new), hours, rest="train", by="speaker")
    assert ids(before["train"]) <= ids(after["train"])
    assert ids(before["dev"]).isdisjoint(ids(after["test"]))


def test_hours_are_reached_and_the_rest_is_for_training():
    rows = [utterance(key, seconds=10) for key in range(720)]  # 2 h
    splits = split_by_hours(rows, {"test": 0.25, "dev": 0.5}, rest="train", by="id")
    assert {name: sum(row.duration_s for row in found) / 3600 for name, found in splits.items()} == pytest.approx(
        {"test": 0.25, "dev": 0.5, "train": 1.25}
    )


def test_a_missing_speaker_is_named():
    with pytest.raises(ManifestError, match=r"1 of 2 utterances have no speaker: u1; .* divide by id"):
        split_by_shares([utterance(0, 1), utterance(1)], SHARES, by="speaker")


def test_too_few_speakers_for_the_splits_are_an_error():
    rows = [utterance(key, 1) for key in range(50)]
    with pytest.raises(ManifestError, match=r"would be empty: the 50 utterances have 1 different values of speaker"):
        split_by_shares(rows, SHARES, by="speaker")
    with pytest.raises(ManifestError, match=r"^train would be empty"):
        split_by_hours(rows, {"test": 0.01}, rest="train", by="speaker")


@pytest.mark.parametrize("shares", [{}, {"train": 0.9}, {"train": 1.1, "dev": -0.1}, {"a": 0.6, "b": 0.6}])
def test_shares_that_are_no_division_are_refused(shares):
    with pytest.raises(ManifestError, match="shares: expected positive numbers that add up to 1"):
        split_by_shares([utterance(0)], shares, by="id")


@pytest.mark.parametrize("hours", [{}, {"train": 1.0}, {"dev": 0.0}])
def test_hours_that_are_no_division_are_refused(hours):
    with pytest.raises(ManifestError, match="hours: expected positive numbers for splits other than train"):
        split_by_hours([utterance(0)], hours, rest="train", by="id")


def test_equal_texts_stay_together():
    rows = [replace(utterance(key), text=f"sentence {key % 40}") for key in range(400)]
    splits = split_by_shares(rows, SHARES, by="text")
    texts = [{row.text for row in found} for found in splits.values()]
    assert sum(map(len, texts)) == 40


def test_held_out_speakers_are_no_longer_or_shorter_than_the_others():
    rows = [utterance(key, seconds=1 + key % 20) for key in range(3000)]
    held_out = split_by_hours(rows, {"test": 1.5}, rest="train", by="id")["test"]
    assert sum(row.duration_s for row in held_out) / len(held_out) == pytest.approx(10.5, abs=1.5)


def test_a_split_far_from_what_was_asked_is_said_with_the_reason():
    rows = [utterance(key, key % 2) for key in range(100)]
    shares = {"test": 0.3, "train": 0.7}
    salt = next(str(i) for i in range(100) if split_or_none(rows, shares, str(i)))
    lines = describe_misses(split_by_shares(rows, shares, by="speaker", salt=salt), shares, by="speaker", unit="share")
    assert lines == [
        "test: holds 0.5 of the audio, 0.3 was asked for: no speaker is divided, and the longest of 2 has 50 % of all; "
        "divide by id, if that is acceptable, take another --salt, or give more data"
    ]
    splits = split_by_hours(rows, {"test": 0.01}, rest="train", by="speaker")
    (line,) = describe_misses(splits, {"test": 0.01}, by="speaker", unit="h")
    assert line.startswith("test: holds 0.069 h, 0.01 was asked for: no speaker is divided")


def split_or_none(rows, shares, salt):
    try:
        return split_by_shares(rows, shares, by="speaker", salt=salt)
    except ManifestError:
        return None


def test_splits_near_what_was_asked_say_nothing():
    splits = split_by_shares([utterance(key) for key in range(4000)], SHARES, by="id")
    assert describe_misses(splits, SHARES, by="id", unit="share") == []
