"""Crops read from files, alone and in batches."""

import os
import signal
from itertools import islice

import pytest
import soundfile
import torch

from speechssl.data.audio import AudioConfig, read_audio
from speechssl.data.batching import Batch, BatchConfig, BatchSampler, Crop, Example
from speechssl.data.dataset import SpeechDataset, load_batches, load_in_order
from speechssl.data.manifest import read_manifest
from speechssl.errors import AudioError, TrainingError

HOP, WINDOW = 320, 325
SMALL = BatchConfig(seconds=2.0, max_crop_s=0.7, min_s=0.1)


@pytest.fixture
def corpus(tmp_path, make_corpus):
    return read_manifest(make_corpus(tmp_path / "corpus"))


@pytest.fixture
def dataset(corpus, random_labels):
    return SpeechDataset(
        corpus,
        AudioConfig(),
        hop=HOP,
        window=WINDOW,
        labels=[random_labels(corpus), random_labels(corpus, hop=320, window=325, clusters=9)],
        tokens={row.id: [2, 3, i + 2] for i, row in enumerate(corpus.utterances)},
    )


@pytest.fixture
def sampler(corpus) -> BatchSampler:
    return BatchSampler(corpus.utterances, SMALL, seed=0, hop=HOP)


def assert_same(left: tuple[int, int, Batch], right: tuple[int, int, Batch]) -> None:
    assert left[:2] == right[:2]
    for name, value in vars(left[2]).items():
        other = getattr(right[2], name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_a_crop_becomes_its_samples_labels_and_tokens(dataset, corpus):
    example = dataset[Crop(3, 640, 4000)]
    row = corpus.utterances[3]
    whole = read_audio(corpus.audio_path(row), AudioConfig())
    assert example.id == row.id
    assert torch.equal(example.waveform, whole[640:4640])
    num_frames = (4000 - WINDOW) // HOP + 1
    assert example.labels.shape == (2, num_frames)
    assert example.labels[1].tolist() == dataset.labels[1].units[row.id][2 : 2 + num_frames].tolist()
    assert example.tokens.tolist() == [2, 3, 5]


def test_labels_of_a_crop_are_the_crop_of_the_labels(dataset, corpus):
    row = corpus.utterances[7]
    whole = dataset[Crop(7, 0, row.num_samples)]
    part = dataset[Crop(7, 5 * HOP, 6000)]
    assert torch.equal(part.labels, whole.labels[:, 5 : 5 + part.labels.shape[1]])


def test_audio_alone_needs_neither_labels_nor_tokens(corpus):
    example = SpeechDataset(corpus, AudioConfig(), hop=HOP, window=WINDOW)[Crop(0, 0, 8000)]
    assert example.labels is example.tokens is None


def test_bad_audio_stops_by_default(dataset, corpus):
    corpus.audio_path(corpus.utterances[2]).unlink()
    with pytest.raises(AudioError, match=r"u0002\.wav: no such file"):
        dataset[Crop(2, 0, 10_000)]


def test_bad_audio_becomes_its_reason_when_skipped(corpus):
    corpus.audio_path(corpus.utterances[2]).write_bytes(b"")
    dataset = SpeechDataset(corpus, AudioConfig(), hop=HOP, window=WINDOW, skip_bad_audio=True)
    assert "u0002.wav: the file is empty" in dataset[Crop(2, 0, 10_000)]
    assert isinstance(dataset[Crop(1, 0, 9_000)], Example)


def test_a_file_that_changed_since_the_manifest_is_refused(dataset, corpus):
    path = corpus.audio_path(corpus.utterances[0])
    soundfile.write(str(path), soundfile.read(str(path))[0][:7000], 16_000)
    with pytest.raises(AudioError, match=r"u0000\.wav: holds 7000 samples, the manifest says 8000"):
        dataset[Crop(0, 0, 5000)]


@pytest.mark.parametrize(("num_samples", "is_read"), [(WINDOW - 1, False), (WINDOW, True)])
def test_audio_shorter_than_a_frame_is_refused(tmp_path, make_corpus, num_samples, is_read):
    corpus = read_manifest(make_corpus(tmp_path / "short", [num_samples]))
    dataset = SpeechDataset(corpus, AudioConfig(), hop=HOP, window=WINDOW)
    if is_read:
        assert len(dataset[Crop(0, 0, num_samples)].waveform) == num_samples
    else:
        with pytest.raises(AudioError, match=r"324 samples at 16 kHz, expected at least 325 \(one frame"):
            dataset[Crop(0, 0, num_samples)]


def test_batches_follow_the_sampler_epoch_after_epoch(dataset, sampler, corpus):
    planned = [(e, i + 1, batch) for e in (0, 1) for i, batch in enumerate(sampler.epoch(e))]
    loaded = list(islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0), len(planned)))
    for (epoch, position, crops), (found_epoch, found_position, batch) in zip(planned, loaded, strict=True):
        assert (found_epoch, found_position) == (epoch, position)
        assert batch.ids == tuple(corpus.utterances[crop.index].id for crop in crops)
        assert batch.num_samples.tolist() == [crop.num_samples for crop in crops]


