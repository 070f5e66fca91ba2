"""Speed, rooms, noise and gain: what they do, and what alone they depend on."""

from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio.reading import AudioConfig, read_audio
from speechssl.data.augment import AugmentConfig, Augmenter, AugmenterOfTwo, Speeds, SpeedsOfTwo, change_speed
from speechssl.data.batching import BatchConfig, BatchSampler
from speechssl.data.dataset import SpeechDataset
from speechssl.data.loading import load_batches
from speechssl.data.manifest import read_manifest, write_manifest
from speechssl.data.utterances import Utterance
from speechssl.errors import ConfigError, ManifestError
from tests.optional import NO_FAIRSEQ2

HOP, WINDOW = 320, 325


@pytest.fixture
def write(tmp_path):
    """Give a function that writes 16 kHz waveforms and their manifest."""

    def run(name: str, *waveforms: np.ndarray):
        rows = []
        for number, waveform in enumerate(waveforms):
            path = tmp_path / f"{name}{number}.wav"
            soundfile.write(str(path), waveform, 16_000, subtype="FLOAT")
            rows.append(
                Utterance(id=path.stem, path=path.name, num_samples=len(waveform), sample_rate=16_000, channels=1)
            )
        write_manifest(tmp_path / f"{name}.tsv", rows)
        return tmp_path / f"{name}.tsv"

    return run


def tone(hertz: float, num_samples: int = 16_000) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hertz * np.arange(num_samples) / 16_000)).astype(np.float32)


def level_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


