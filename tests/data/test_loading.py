"""Batches read ahead: the same tests for both loaders, and both against each other."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import soundfile
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data import loading
from speechssl.data.batching import Batch, BatchConfig, BatchSampler, Crop, Example
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import load_batches
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ConfigError, TrainingError
from tests.optional import NO_FAIRSEQ2

HOP, WINDOW = 320, 325
SMALL = BatchConfig(seconds=2.0, max_crop_s=0.7, min_s=0.1)


@pytest.fixture(params=["torch", "fairseq2"])
def load(request):
    """One of the loaders."""
    if request.param == "fairseq2":
        pytest.importorskip("fairseq2", reason=NO_FAIRSEQ2)
    return partial(load_batches, loader=request.param)


@pytest.fixture
def sampler(corpus) -> BatchSampler:
    return BatchSampler(corpus.utterances, SMALL, seed=0, hop=HOP)


def assert_same(left: tuple[int, int, Batch], right: tuple[int, int, Batch]) -> None:
    assert left[:2] == right[:2]
    for name, value in vars(left[2]).items():
        other = getattr(right[2], name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_batches_follow_the_sampler_epoch_after_epoch(load, dataset, sampler, corpus):
    planned = [(e, i + 1, batch) for e in (0, 1) for i, batch in enumerate(sampler.epoch(e))]
    loaded = list(islice(load(dataset, sampler, epoch=0, position=0, workers=0), len(planned)))
    for (epoch, position, crops), (found_epoch, found_position, batch) in zip(planned, loaded, strict=True):
        assert (found_epoch, found_position) == (epoch, position)
        assert batch.ids == tuple(corpus.utterances[crop.index].id for crop in crops)
        assert batch.num_samples.tolist() == [crop.num_samples for crop in crops]


@pytest.mark.parametrize("world_size", [2, 3, 50])
def test_ranks_take_the_batches_of_all_epochs_in_turn(load, dataset, sampler, world_size):
    number = 2 * len(sampler.epoch(0)) + 1
    alone = [b for _, _, b in islice(load(dataset, sampler, epoch=0, position=0, workers=0), number * world_size)]
    for rank in range(world_size):
        mine = load(dataset, sampler, epoch=0, position=0, workers=0, rank=rank, world_size=world_size)
        for index, (_, _, batch) in enumerate(islice(mine, number if world_size < 50 else 2)):
            assert_same((0, 0, batch), (0, 0, alone[index * world_size + rank]))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_ranks_goes_on_where_any_other_stopped(load, dataset, sampler, world_size):
    length = len(sampler.epoch(0))
    alone = [b for _, _, b in islice(load(dataset, sampler, epoch=0, position=0, workers=0), 4 * length)]
    for steps in range(1, length + 2):
        ends = []
        for rank in range(world_size):
            mine = load(dataset, sampler, epoch=0, position=0, workers=0, rank=rank, world_size=world_size)
            epoch, position, _ = next(islice(mine, steps - 1, None))
            ends.append(epoch * length + position)
        assert set(ends) == {steps * world_size}  # all ranks agree
        _, _, batch = next(load(dataset, sampler, epoch=epoch, position=position, workers=0))
        assert_same((0, 0, batch), (0, 0, alone[steps * world_size]))


@pytest.mark.parametrize("workers", [0, 1])
def test_noise_without_weight_stands_in_for_a_batch_whose_audio_is_all_bad(load, dataset, sampler, corpus, workers):
    for row in corpus.utterances:
        corpus.audio_path(row).write_bytes(b"")
    dataset.skip_bad = True
    _, _, batch = next(load(dataset, sampler, epoch=0, position=0, workers=workers))
    assert (batch.ids, batch.is_stand_in, batch.duration_s) == ((), True, 0.0)
    assert len(batch.skipped) == len(sampler.epoch(0)[0])
    assert batch.labels.shape == (2, 1, (16_000 - WINDOW) // HOP + 1)
    assert batch.targets.shape == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_processes_go_on_reading_when_all_of_the_group_is_asked_to_stop(dataset, sampler, number):
    class Asked(SpeechDataset):
        def example(self, crop: Crop, **reader) -> Example:
            os.kill(os.getpid(), number)
            return super().example(crop, **reader)

    dataset.__class__ = Asked
    assert next(load_batches(dataset, sampler, epoch=0, position=0, workers=1))[2].ids


def test_a_process_that_dies_is_named_with_a_cure(dataset, sampler):
    class Deadly(SpeechDataset):
        def example(self, crop: Crop, **reader) -> Example:
            os.kill(os.getpid(), signal.SIGKILL)

    dataset.__class__ = Deadly
    with pytest.raises(
        TrainingError, match=r"a process that reads audio died \(DataLoader worker .*lower train\.workers"
    ):
        next(load_batches(dataset, sampler, epoch=0, position=0, workers=1))


def test_batches_from_the_middle_equal_the_tail_of_the_whole_sequence(load, dataset, sampler):
    length = len(sampler.epoch(0))
    full = list(islice(load(dataset, sampler, epoch=0, position=0, workers=0), 2 * length + 1))
    tail = list(islice(load(dataset, sampler, epoch=1, position=1, workers=0), length))
    for left, right in zip(full[length + 1 :], tail, strict=True):
        assert_same(left, right)


def test_batches_are_the_same_for_any_number_of_workers(load, dataset, sampler):
    number = len(sampler.epoch(0)) + 1
    alone = list(islice(load(dataset, sampler, epoch=0, position=0, workers=0), number))
    helped = list(islice(load(dataset, sampler, epoch=0, position=0, workers=2), number))
    for left, right in zip(alone, helped, strict=True):
        assert_same(left, right)


def test_loading_draws_nothing_from_the_global_generator(load, dataset, sampler):
    before = torch.get_rng_state()
    list(islice(load(dataset, sampler, epoch=0, position=0, workers=0), 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bad_file_in_a_worker_is_reported_with_its_name(load, dataset, sampler, corpus):
    for row in corpus.utterances:
        corpus.audio_path(row).write_bytes(b"")
    with pytest.raises(AudioError, match=r"u000\d\.wav: the file is empty") as raised:
        next(load(dataset, sampler, epoch=0, position=0, workers=1))
    assert "\n" not in str(raised.value)  # one line, not a worker's traceback


@pytest.fixture
def mixed(tmp_path, write_wav):
    """Utterances of every kind that the readers treat alike or apart, and their manifest."""
    kinds = {
        "plain.wav": {},
        "plain.flac": {},
        "deep.flac": {"subtype": "PCM_24"},
        "deep.wav": {"subtype": "PCM_32"},
        "float.wav": {"subtype": "FLOAT"},
        "lossy.ogg": {},
        "stereo.wav": {"channels": 2},
        "fast.wav": {"rate": 44_100},
        "slow.flac": {"rate": 22_050},
        "with:12:34 colons.wav": {},
    }
    rows = []
    for number, (name, kind) in enumerate(kinds.items()):
        path = write_wav(tmp_path / name, 30_000 + 1000 * number, seed=10 * number, **kind)
        rows.append(_row(path.name, path.name, soundfile.info(str(path))))
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name in ("plain.wav", "plain.flac", "lossy.ogg"):
            archive.add(tmp_path / name, arcname=name)
    with tarfile.open(tmp_path / "shard.tar") as archive:
        for member in archive.getmembers():
            place = f"shard.tar:{member.offset_data}:{member.size}"
            rows.append(_row(f"tar-{member.name}", place, soundfile.info(str(tmp_path / member.name))))
    whole = rows[0]
    parts = [(0, 9_000), (5_000, 22_000)]  # less and more than half of the file
    rows += [
        dataclasses.replace(whole, id=f"part-{start}", start=start, num_samples=n, file_samples=whole.num_samples)
        for start, n in parts
    ]
    return Manifest(root=tmp_path, utterances=tuple(rows))


def _row(key, path, info) -> Utterance:
    return Utterance(id=key, path=path, num_samples=info.frames, sample_rate=info.samplerate, channels=info.channels)


@pytest.mark.parametrize("normalize", [False, True])
def test_both_loaders_read_all_kinds_of_audio_as_read_audio_does(mixed, normalize):
    pytest.importorskip("fairseq2", reason=NO_FAIRSEQ2)
    audio = AudioConfig(normalize=normalize)
    dataset = SpeechDataset(mixed, audio, hop=HOP, window=WINDOW)
    sampler = BatchSampler(mixed.utterances, BatchConfig(seconds=6.0, max_crop_s=1.6, min_s=0.1), seed=3, hop=HOP)
    number = 2 * len(sampler.epoch(0))
    found = {
        (loader, workers): list(
            islice(load_batches(dataset, sampler, epoch=0, position=0, workers=workers, loader=loader), number)
        )
        for loader, workers in [("torch", 0), ("torch", 2), ("fairseq2", 0), ("fairseq2", 3), ("auto", 1)]
    }
    expected = found.pop(("torch", 0))
    crops = [crop for epoch in (0, 1) for batch in sampler.epoch(epoch) for crop in batch]
    flat = [(w[:n], key) for _, _, b in expected for w, n, key in zip(b.waveforms, b.num_samples, b.ids, strict=True)]
    for crop, (waveform, key) in zip(crops, flat, strict=False):
        row = mixed.utterances[crop.index]
        assert key == row.id
        whole = crop.start == 0 and crop.num_samples >= row.num_samples_16k
        careful = read_audio(
            mixed.place(row),
            audio,
            segment=row.segment,
            start=crop.start,
            num_samples=None if whole else crop.num_samples,
        )
        assert torch.equal(waveform, careful), row.id
    for loaded in found.values():
        for left, right in zip(expected, loaded, strict=True):
            assert_same(left, right)


def test_the_padding_is_silent_and_the_longest_row_has_none(load, dataset, sampler):
    for workers in (0, 1):
        for _, _, batch in islice(load(dataset, sampler, epoch=0, position=0, workers=workers), 6):
            assert batch.waveforms.shape[1] == int(batch.num_samples.max())
            for row, length in zip(batch.waveforms, batch.num_samples, strict=True):
                assert not row[length:].any()


def test_a_bad_file_among_good_ones_is_left_out_of_its_batch(load, dataset, sampler, corpus):
    bad = corpus.utterances[sampler.epoch(0)[0][0].index]
    corpus.audio_path(bad).write_bytes(b"RIFF")
    dataset.skip_bad = True
    for workers in (0, 1):
        _, _, batch = next(load(dataset, sampler, epoch=0, position=0, workers=workers))
        assert bad.id not in batch.ids
        assert len(batch.ids) == len(sampler.epoch(0)[0]) - 1 == len(batch.waveforms)
        assert f"{bad.id}.wav: cannot be decoded" in batch.skipped[0]


@pytest.mark.parametrize("damage", ["truncated", "silent", "changed", "other rate", "gone"])
def test_both_loaders_say_the_same_of_a_bad_file(load, dataset, sampler, corpus, write_wav, damage):
    for row in corpus.utterances:
        path = corpus.audio_path(row)
        match damage:
            case "truncated":
                path.write_bytes(path.read_bytes()[:-2000])
            case "silent":
                soundfile.write(str(path), torch.zeros(row.num_samples).numpy(), 16_000)
            case "changed":
                write_wav(path, row.num_samples + 1)
            case "other rate":
                write_wav(path, row.num_samples, rate=8_000)
            case "gone":
                path.unlink()
    sampler = BatchSampler(corpus.utterances, BatchConfig(max_crop_s=None, min_s=0.1), seed=0)
    first = sampler.epoch(0)[0][0]
    with pytest.raises(AudioError) as careful:
        read_audio(
            corpus.place(corpus.utterances[first.index]),
            AudioConfig(),
            expected_samples=corpus.utterances[first.index].num_samples,
        )
    with pytest.raises(AudioError) as loaded:
        next(load(dataset, sampler, epoch=0, position=0, workers=1))
    assert str(loaded.value) == str(careful.value)


def test_an_error_ends_the_workers_also_while_its_traceback_is_kept(load, dataset, sampler, corpus):
    before = threading.active_count()
    for row in corpus.utterances:
        corpus.audio_path(row).unlink()
    with pytest.raises(AudioError) as kept:
        next(load(dataset, sampler, epoch=0, position=0, workers=2))
    patience = time.monotonic() + 10  # a thread that feeds a queue may take a moment to end
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert (multiprocessing.active_children(), threading.active_count()) == ([], before), kept


def test_one_set_of_workers_serves_all_epochs(dataset, sampler):
    class Telling(SpeechDataset):
        def batch(self, crops, **reader) -> Batch:
            return dataclasses.replace(super().batch(crops, **reader), skipped=(str(os.getpid()),))

    dataset.__class__ = Telling
    number = 4 * len(sampler.epoch(0))
    batches = islice(load_batches(dataset, sampler, epoch=0, position=0, workers=1), number)
    assert len({batch.skipped for _, _, batch in batches}) == 1


def test_what_the_sampler_raises_is_not_lost(load, dataset, sampler):
    def broken(epoch: int) -> list[list[Crop]]:
        raise AudioError("no plan")

    sampler.epoch = broken
    for workers in (0, 1):
        with pytest.raises(AudioError, match="no plan"):
            next(load(dataset, sampler, epoch=0, position=0, workers=workers))


def test_without_fairseq2_its_loader_is_refused_and_auto_takes_torchs(dataset, sampler, monkeypatch):
    for name in ("fairseq2.data.audio", "fairseq2.data.data_pipeline"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'speechssl\[fairseq2\]'` .*or set data\.loader=torch"):
        next(load_batches(dataset, sampler, epoch=0, position=0, workers=0, loader="fairseq2"))
    monkeypatch.setattr(loading, "has_fairseq2", lambda: False)
    assert next(load_batches(dataset, sampler, epoch=0, position=0, workers=0, loader="auto"))[2].ids


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["torch", "fairseq2"])
def test_a_process_that_ends_while_others_read_for_it_ends_quietly(corpus, loader):
    pytest.importorskip("fairseq2", reason=NO_FAIRSEQ2)
    code = f"""
