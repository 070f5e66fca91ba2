"""Distortions have the level that they claim, measured on the result."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from speechssl.audio.distortion import (
    at_speed,
    band_limited,
    clipped,
    decay_samples,
    decaying_room,
    in_room,
    noise_scale,
    power,
)


def white(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


def reverberation_time_s(response: np.ndarray) -> float:
    """Measure RT60 as ISO 3382 does: backward integration (Schroeder 1965), a line from -5 to -25 dB."""
    energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    decay_db = 10 * np.log10(energy / energy[0])
    part = np.flatnonzero((decay_db <= -5) & (decay_db >= -25))
    return -60 / np.polyfit(part / 16_000, decay_db[part], 1)[0]


@pytest.mark.parametrize("rt60_s", [0.1, 0.3, 0.5, 1.0, 2.5])
def test_a_synthetic_room_decays_in_its_time(rt60_s):
    signs = np.random.default_rng(1).integers(0, 2, decay_samples(rt60_s)) * 2 - 1
    response = decaying_room(rt60_s, signs)
    assert reverberation_time_s(response) == pytest.approx(rt60_s, rel=0.02)
    assert np.sum(response[1:] ** 2) == pytest.approx(response[0] ** 2, rel=1e-3)  # tail as strong as the direct sound


def test_sound_in_a_room_lasts_and_keeps_its_power_and_length():
    click = np.zeros(16_000, np.float32)
    click[100] = 1
    signs = np.random.default_rng(1).integers(0, 2, decay_samples(0.4)) * 2 - 1
    heard = in_room(click, decaying_room(0.4, signs))
    assert len(heard) == len(click)
    assert np.abs(heard).argmax() == 100
    assert power(heard) == pytest.approx(power(click), rel=1e-4)
    assert reverberation_time_s(heard[100:]) == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("cut_hz", [300, 1000, 3400, 4000, 7000])
def test_nothing_is_left_above_the_cut_and_what_is_below_stays(cut_hz):
    samples = white(32_000)
    found = band_limited(samples, cut_hz)
    assert len(found) == len(samples)
    window = np.hanning(len(samples))
    before, after = (np.abs(np.fft.rfft(each * window)) ** 2 for each in (samples, found))
    hertz = np.fft.rfftfreq(len(samples), 1 / 16_000)
    assert after[hertz >= cut_hz].sum() < 1e-7 * before[hertz >= cut_hz].sum()
    below = (hertz < cut_hz - max(60, cut_hz / 15)) & (hertz > 30)
    assert after[below].sum() == pytest.approx(before[below].sum(), rel=1e-3)


def test_the_band_of_short_sounds_is_limited_too():
    assert len(band_limited(white(50), 300)) == 50


@pytest.mark.parametrize("percent", [0, 1, 10, 50])
def test_so_many_samples_are_clipped(percent):
    samples = white(20_000)
    found = clipped(samples, percent)
    assert np.mean(found != samples) == pytest.approx(percent / 100, abs=1e-3)
    assert np.abs(found).max() == np.abs(found)[found != samples].max(initial=np.abs(samples).max() * (percent == 0))


@pytest.mark.parametrize("snr_db", [-5, 0, 12.5])
def test_noise_is_scaled_to_its_ratio(snr_db):
    speech, noise = white(16_000), 7 * white(16_000, seed=1)
    added = noise * noise_scale(speech, noise, snr_db)
    assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(snr_db, abs=0.01)


def test_speech_at_a_speed_is_shorter_and_higher():
    tone = torch.sin(2 * torch.pi * 400 * torch.arange(16_000) / 16_000)
    heard = at_speed(tone, Fraction(5, 4))
    assert len(heard) == 12_800
    assert np.abs(np.fft.rfft(heard.numpy())).argmax() * 16_000 / 12_800 == pytest.approx(500)