@pytest.mark.parametrize(("speed", "hertz"), [(Fraction(11, 10), 440), (Fraction(9, 10), 360), (Fraction(2), 800)])
def test_speech_heard_faster_is_shorter_and_higher(write, speed, hertz):
    manifest = read_manifest(write("tone", tone(400)))
    length = -(-16_000 * speed.denominator // speed.numerator)
    heard = change_speed(manifest, manifest.utterances[0], AudioConfig(), speed, start=0, num_samples=length)
    assert len(heard) == length
    assert heard[1000:-1000].numpy() == pytest.approx(tone(hertz, length)[1000:-1000], abs=2e-3)


@pytest.mark.parametrize("speed", [Fraction(11, 10), Fraction(9, 10), Fraction(97, 100)])
def test_a_part_heard_at_another_speed_equals_that_part_of_the_whole(corpus, speed):
    row = corpus.utterances[-1]
    length = -(-row.num_samples * speed.denominator // speed.numerator)
    whole = change_speed(corpus, row, AudioConfig(), speed, start=0, num_samples=length)
    assert len(whole) == length
    for start, count in [(0, 3000), (1, 5000), (4321, 3000), (length - 900, 900)]:
        part = change_speed(corpus, row, AudioConfig(), speed, start=start, num_samples=count)
        assert torch.equal(part, whole[start : start + count])


def test_speeds_are_a_function_of_seed_epoch_and_utterance():
    drawn = [Speeds((0.9, 1.0, 1.1), 3000, seed=1) for _ in range(2)]
    there = [drawn[0].of(epoch, index) for epoch in (0, 1) for index in range(3000)]
    back = [drawn[1].of(epoch, index) for epoch in (1, 0) for index in reversed(range(3000))]
    assert there == back[::-1]
    assert {there.count(speed) for speed in drawn[0].ratios} <= set(range(1850, 2150))
    assert there[:3000] != there[3000:]
    assert [Speeds((0.9, 1.0, 1.1), 3000, seed=2).of(0, i) for i in range(3000)] != there[:3000]


@pytest.mark.parametrize("max_crop_s", [None, 0.7])
def test_planned_lengths_are_those_that_are_read(corpus, max_crop_s):
    speeds = Speeds((0.8, 1.0, 1.25), len(corpus.utterances), seed=3)
    config = BatchConfig(seconds=3.0, max_crop_s=max_crop_s, min_s=0.1)
    sampler = BatchSampler(corpus.utterances, config, seed=0, speeds=speeds)
    dataset = SpeechDataset(corpus, AudioConfig(), hop=HOP, window=WINDOW, speeds=speeds)
    lengths = set()
    for epoch in (0, 1):
        for crops in sampler.epoch(epoch):
            batch = dataset.batch(crops, epoch=epoch)
            assert batch.num_samples.tolist() == [crop.num_samples for crop in crops]
            assert batch.waveforms.numel() <= 3.0 * 16_000
            lengths |= {(crop.index, crop.num_samples) for crop in crops}
    assert len(lengths) > len(corpus.utterances)  # some were heard at two speeds


def test_an_utterance_that_would_fill_more_than_a_batch_at_the_lowest_speed_is_refused(corpus):
    config = BatchConfig(seconds=1.0, max_crop_s=None, min_s=0.1)
    assert BatchSampler(corpus.utterances, config, seed=0).epoch(0)
    speeds = Speeds((0.9, 1.0), len(corpus.utterances), seed=3)
    with pytest.raises(ManifestError, match=r"u0007: lasts 1\.0 s, more than a batch"):
        BatchSampler(corpus.utterances, config, seed=0, speeds=speeds)


@pytest.mark.parametrize("snr_db", [0.0, 15.0])
def test_noise_is_added_at_the_level_asked_for(write, snr_db):
    noise = np.random.default_rng(0).normal(0, 0.3, 5000).astype(np.float32)  # shorter than the speech
    config = AugmentConfig(noise=(write("noise", noise),), noise_prob=1.0, snr_db=(snr_db, snr_db))
    speech = tone(300)
    heard = Augmenter(config, AudioConfig(), seed=0)(torch.from_numpy(speech.copy()), epoch=0, index=0).numpy()
    added = heard - speech
    assert level_db(speech) - level_db(added) == pytest.approx(snr_db, abs=0.01)
    assert added[:5000] / noise == pytest.approx(added[0] / noise[0], rel=0.02)
    assert added[5000:10_000] == pytest.approx(added[:5000], abs=1e-6)


def test_a_room_adds_its_echo_where_it_belongs_and_keeps_the_level(write):
    response = np.zeros(3000, np.float32)
    response[50], response[850] = 1.0, 0.5  # 50 samples of travel, an echo 50 ms later
    config = AugmentConfig(rooms=(write("room", response),), room_prob=1.0)
    speech = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    heard = Augmenter(config, AudioConfig(), seed=0)(torch.from_numpy(speech.copy()), epoch=0, index=0).numpy()
    expected = speech.copy()
    expected[800:] += 0.5 * speech[:-800]
    assert level_db(heard) == pytest.approx(level_db(speech), abs=0.01)
    assert heard * np.dot(expected, expected) / np.dot(expected, heard) == pytest.approx(expected, abs=1e-5)
    assert len(heard) == len(speech)


def test_gain_changes_the_level_alone():
    speech = tone(200)
    heard = Augmenter(AugmentConfig(gain_db=(-6.0, -6.0)), AudioConfig(), seed=0)
    assert heard(torch.from_numpy(speech.copy()), epoch=3, index=1).numpy() == pytest.approx(speech * 0.50119, rel=1e-4)


def test_a_share_of_utterances_is_left_as_it_is(write):
    config = AugmentConfig(noise=(write("noise", tone(50)),), noise_prob=0.25)
    change = Augmenter(config, AudioConfig(), seed=0)
    speech = torch.from_numpy(tone(300, 500))
    changed = sum(not torch.equal(change(speech.clone(), epoch=0, index=i), speech) for i in range(400))
    assert 70 <= changed <= 130


@pytest.mark.parametrize("normalize", [False, True])
def test_augmented_batches_are_the_same_for_any_loader_number_of_workers_and_beginning(corpus, write, normalize):
    pytest.importorskip("fairseq2", reason=NO_FAIRSEQ2)
    noise, room = write("noise", tone(50), tone(60, 40_000)), write("room", np.array([1, 0.1, 0.3], np.float32))
    config = AugmentConfig(speeds=(0.9, 1.1), noise=(noise,), rooms=(room,), gain_db=(-3.0, 3.0))
    audio = AudioConfig(normalize=normalize)
    speeds = config.speeds_of(len(corpus.utterances), seed=5)
    dataset = SpeechDataset(
        corpus, audio, hop=HOP, window=WINDOW, speeds=speeds, augment=config.augmenter(audio, seed=5)
    )
    sampler = BatchSampler(
        corpus.utterances, BatchConfig(seconds=3.0, max_crop_s=None, min_s=0.1), seed=0, speeds=speeds
    )
    length = len(sampler.epoch(0))
    straight = list(islice(load_batches(dataset, sampler, epoch=0, position=0, workers=0, loader="torch"), 3 * length))
    for loader, workers, skipped in [("torch", 2, 0), ("fairseq2", 2, 0), ("fairseq2", 0, 1), ("torch", 1, 3)]:
        later = load_batches(dataset, sampler, epoch=0, position=skipped, workers=workers, loader=loader)
        for left, right in zip(straight[skipped:], later, strict=False):
            assert left[2].ids == right[2].ids
            assert torch.equal(left[2].waveforms, right[2].waveforms)
    first, second = (
        {
            key: waveform[:count]
            for found, _, batch in straight
            for key, waveform, count in zip(batch.ids, batch.waveforms, batch.num_samples, strict=True)
            if found == epoch
        }
        for epoch in (0, 1)
    )
    assert any(not torch.equal(first[key], second[key]) for key in set(first) & set(second))
    if normalize:
        assert all(abs(float(w.mean())) < 1e-4 and abs(float(w.std()) - 1) < 1e-2 for w in first.values())


def test_nothing_is_done_by_default(corpus):
    assert AugmentConfig().speeds_of(5, seed=0) is AugmentConfig().augmenter(AudioConfig(), seed=0) is None
    assert AugmentConfig(speeds=(1.0,)).speeds_of(5, seed=0) is None
    row = corpus.utterances[0]
    assert torch.equal(
        change_speed(corpus, row, AudioConfig(), Fraction(1), start=0, num_samples=row.num_samples),
        read_audio(corpus.place(row), AudioConfig()),
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"speeds": (0.9, 3.0)}, r"augment\.speeds must be hundredths from 0\.5 to 2, found \(0\.9, 3\.0\)"),
        ({"speeds": (0.905,)}, r"must be hundredths"),
        ({"noise_prob": 1.5}, r"must lie between 0 and 1, found 0\.5, 1\.5"),
        ({"snr_db": (20.0, 5.0)}, r"augment\.snr_db must be a lower and a higher number, found 20\.0, 5\.0"),
    ],
)
def test_settings_without_meaning_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**keys)


