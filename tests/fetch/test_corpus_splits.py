"""The split rule and the lists that pin it: speechssl.corpus.fetch.splits."""

import dataclasses
import math
from pathlib import Path

import pytest

from speechssl.corpus.fetch.splits import SplitRule, listed_splits, lists_digest, ruled_splits, write_lists
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import CorpusError

RULE = SplitRule(minutes=(("test", 2), ("dev", 1), ("train", 1.5)))


def utterances(count: int, *, first: int = 0, seconds: int = 3) -> list[Utterance]:
    return [
        Utterance(
            id=f"u{i:04}",
            path=f"audio/u{i:04}.wav",
            num_samples=seconds * 16_000,
            sample_rate=16_000,
            channels=1,
            text=f"text number {i}",
            language="en",
        )
        for i in range(first, first + count)
    ]


def ids(rows: list[Utterance]) -> set[str]:
    return {row.id for row in rows}


def test_splits_have_their_minutes_and_share_nothing_but_train_with_pool() -> None:
    splits = ruled_splits(utterances(200), RULE)
    assert [len(splits[name]) for name in ("test", "dev", "train", "pool")] == [40, 20, 30, 140]
    assert not ids(splits["test"]) & ids(splits["dev"])
    assert not ids(splits["pool"]) & (ids(splits["dev"]) | ids(splits["test"]))
    assert ids(splits["train"]) <= ids(splits["pool"])
    assert all(row.split == name for name, rows in splits.items() for row in rows)


def test_equal_texts_are_never_in_two_splits() -> None:
    rows = [dataclasses.replace(row, text=f"text {i % 25}") for i, row in enumerate(utterances(200))]
    splits = ruled_splits(rows, SplitRule(minutes=(("train", 5), ("dev", 2), ("test", math.inf))))
    texts = [{row.text for row in splits[name]} for name in ("train", "dev", "test")]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 25


def test_the_order_of_the_files_does_not_matter() -> None:
    rows = utterances(100)
    forward, backward = ruled_splits(rows, RULE), ruled_splits(rows[::-1], RULE)
    assert {name: ids(split) for name, split in forward.items()} == {name: ids(s) for name, s in backward.items()}


def test_untexted_and_foreign_utterances_change_no_labelled_split() -> None:
    rule = dataclasses.replace(RULE, language="en")
    rows = utterances(100)
    others = [dataclasses.replace(row, text=None) for row in utterances(50, first=500)]
    others += [dataclasses.replace(row, language="fr") for row in utterances(50, first=900)]
    alone, together = ruled_splits(rows, rule), ruled_splits(rows + others, rule)
    assert all(alone[name] == together[name] for name in ("test", "dev", "train"))
    assert ids(together["pool"]) == ids(alone["pool"]) | ids(others)


def test_one_more_utterance_moves_at_most_one_across_each_border() -> None:
    before, after = ruled_splits(utterances(200), RULE), ruled_splits(utterances(201), RULE)
    for name in ("test", "dev", "train"):
        assert len(ids(before[name]) ^ ids(after[name])) <= 2


def test_without_a_rule_everything_is_pool() -> None:
    assert list(ruled_splits(utterances(5), None)) == ["pool"]


def test_lists_written_from_a_split_give_that_split_again_and_hold_no_text(tmp_path: Path) -> None:
    rows = utterances(120)
    ruled = ruled_splits(rows, RULE)
    for name, split in ruled.items():
        write_manifest(tmp_path / f"made/{name}.tsv", split)
    write_lists({name: tmp_path / f"made/{name}.tsv" for name in ruled}, tmp_path / "lists")
    assert listed_splits(rows, tmp_path / "lists") == ruled
    assert (tmp_path / "lists/dev.tsv").read_text().splitlines()[0] == "id\tpath\tsamples\trate\tchannels"


def test_a_list_that_does_not_fit_names_the_first_three(tmp_path: Path) -> None:
    rows = utterances(6)
    write_manifest(tmp_path / "train.tsv", rows)
    shorter = dataclasses.replace(rows[1], num_samples=7)
    with pytest.raises(CorpusError, match=r"train.tsv: 5 of 6 .*u0001 \(7 samples, listed 48000\), u0002 \(missing\)"):
        listed_splits([rows[0], shorter], tmp_path)


def test_a_folder_without_lists_is_an_error_and_a_changed_list_changes_the_digest(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no split lists"):
        lists_digest(tmp_path)
    write_manifest(tmp_path / "train.tsv", utterances(2))
    before = lists_digest(tmp_path)
    write_manifest(tmp_path / "train.tsv", utterances(3))
    assert lists_digest(tmp_path) != before
