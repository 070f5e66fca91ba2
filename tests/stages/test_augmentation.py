"""Augmentation of labels and of pseudo-labels apart: speechssl.stages.augmentation."""

import dataclasses
from pathlib import Path

import pytest
import torch

from speechssl.audio.reading import AudioConfig
from speechssl.data.augment import AugmentConfig, Speeds
from speechssl.data.manifest import write_manifest
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import ConfigError
from speechssl.stages.augmentation import PseudoConfig, augmenter_of, span_of_speeds, speeds_of
from speechssl.stages.reading_data import DataConfig, read_data

SLOW = AugmentConfig(speeds=(0.9,))


@pytest.fixture
def joined(tmp_path: Path) -> Manifest:
    """Give two utterances of labels.tsv and three of pseudo.tsv, joined."""
    one = Utterance(id="", path="a.wav", num_samples=1600, sample_rate=16_000, channels=1, text="one")
    for name, count in (("labels", 2), ("pseudo", 3)):
        rows = [dataclasses.replace(one, id=f"{name}{number}") for number in range(count)]
        write_manifest(tmp_path / f"{name}.tsv", rows)
    return read_data(DataConfig(manifests=(tmp_path / "labels.tsv", tmp_path / "pseudo.tsv")))


def test_pseudo_labels_have_speeds_of_their_own(joined, tmp_path):
    pseudo = PseudoConfig(manifests=(tmp_path / "pseudo.tsv",), augment=SLOW)
    speeds = speeds_of(AugmentConfig(), pseudo, joined.utterances, seed=0)
    assert speeds is not None
    assert [float(speeds.of(0, index)) for index in range(5)] == [1, 1, 0.9, 0.9, 0.9]
    assert span_of_speeds(AugmentConfig(speeds=(1.1,)), pseudo) == (0.9, 1.1)
    assert span_of_speeds(AugmentConfig(), None) == (1, 1)


def test_without_pseudo_labels_and_without_change_nothing_is_new(joined, tmp_path):
    rows = joined.utterances
    plain = speeds_of(SLOW, None, rows, seed=0)
    assert isinstance(plain, Speeds)
    same = PseudoConfig(manifests=(tmp_path / "pseudo.tsv",))
    assert speeds_of(AugmentConfig(), same, rows, seed=0) is None
    assert augmenter_of(AugmentConfig(), same, rows, AudioConfig(), seed=0) is None
    assert augmenter_of(AugmentConfig(), None, rows, AudioConfig(), seed=0) is None


def test_pseudo_labels_alone_are_made_louder(joined, tmp_path):
    pseudo = PseudoConfig(manifests=(tmp_path / "pseudo.tsv",), augment=AugmentConfig(gain_db=(20.0, 20.0)))
    augment = augmenter_of(AugmentConfig(), pseudo, joined.utterances, AudioConfig(), seed=0)
    assert augment is not None
    heard = [float(augment(torch.ones(1), epoch=0, index=index)) for index in range(5)]
    assert heard == pytest.approx([1, 1, 10, 10, 10])


@pytest.mark.parametrize("names", [["other.tsv"], ["pseudo.tsv", "other.tsv"]])
def test_a_manifest_that_is_none_of_the_data_is_refused(joined, tmp_path, names):
    pseudo = PseudoConfig(manifests=tuple(tmp_path / name for name in names), augment=SLOW)
    with pytest.raises(ConfigError, match=r"pseudo\.manifests: .*other\.tsv lists no training utterance"):
        speeds_of(AugmentConfig(), pseudo, joined.utterances, seed=0)


def test_pseudo_labels_without_a_manifest_are_refused():
    with pytest.raises(ConfigError, match=r"pseudo\.manifests is empty; name the manifests"):
        PseudoConfig(manifests=(), augment=SLOW)


def test_a_single_manifest_has_no_part_to_be_told_apart(tmp_path, joined):
    pseudo = PseudoConfig(manifests=(tmp_path / "pseudo.tsv",), augment=SLOW)
    alone = read_data(DataConfig(manifests=pseudo.manifests))
    with pytest.raises(ConfigError, match="names a single manifest, so nothing is told apart"):
        speeds_of(AugmentConfig(), pseudo, alone.utterances, seed=0)