def test_utterances_of_two_kinds_have_the_speeds_of_their_own():
    kinds = (Speeds((1.0,), 6, seed=3), Speeds((0.9, 1.1), 6, seed=3))
    is_second = np.array([False, True, True, False, True, False])
    both, lengths = SpeedsOfTwo(kinds, is_second), np.arange(6) * 100 + 1000
    for epoch in range(4):
        own = [kinds[int(second)] for second in is_second]
        assert [both.of(epoch, index) for index in range(6)] == [each.of(epoch, i) for i, each in enumerate(own)]
        indices = np.array([4, 0, 1])
        expected = [own[i].lengths(epoch, np.array([i]), lengths[[i]])[0] for i in indices]
        assert both.lengths(epoch, indices, lengths[indices]).tolist() == expected
    assert both.longest(900) == 1000


def test_utterances_of_two_kinds_are_augmented_by_their_own():
    louder = AugmentConfig(gain_db=(20.0, 20.0)).augmenter(AudioConfig(), seed=0)
    both = AugmenterOfTwo((None, louder), np.array([False, True]))
    assert both(torch.ones(3), epoch=0, index=0).tolist() == [1, 1, 1]
    assert both(torch.ones(3), epoch=0, index=1).tolist() == pytest.approx([10, 10, 10])
