"""Fingerprints: shared by copies, not by others; the search finds what comparing all pairs finds."""

import itertools

import numpy as np
import pytest

from speechssl.corpus.check.sound_print import BANDS, BITS, Fingerprint, bit_difference, fingerprint, similar_pairs
from speechssl.corpus.check.spectrum import Spectrum


def printed(waveform: np.ndarray, rate: int = 16_000) -> Fingerprint:
    spectrum = Spectrum(rate)
    spectrum.add(waveform)
    found = spectrum.fingerprint()
    assert found is not None
    return found


def test_a_copy_of_another_level_with_noise_and_pauses_keeps_its_fingerprint(speech):
    original = speech(2.0)
    noise = np.random.default_rng(1).normal(0, 0.004, len(original))
    pauses = np.zeros(9_000)
    copy = np.concatenate([pauses, 0.3 * (original + noise), pauses[:3_333]]).astype(np.float32)
    assert bit_difference(printed(original), printed(copy)) < 0.12


def test_every_second_sample_has_the_fingerprint_of_the_whole(speech):
    spectrum = np.fft.rfft(speech(2.0))
    spectrum[len(spectrum) // 2 :] = 0
    original = np.fft.irfft(spectrum).astype(np.float32)
    assert bit_difference(printed(original), printed(original[::2], rate=8_000)) < 0.05


def test_other_recordings_have_other_fingerprints(speech):
    prints = [printed(speech(1.0, seed=seed)) for seed in range(12)]
    differ = [bit_difference(a, b) for a, b in itertools.combinations(prints, 2)]
    assert min(differ) > 0.3
    assert np.mean(differ) == pytest.approx(0.5, abs=0.03)


def test_the_extent_is_that_of_the_sound_without_pauses(speech):
    pauses = np.zeros(20_000, np.float32)
    alone, among = printed(speech(2.0)), printed(np.concatenate([pauses, speech(2.0), pauses]))
    assert among.extent_s == pytest.approx(alone.extent_s, rel=0.01)
    assert alone.extent_s == pytest.approx(2.0 * 1.5 / 3**0.5, rel=0.05)  # even sound has a deviation of 1 / 12 ** 0.5


def test_silence_and_too_short_a_sound_have_none(speech):
    spectrum = Spectrum(16_000)
    assert spectrum.fingerprint() is None
    spectrum.add(speech(0.4))
    assert spectrum.fingerprint() is None
    assert fingerprint(np.zeros((100, BANDS), np.float32), frames_per_second=62.5) is None
    assert fingerprint(np.ones((28, BANDS), np.float32), frames_per_second=62.5) is None
    assert fingerprint(np.ones((30, BANDS), np.float32), frames_per_second=62.5) is not None


def wrong_bits(one: Fingerprint, share: float, random: np.random.Generator) -> Fingerprint:
    flips = np.packbits(random.permutation(BITS) < round(share * BITS))
    return Fingerprint((np.frombuffer(one.bits, np.uint8) ^ flips).tobytes(), one.extent_s)


def test_the_search_finds_what_comparing_all_pairs_finds():
    random = np.random.default_rng(0)
    prints = [Fingerprint(random.bytes(BITS // 8), random.uniform(3.0, 3.1)) for _ in range(300)]
    prints += [wrong_bits(prints[i], 0.08, random) for i in range(0, 300, 7)]
    everything = [
        (i, j, bit_difference(prints[i], prints[j]))
        for i, j in itertools.combinations(range(len(prints)), 2)
        if bit_difference(prints[i], prints[j]) <= 0.15
    ]
    assert len(everything) == 43
    assert list(similar_pairs(prints, bits=0.15, duration=0.05)) == everything


@pytest.mark.parametrize(("other_s", "found"), [(3.1, 1), (3.2, 0), (2.9, 1), (2.85, 0)])
def test_copies_last_as_long(other_s, found):
    prints = [Fingerprint(bytes(range(32)), extent_s) for extent_s in (3.0, other_s)]
    assert len(list(similar_pairs(prints, bits=0.1, duration=0.05))) == found


def test_of_few_there_are_no_pairs():
    assert list(similar_pairs([], bits=0.1, duration=0.1)) == []
    assert list(similar_pairs([Fingerprint(bytes(32), 1.0)], bits=0.1, duration=0.1)) == []