@pytest.mark.parametrize("world_size", [2, 3, 50])
def test_ranks_take_the_batches_of_all_epochs_in_turn(dataset, sampler, world_size):
    number = 2 * len(sampler.epoch(0)) + 1
    alone = [
        b for _, _, b in islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0), number * world_size)
    ]
    for rank in range(world_size):
        mine = load_batches(dataset, sampler, epoch=0, position=0, workers=0, rank=rank, world_size=world_size)
        for index, (_, _, batch) in enumerate(islice(mine, number if world_size < 50 else 2)):
            assert_same((0, 0, batch), (0, 0, alone[index * world_size + rank]))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_ranks_goes_on_where_any_other_stopped(dataset, sampler, world_size):
    length = len(sampler.epoch(0))
    alone = [b for _, _, b in islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0), 4 * length)]
    for steps in range(1, length + 2):
        ends = []
        for rank in range(world_size):
            mine = load_batches(dataset, sampler, epoch=0, position=0, workers=0, rank=rank, world_size=world_size)
            epoch, position, _ = next(islice(mine, steps - 1, None))
            ends.append(epoch * length + position)
        assert set(ends) == {steps * world_size}  # all ranks agree
        _, _, batch = next(load_batches(dataset, sampler, epoch=epoch, position=position, workers=0))
        assert_same((0, 0, batch), (0, 0, alone[steps * world_size]))


@pytest.mark.parametrize("workers", [0, 1])
def test_noise_without_weight_stands_in_for_a_batch_whose_audio_is_all_bad(dataset, sampler, corpus, workers):
    for row in corpus.utterances:
        corpus.audio_path(row).write_bytes(b"")
    dataset.skip_bad_audio = True
    _, _, batch = next(load_batches(dataset, sampler, epoch=0, position=0, workers=workers))
    assert (batch.ids, batch.is_stand_in, batch.duration_s) == ((), True, 0.0)
    assert len(batch.skipped) == len(sampler.epoch(0)[0])
    assert batch.labels.shape == (2, 1, (16_000 - WINDOW) // HOP + 1)
    assert batch.targets.shape == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_go_on_reading_when_all_of_the_group_is_asked_to_stop(dataset, sampler, number):
    read = dataset.__class__.__getitem__

    class Asked(SpeechDataset):
        def __getitem__(self, crop: Crop) -> Example:
            os.kill(os.getpid(), number)
            return read(self, crop)

    dataset.__class__ = Asked
    assert next(load_batches(dataset, sampler, epoch=0, position=0, workers=1))[2].ids


def test_a_worker_that_dies_is_named_with_a_cure(dataset, sampler):
    class Deadly(SpeechDataset):
        def __getitem__(self, crop: Crop) -> Example:
            os.kill(os.getpid(), signal.SIGKILL)

    dataset.__class__ = Deadly
    with pytest.raises(
        TrainingError, match=r"a process that reads audio died \(DataLoader worker .*lower train\.workers"
    ):
        next(load_batches(dataset, sampler, epoch=0, position=0, workers=1))


def test_batches_from_the_middle_equal_the_tail_of_the_whole_sequence(dataset, sampler):
    length = len(sampler.epoch(0))
    full = list(islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0), 2 * length + 1))
    tail = list(islice(load_batches(dataset, sampler, epoch=1, position=1, workers=0), length))
    for left, right in zip(full[length + 1 :], tail, strict=True):
        assert_same(left, right)


def test_batches_are_the_same_for_any_number_of_workers(dataset, sampler):
    number = len(sampler.epoch(0)) + 1
    alone = list(islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0), number))
    helped = list(islice(load_batches(dataset, sampler, epoch=0, position=0, workers=2), number))
    for left, right in zip(alone, helped, strict=True):
        assert_same(left, right)


def test_loading_draws_nothing_from_the_global_generator(dataset, sampler):
    before = torch.get_rng_state()
    list(islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0), 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bad_file_in_a_worker_is_reported_with_its_name(dataset, sampler, corpus):
    for row in corpus.utterances:
        corpus.audio_path(row).write_bytes(b"")
    with pytest.raises(AudioError, match=r"u000\d\.wav: the file is empty") as raised:
        next(load_batches(dataset, sampler, epoch=0, position=0, workers=1))
    assert "\n" not in str(raised.value)  # one line, not a worker's traceback


@pytest.mark.parametrize("seconds", [0.1, 2.0, 1000.0])
def test_every_utterance_comes_once_and_whole_in_order_of_length(dataset, corpus, seconds):
    batches = list(load_in_order(dataset, seconds=seconds))
    lengths = {row.id: row.num_samples for row in corpus.utterances}
    found = {key: n for batch in batches for key, n in zip(batch.ids, batch.num_samples.tolist(), strict=True)}
    assert found == lengths
    assert [n for batch in batches for n in batch.num_samples.tolist()] == sorted(lengths.values(), reverse=True)
    for batch in batches:
        assert len(batch.ids) == 1 or batch.waveforms.numel() <= seconds * 16_000
