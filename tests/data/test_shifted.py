"""Shifted manifests: levels on the result, what the draws depend on, and what is refused or counted."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from speechssl.audio.reading import AudioConfig
from speechssl.data.dataset import SpeechDataset, load_in_order
from speechssl.data.given import list_given
from speechssl.data.manifest import read_manifest
from speechssl.data.shifted import ShiftConfig, parse_shift, shift_manifest
from speechssl.data.utterances import Manifest
from speechssl.data.waveform import read_utterance
from speechssl.errors import AudioError, ConfigError

PLAIN = AudioConfig()


def heard(manifest: Manifest, index: int = 0, audio: AudioConfig = PLAIN, **part: int) -> np.ndarray:
    return read_utterance(manifest, manifest.utterances[index], audio, **part).numpy()


def snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    return 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean((noisy - clean).astype(float) ** 2))


@pytest.fixture
def noise(tmp_path, make_corpus):
    """Give the manifest of a noise that is longer than some utterances of the corpus, and shorter than others."""
    return make_corpus(tmp_path / "noise", [11_500])


@pytest.mark.parametrize("level", [-10, 0, 7.5, 20])
@pytest.mark.parametrize("source", ["", ":white", ":babble", ":files"])
def test_noise_has_its_ratio(corpus, noise, level, source):
    text = f"noise:{level}{source.replace('files', str(noise))}"
    shifted = shift_manifest(corpus, parse_shift(text))
    for index in range(len(corpus.utterances)):
        assert snr_db(heard(corpus, index), heard(shifted, index)) == pytest.approx(level, abs=0.1)


def test_levels_differ_in_the_level_only(corpus):
    quiet, loud = (heard(shift_manifest(corpus, parse_shift(f"noise:{db}"))) - heard(corpus) for db in (20, 0))
    assert loud == pytest.approx(10 * quiet, abs=1e-4)


@pytest.mark.parametrize("text", ["gain:-20", "gain:6"])
def test_gain_is_in_decibels_and_nothing_is_clipped(corpus, text):
    level = float(text.partition(":")[2])
    shifted = heard(shift_manifest(corpus, parse_shift(text)))
    assert shifted == pytest.approx(heard(corpus) * 10 ** (level / 20), rel=1e-5)


@pytest.mark.parametrize("text", ["noise:5", "noise:5:babble", "reverb:0.3", "band:3000", "clip:10", "speed:0.9"])
def test_a_shift_depends_on_seed_and_id_alone(corpus, text):
    shifted = shift_manifest(corpus, parse_shift(text))
    few = dataclasses.replace(shifted, utterances=shifted.utterances[3:4])
    whole = heard(shifted, 3)
    assert (heard(few) == whole).all()
    assert (heard(shift_manifest(corpus, parse_shift(text)), 3) == whole).all()
    assert (heard(shifted, 3, start=100, num_samples=2000) == whole[100:2100]).all()
    other = heard(shift_manifest(corpus, parse_shift(text, seed=1)), 3)
    assert (other != whole).any() == text.startswith(("noise", "reverb"))


@pytest.mark.parametrize("speed", ["0.9", "1.1", "2"])
def test_the_manifest_has_the_lengths_at_the_speed(corpus, speed):
    shifted = shift_manifest(corpus, parse_shift(f"speed:{speed}"))
    for index, row in enumerate(shifted.utterances):
        assert len(heard(shifted, index)) == row.num_samples_16k == row.num_samples
    batches = load_in_order(SpeechDataset(shifted, PLAIN, hop=320, window=325), seconds=2.0)
    assert sum(len(batch.ids) for batch in batches) == len(corpus.utterances)


def test_waveforms_are_normalised_after_the_shift(corpus):
    shifted = shift_manifest(corpus, parse_shift("noise:0"))
    found = heard(shifted, audio=AudioConfig(normalize=True))
    plain = heard(shifted)
    assert found == pytest.approx((plain - plain.mean()) / plain.std(), abs=1e-3)


def test_babble_has_voices_of_other_speakers_where_there_are(corpus):
    rows = tuple(dataclasses.replace(row, speaker="ab"[i % 2]) for i, row in enumerate(corpus.utterances))
    shifted = shift_manifest(dataclasses.replace(corpus, utterances=rows), parse_shift("noise:0:babble"))
    for row in rows:
        voices = [sound for _, sound, _ in shifted._drawn(row)]
        assert len(voices) == 6
        assert row.id not in {voice.id for voice in voices}
        assert [voice.speaker != row.speaker for voice in voices] == [True] * 4 + [False] * 2


def test_noise_that_is_too_short_is_repeated_and_counted(corpus, noise):
    shifted = shift_manifest(corpus, parse_shift(f"noise:0:{noise}"))
    assert shifted.looped() == [row.id for row in corpus.utterances if row.num_samples > 11_500]
    assert re.search("repeats: 4 utterances: u0004, u0005, u0006, ...", shifted.notes()[0])
    assert shift_manifest(corpus, parse_shift("noise:0")).notes() == []
    added = heard(shifted, 7) - heard(corpus, 7)
    assert added[11_500:] == pytest.approx(added[: 15_000 - 11_500], abs=1e-6)


def test_measured_rooms_are_convolved(corpus, tmp_path, make_corpus):
    rooms = read_manifest(make_corpus(tmp_path / "rooms", [4_000]))
    shifted = shift_manifest(corpus, parse_shift(f"reverb:{tmp_path / 'rooms/manifest.tsv'}"))
    assert (shifted.shift.level, str(shifted.shift)) == (None, f"reverb:{tmp_path / 'rooms/manifest.tsv'}")
    response = heard(rooms)
    direct = np.abs(response).argmax()
    expected = np.convolve(heard(corpus), response)[direct : direct + 8_000]
    found = heard(shifted)
    assert found == pytest.approx(expected * found.std() / expected.std(), abs=1e-3)


def test_silence_has_no_ratio():
    given = list_given([np.zeros(8000, np.float32)], sample_rate=16_000)
    with pytest.raises(AudioError, match="silent"):
        heard(shift_manifest(given, parse_shift("noise:0")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nose:10", r"shift 'nose:10': expected one of noise:SNR_dB"),
        ("noise", r"shift 'noise': expected one of noise:SNR_dB"),
        ("noise:", r"expected one of"),
        ("noise:loud", r"expected a number in dB SNR, found 'loud'"),
        ("noise:200", r"shift noise:200: expected a level from -50 to 100 dB SNR, found 200"),
        ("noise:nan", r"expected a level from -50 to 100"),
        ("band:8000", r"from 100 to 7900 Hz, found 8000"),
        ("band:4000:x", r"band takes a level and nothing else; leave 'x' out"),
        ("reverb:0", r"from 0.05 to 10 s RT60"),
        ("reverb:0.5:rooms.tsv", r"have a reverberation time of their own; write reverb:rooms.tsv"),
        ("clip:95", r"from 0 to 90 % clipped"),
        ("speed:3", r"from 0.5 to 2 x speed"),
        ("speed:0.955", r"a speed in hundredths"),
    ],
)
def test_what_is_no_shift_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_shift(text)


def test_a_manifest_is_shifted_once_and_babble_needs_others(corpus):
    shifted = shift_manifest(corpus, parse_shift("gain:3"))
    with pytest.raises(ConfigError, match="is read under gain:3 already"):
        shift_manifest(shifted, parse_shift("noise:3"))
    alone = dataclasses.replace(corpus, utterances=corpus.utterances[:1])
    with pytest.raises(ConfigError, match="there is only one"):
        shift_manifest(alone, parse_shift("noise:3:babble"))
    with pytest.raises(ConfigError, match="expected a level"):
        ShiftConfig(kind="noise")


def test_a_crop_is_that_part_of_the_shifted_whole(corpus):
    shifted = shift_manifest(corpus, parse_shift("reverb:0.2"))
    dataset = SpeechDataset(shifted, AudioConfig(), hop=320, window=325)
    (batch, *_) = load_in_order(dataset, seconds=1.0)
    row = next(i for i, each in enumerate(shifted.utterances) if each.id == batch.ids[0])
    assert torch.equal(batch.waveforms[0], torch.from_numpy(heard(shifted, row)))
