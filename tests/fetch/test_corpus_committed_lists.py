"""The lists in manifests/ agree with one another and with the split rules."""

from pathlib import Path

import pytest

from speechssl.corpus.fetch import CORPORA, Corpus
from speechssl.data.manifest import read_manifest
from speechssl.data.utterances import Manifest
from tests.fetch.recipes import corpus_of_recipes

LISTS = Path(__file__).parents[2] / "manifests"
FOLDERS = sorted(path for path in LISTS.iterdir() if path.is_dir())
LABELLED = [path for path in FOLDERS if (path / "train.tsv").exists()]


def corpus_of(folder: Path) -> Corpus:
    return CORPORA[folder.name] if folder.name in CORPORA else corpus_of_recipes(folder.name)


def lists(folder: Path) -> dict[str, Manifest]:
    return {path.stem: read_manifest(path) for path in folder.glob("*.tsv")}


def ids(manifest: Manifest) -> set[str]:
    return {utterance.id for utterance in manifest.utterances}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_each_list_belongs_to_a_known_corpus_and_holds_wideband_mono_without_texts(folder: Path) -> None:
    assert corpus_of(folder).name == folder.name
    for path in folder.glob("*.tsv"):
        assert path.read_text().splitlines()[0] == "id\tpath\tsamples\trate\tchannels"
        assert {(u.sample_rate, u.channels) for u in read_manifest(path).utterances} == {(16_000, 1)}


@pytest.mark.parametrize("folder", LABELLED, ids=lambda path: path.name)
def test_pool_holds_train_and_nothing_of_dev_or_test(folder: Path) -> None:
    splits = lists(folder)
    assert set(splits) == {"train", "dev", "test", "pool"}
    assert ids(splits["train"]) <= ids(splits["pool"])
    assert not ids(splits["pool"]) & (ids(splits["dev"]) | ids(splits["test"]))
    assert not ids(splits["dev"]) & ids(splits["test"])


@pytest.mark.parametrize("folder", LABELLED, ids=lambda path: path.name)
def test_each_split_has_the_minutes_of_its_rule(folder: Path) -> None:
    rule = corpus_of(folder).rule
    assert rule is not None
    for split, minutes in rule.minutes:
        found = lists(folder)[split].duration_s / 60
        assert minutes <= found < minutes + 0.5 or (minutes == float("inf") and found > 5)


def test_asterisk_is_the_union_of_its_languages() -> None:
    union = lists(LISTS / "asterisk")
    parts = [lists(LISTS / f"asterisk-{language}") for language in ("en", "es", "fr", "it", "ru")]
    assert ids(union["pool"]) == set().union(*(ids(part["pool"]) for part in parts))
    assert all(
        union[split] == Manifest(root=union[split].root, utterances=parts[0][split].utterances)
        for split in ("train", "dev", "test")
    )
