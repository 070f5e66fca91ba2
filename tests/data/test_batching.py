"""Which crops make up a batch, and how they are put together."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechssl.data.batching import Batch, BatchConfig, BatchSampler, Crop, Example, collate, seeded_generator
from speechssl.data.utterances import Utterance
from speechssl.errors import ConfigError, ManifestError

MIXED = random.Random(0).choices(range(8_000, 320_000), k=300)
SMALL = BatchConfig(seconds=40.0, max_crop_s=10.0, min_s=1.0)
WHOLE = BatchConfig(seconds=40.0, max_crop_s=None, min_s=1.0)


@pytest.fixture
def sampler(make_utterances):
    def make(lengths=MIXED, config=SMALL, seed=0, **kwargs) -> BatchSampler:
        return BatchSampler(make_utterances(lengths), config, seed=seed, **kwargs)

    return make


@pytest.mark.parametrize("config", [SMALL, WHOLE], ids=["cropped", "whole"])
def test_the_order_depends_only_on_seed_and_epoch(sampler, config):
    walked = sampler(config=config)
    for epoch in range(5):
        walked.epoch(epoch)
    assert sampler(config=config).epoch(5) == walked.epoch(5)
    assert walked.epoch(2) == sampler(config=config).epoch(2)


@pytest.mark.parametrize("config", [SMALL, WHOLE], ids=["cropped", "whole"])
def test_epochs_and_seeds_differ(sampler, config):
    orders = [sampler(config=config, seed=seed).epoch(epoch) for seed in range(3) for epoch in range(3)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_global_generator_has_no_influence(sampler):
    torch.manual_seed(1)
    first = sampler().epoch(0)
    torch.manual_seed(2)
    assert sampler().epoch(0) == first


def test_keys_of_a_seeded_generator_do_not_add_up():
    draws = {torch.rand(1, generator=seeded_generator(*key)).item() for key in [(1, 2), (2, 1), (0, 3), (3, 0), ("3",)]}
    assert len(draws) == 5


@given(
    lengths=st.lists(st.integers(1_000, 200_000), min_size=1, max_size=60),
    seconds=st.floats(13, 50),
    max_crop_s=st.none() | st.floats(0.5, 13),
    max_utterances=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_no_batch_exceeds_its_seconds_with_padding_counted(
    make_utterances, lengths, seconds, max_crop_s, max_utterances, epoch
):
    config = BatchConfig(seconds=seconds, max_crop_s=max_crop_s, max_utterances=max_utterances, min_s=0)
    for batch in BatchSampler(make_utterances(lengths), config, seed=0).epoch(epoch):
        assert 1 <= len(batch) <= max_utterances
        assert len(batch) * max(crop.num_samples for crop in batch) <= seconds * 16_000


@pytest.mark.parametrize("config", [SMALL, WHOLE], ids=["cropped", "whole"])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_utterance_comes_once_an_epoch(sampler, config, epoch):
    indices = [crop.index for batch in sampler(config=config).epoch(epoch) for crop in batch]
    assert sorted(indices) == [i for i, n in enumerate(MIXED) if n >= 16_000]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pinned_batch_keeps_what_it_holds():
    batch = collate([Example(id="a", waveform=torch.ones(5), tokens=torch.tensor([7]))]).pin_memory()
    assert batch.waveforms.is_pinned()
    assert batch.targets.is_pinned()
    assert (batch.ids, batch.waveforms.tolist(), batch.targets.tolist()) == (("a",), [[1.0] * 5], [[7]])


def test_the_fingerprint_tells_utterances_and_lengths_apart(make_utterances):
    rows = make_utterances([20_000, 30_000, 40_000])
    prints = [
        BatchSampler(chosen, SMALL, seed=seed).fingerprint
        for chosen, seed in [
            (rows, 0),
            (rows, 1),
            (rows[:2], 0),
            (rows[::-1], 0),
            (make_utterances([20_000, 30_000, 40_001]), 0),
        ]
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_errors_travel_with_the_batch():
    error = ManifestError("x")
    batch = collate([Example(id="a", waveform=torch.ones(4)), error, "skipped"])
    assert (batch.ids, batch.error, batch.skipped) == (("a",), error, ("skipped",))


@pytest.mark.parametrize(("rows", "padding"), [([4, 4], 0.0), ([4, 2], 0.25), ([4, 1, 1], 0.5)])
def test_padding_is_the_share_that_is_no_audio(rows, padding):
    batch = collate([Example(id=str(i), waveform=torch.ones(n)) for i, n in enumerate(rows)])
    assert batch.padding == pytest.approx(padding)


@pytest.mark.parametrize("hop", [1, 320, 640])
def test_crops_lie_within_their_utterance_and_start_at_multiples_of_hop(sampler, hop):
    for epoch in range(3):
        for batch in sampler(hop=hop).epoch(epoch):
            for crop in batch:
                assert crop.num_samples == min(MIXED[crop.index], 160_000)
                assert crop.start % hop == 0
                assert 0 <= crop.start <= MIXED[crop.index] - crop.num_samples


def test_crops_reach_from_the_first_to_the_last_place(sampler):
    cropping = sampler([163_200], hop=320)
    starts = {cropping.epoch(epoch)[0][0].start for epoch in range(200)}
    assert starts == set(range(0, 3201, 320))


def test_nothing_is_cropped_without_a_limit(sampler):
    crops = [crop for batch in sampler(config=WHOLE).epoch(0) for crop in batch]
    assert all(crop == Crop(crop.index, 0, MIXED[crop.index]) for crop in crops)


def test_utterances_that_are_too_short_are_left_out_and_listed(sampler):
    short = sampler([16_000, 15_999, 40_000, 1])
    assert short.left_out == ["u0001", "u0003"]
    assert sorted(crop.index for batch in short.epoch(0) for crop in batch) == [0, 2]


def test_lengths_are_counted_at_16_khz(make_utterances):
    sampler = BatchSampler(make_utterances([44_100, 44_000], rate=44_100), SMALL, seed=0)
    assert sampler.left_out == ["u0001"]
    assert sampler.epoch(0) == [[Crop(0, 0, 16_000)]]


def test_a_manifest_of_short_utterances_alone_is_refused(sampler):
    with pytest.raises(ManifestError, match=r"no utterance is at least batch\.min_s=1\.0 s long; lower it"):
        sampler([100, 200])


def test_an_utterance_that_fills_more_than_a_batch_is_refused_where_it_may_not_be_cropped(sampler):
    with pytest.raises(ManifestError, match=r"u0001: lasts 50\.0 s, more than a batch \(batch\.seconds=40\.0\); raise"):
        sampler([16_000, 800_000], WHOLE)


@pytest.mark.parametrize("max_crop_s", [0, -1.0, 41.0])
def test_a_crop_longer_than_a_batch_is_refused(max_crop_s):
    with pytest.raises(ConfigError, match=r"batch\.max_crop_s must lie between 0 and batch\.seconds \(40"):
        BatchConfig(seconds=40.0, max_crop_s=max_crop_s)


@pytest.mark.parametrize("config", [SMALL, WHOLE], ids=["cropped", "whole"])
def test_little_is_lost_to_padding_though_lengths_are_mixed(sampler, config):
    batches = sampler(config=config).epoch(0)
    padded = sum(len(batch) * max(crop.num_samples for crop in batch) for batch in batches)
    assert sum(crop.num_samples for batch in batches for crop in batch) > 0.9 * padded


@pytest.mark.parametrize("config", [SMALL, WHOLE], ids=["cropped", "whole"])
def test_the_company_in_a_batch_changes_from_epoch_to_epoch(sampler, config):
    companies = [{frozenset(crop.index for crop in batch) for batch in sampler(config=config).epoch(e)} for e in (0, 1)]
    assert len(companies[0] & companies[1]) < len(companies[0]) / 2


def test_examples_are_padded_to_the_longest():
    batch = collate(
        [
            Example(id="a", waveform=torch.ones(5), labels=torch.tensor([[1, 2], [3, 4]]), tokens=torch.tensor([7])),
            Example(
                id="b", waveform=torch.full((3,), 2.0), labels=torch.tensor([[5], [6]]), tokens=torch.tensor([8, 9])
            ),
        ]
    )
    assert batch.ids == ("a", "b")
    assert batch.waveforms.tolist() == [[1, 1, 1, 1, 1], [2, 2, 2, 0, 0]]
    assert batch.num_samples.tolist() == [5, 3]
    assert batch.labels.tolist() == [[[1, 2], [5, 0]], [[3, 4], [6, 0]]]
    assert batch.targets.tolist() == [[7, 0], [8, 9]]
    assert batch.target_lengths.tolist() == [1, 2]
    assert batch.duration_s == pytest.approx(8 / 16_000)


def test_reasons_are_carried_beside_the_examples_that_are_left():
    batch = collate(["a.wav: silent", Example(id="b", waveform=torch.ones(3)), "c.wav: empty"])
    assert (batch.ids, batch.skipped) == (("b",), ("a.wav: silent", "c.wav: empty"))
    assert batch.waveforms.shape == (1, 3)
    assert batch.labels is batch.targets is batch.target_lengths is None


def test_a_batch_may_hold_reasons_alone():
    batch = collate(["a.wav: silent"])
    assert (batch.ids, batch.skipped, batch.duration_s) == ((), ("a.wav: silent",), 0.0)


def test_a_batch_moves_to_a_device_with_all_it_holds():
    batch = collate([Example(id="a", waveform=torch.ones(5), tokens=torch.tensor([7]))])
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved.ids == ("a",)
    assert {tensor.device.type for tensor in (moved.waveforms, moved.targets)} == {"meta"}
    assert {tensor.device.type for tensor in (moved.num_samples, moved.target_lengths)} == {"cpu"}  # of the host


def test_utterances_are_not_read_to_plan_batches(sampler):
    row = Utterance(id="a", path="/nowhere/a.wav", num_samples=16_000, sample_rate=16_000, channels=1)
    assert BatchSampler([row], SMALL, seed=0).epoch(0) == [[Crop(0, 0, 16_000)]]
