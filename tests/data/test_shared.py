"""Batches through shared memory: they arrive whole, and stay as they are while later ones are read."""

import sys
from itertools import islice

import pytest
import torch

from speechssl.audio.reading import AudioConfig
from speechssl.data.batching import Batch, BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import AHEAD, SharedPlaces, load_batches, pack, start_method
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError


def batch_of(*shape: int) -> Batch:
    waveforms = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return Batch(
        ids=tuple("abcdef"[: shape[0]]),
        waveforms=waveforms,
        num_samples=torch.full((shape[0],), shape[1]),
        labels=torch.arange(2 * shape[0]).view(1, shape[0], 2),
        skipped=("x.wav: silent",),
        error=AudioError("y.wav: gone"),
    )


@pytest.mark.parametrize("where", [None, (1, 2)])
@pytest.mark.parametrize("shape", [(2, 10), (2, 11), (0, 0)])  # fits, fits not, holds nothing
def test_a_batch_arrives_as_it_was_sent(where, shape):
    places = SharedPlaces(2, AHEAD, 20)
    batch = batch_of(*shape)
    packed = pack(batch, where, None if where is None else places.at(where))
    assert (packed.where is None) == (where is None or shape != (2, 10))
    found = packed.unpack(places, is_pinned=False)
    for name, value in vars(batch).items():
        other = getattr(found, name)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other is value, name


def test_an_unpacked_batch_does_not_change_with_the_memory_it_came_through():
    places = SharedPlaces(1, AHEAD, 20)
    batch = batch_of(2, 10)
    found = pack(batch, (0, 0), places.at((0, 0))).unpack(places, is_pinned=False)
    places.at((0, 0)).zero_()
    assert torch.equal(found.waveforms, batch.waveforms)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Python's own default is taken")
@pytest.mark.parametrize("default", ["fork", "forkserver", "spawn"])
def test_readers_are_forked_on_linux_unless_the_program_asked_for_spawn(monkeypatch, default):
    monkeypatch.setattr("speechssl.data.loading.multiprocessing.get_start_method", lambda: default)
    assert start_method() == ("spawn" if default == "spawn" else "fork")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_many_batches_kept_at_once_are_all_right(tmp_path, make_corpus, monkeypatch, method):
    corpus = read_manifest(make_corpus(tmp_path / "corpus"))
    dataset = SpeechDataset(corpus, AudioConfig(), hop=320, window=325)
    sampler = BatchSampler(corpus.utterances, BatchConfig(seconds=1.0, max_crop_s=0.7, min_s=0.1), seed=0)
    monkeypatch.setattr("speechssl.data.loading.multiprocessing.get_start_method", lambda: method)
    alone = islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0), 6 * AHEAD)
    sent = list(islice(load_batches(dataset, sampler, epoch=0, position=0, workers=2), 6 * AHEAD))
    for (_, _, left), (_, _, right) in zip(alone, sent, strict=True):
        assert left.ids == right.ids
        assert torch.equal(left.waveforms, right.waveforms)
