"""Epochs planned with arrays are the epochs planned crop by crop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data import epochs
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.epochs import Crop, Epoch, first_of_batches
from tests.oracles.batches import oracle_epoch, oracle_fingerprint


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200_000) | st.sampled_from([16_000, 48_000, 160_000]), min_size=1, max_size=120),
    seconds=st.floats(13, 50),
    max_crop_s=st.none() | st.floats(0.5, 13),
    max_utterances=st.integers(1, 30),
    min_s=st.sampled_from([0.0, 0.01, 1.0]),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
    hop=st.sampled_from([1, 160, 320]),
)
def test_batches_are_those_of_the_oracle(
    make_utterances, lengths, seconds, max_crop_s, max_utterances, min_s, seed, epoch, hop
):
    lengths = [*lengths, 20_000]
    config = BatchConfig(seconds=seconds, max_crop_s=max_crop_s, max_utterances=max_utterances, min_s=min_s)
    rows = make_utterances(lengths)
    sampler = BatchSampler(rows, config, seed=seed, hop=hop)
    assert sampler.epoch(epoch) == oracle_epoch(lengths, config, seed=seed, epoch=epoch, hop=hop)
    assert sampler.fingerprint == oracle_fingerprint([row.id for row in rows], lengths, config)


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("max_crops", [1, 5, 1000])
def test_crops_that_are_planned_in_blocks_fill_the_same_batches(monkeypatch, block, max_crops):
    num_samples = np.random.default_rng(0).integers(1, 50, 300)
    whole = first_of_batches(num_samples, limit=100, max_crops=max_crops)
    monkeypatch.setattr(epochs, "_BLOCK", block)
    assert first_of_batches(num_samples, limit=100, max_crops=max_crops).tolist() == whole.tolist()


def test_a_batch_may_be_full_to_the_last_sample():
    assert first_of_batches(np.array([5, 5, 5]), limit=10, max_crops=9).tolist() == [0, 2, 3]


@pytest.fixture
def epoch() -> Epoch:
    crops = (np.arange(5), np.zeros(5, np.int64), np.array([10, 20, 20, 30, 40]))
    return Epoch(crops, np.array([0, 2, 4, 5]), np.array([2, 0, 1]))


def test_an_epoch_is_a_sequence_of_batches(epoch):
    listed = [[Crop(4, 0, 40)], [Crop(0, 0, 10), Crop(1, 0, 20)], [Crop(2, 0, 20), Crop(3, 0, 30)]]
    assert [*epoch] == listed == [epoch[i] for i in range(3)]
    assert epoch == listed
    assert epoch[-1] == listed[-1]
    assert [epoch[1::2], epoch[:0], epoch[::-1]] == [listed[1::2], [], listed[::-1]]
    assert epoch != listed[:2]
    with pytest.raises(IndexError):
        epoch[3]


def test_an_epoch_knows_its_padding(epoch):
    assert (epoch.num_samples, epoch.padding) == (120, pytest.approx(1 - 120 / 140))
    assert (epoch[1:2].num_samples, epoch[1:2].padding) == (30, pytest.approx(1 - 30 / 40))
    assert (epoch[:0].num_samples, epoch[:0].padding) == (0, 0)