from pathlib import Path
from speechssl.audio.reading import AudioConfig
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import load_batches
from speechssl.data.manifest import read_manifest
manifest = read_manifest(Path({str(corpus.root / "manifest.tsv")!r}))
dataset = SpeechDataset(manifest, AudioConfig(), hop=320, window=325)
sampler = BatchSampler(manifest.utterances, BatchConfig(min_s=0.1), seed=0)
batches = load_batches(dataset, sampler, epoch=0, position=0, workers=2, loader={loader!r})
print(len(next(batches)[2].ids))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{len(corpus.utterances)}\n", "")


@pytest.mark.parametrize(("suffix", "is_native"), [(".wav", True), (".flac", False)])
def test_auto_takes_the_loader_that_is_faster_for_what_there_is(suffix, is_native, make_utterances, monkeypatch):
    rows = tuple(
        dataclasses.replace(row, path=f"{row.id}{'.wav' if i % 10 == 0 else suffix}")
        for i, row in enumerate(make_utterances([16_000] * 1010))
    )
    monkeypatch.setattr(loading, "has_fairseq2", lambda: True)
    asked = []
    monkeypatch.setattr(loading, "native_reader", lambda: asked.append(True) or loading.read_pcm)
    dataset = SpeechDataset(Manifest(root=Path("/none"), utterances=rows), AudioConfig(), hop=HOP, window=WINDOW)
    sampler = BatchSampler(rows, BatchConfig(min_s=0.1), seed=0)
    with pytest.raises(AudioError):
        next(load_batches(dataset, sampler, epoch=0, position=0, workers=0, loader="auto"))
    assert bool(asked) == is_native
