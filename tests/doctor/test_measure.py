"""What is measured of one file, and that it does not depend on where blocks are cut."""

import dataclasses
import hashlib

import numpy as np
import pytest
import soundfile

from speechssl.doctor import measure as measure_module
from speechssl.doctor.measure import measure
from speechssl.doctor.spectrum import Spectrum
from speechssl.doctor.thresholds import CheckConfig


def measured(folder, waveform, *, name="a.wav", rate=16_000, **kind):
    soundfile.write(str(folder / name), waveform, rate, **kind)
    return measure(folder / name, CheckConfig())


def test_figures_are_those_of_the_whole_file(tmp_path, speech):
    waveform = speech(2.0) + np.float32(0.02)
    found = measured(tmp_path, waveform, subtype="FLOAT")
    assert found.num_samples == 32_000
    assert found.peak == pytest.approx(float(np.abs(waveform).max()))
    assert found.mean == pytest.approx(float(waveform.mean()), abs=1e-6)
    assert found.active_s == pytest.approx(2.0, abs=0.05)
    assert (found.not_finite, found.clipped, found.channel_difference, found.cut_hz) == (0, 0, 0.0, None)
    assert found.digest == hashlib.sha256(b"16000 1 " + waveform.tobytes()).digest()[:16]


def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch, speech):
    waveform = np.clip(6 * np.stack([speech(1.2), speech(1.2, seed=1)], axis=1), -1, 1)
    whole = measured(tmp_path, waveform)
    monkeypatch.setattr(measure_module, "_BLOCK", 701)
    pieces = measured(tmp_path, waveform)
    assert whole.clipped > 100
    for name in (field.name for field in dataclasses.fields(whole)):
        expected = getattr(whole, name)
        exactly = not isinstance(expected, float)
        assert getattr(pieces, name) == (expected if exactly else pytest.approx(expected)), name


def test_a_sample_is_clipped_between_two_at_full_scale(tmp_path):
    waveform = np.zeros(1_000, np.float32)
    waveform[[10, 11, 20, 21, 22, 30, 31, 32, 33, 34]] = 1.0
    found = measured(tmp_path, waveform)
    assert found.clipped == 0 + 1 + 3
    assert found.clipped_share == pytest.approx(0.004)


def test_pauses_at_the_ends_are_not_active_and_an_offset_is_no_sound(tmp_path, speech):
    pause = np.zeros(8_000)
    found = measured(tmp_path, np.concatenate([pause, 0.5 * speech(1.0), pause]) + 0.2)
    assert found.active_s == pytest.approx(1.0, abs=0.06)


def test_the_same_samples_in_another_format_have_the_same_digest(tmp_path, speech):
    samples = np.round(speech() * 32_767).astype(np.int16)
    one, other = (measured(tmp_path, samples, name=name) for name in ("a.wav", "a.flac"))
    assert one.digest == other.digest
    assert one.digest != measured(tmp_path, samples, name="b.wav", rate=8_000).digest
    assert one.digest != measured(tmp_path, speech(seed=1)).digest


def low_passed(waveform: np.ndarray, cut_hz: float) -> np.ndarray:
    spectrum = np.fft.rfft(waveform)
    spectrum[np.fft.rfftfreq(len(waveform), 1 / 16_000) > cut_hz] = 0
    return np.fft.irfft(spectrum).astype(np.float32)


def falling(db_per_octave: float) -> np.ndarray:
    """Make noise that falls from 500 Hz up, as dark voices do."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 0.3, 32_000))
    hz = np.maximum(np.fft.rfftfreq(32_000, 1 / 16_000), 500)
    return np.fft.irfft(spectrum * (hz / 500) ** (-db_per_octave / 6.02)).astype(np.float32)


@pytest.mark.parametrize("cut_hz", [3_700, 4_000, 5_500])
def test_sound_that_ends_at_a_frequency_is_cut_there(tmp_path, cut_hz):
    found = measured(tmp_path, low_passed(falling(3), cut_hz))
    assert found.cut_hz == pytest.approx(cut_hz, abs=260)


@pytest.mark.parametrize("slope", [0, 6, 12, 18, 24])
def test_a_dark_voice_is_not_cut(tmp_path, slope):
    assert measured(tmp_path, falling(slope)).cut_hz is None


def test_any_number_in_a_floating_point_file_is_measured(tmp_path, speech):
    waveform = speech(1.0)
    waveform[:8_000] = np.finfo(np.float32).max
    found = measured(tmp_path, waveform, subtype="FLOAT")
    assert (found.not_finite, found.clipped, found.fingerprint) == (0, 7_998, None)
    assert found.peak > 1e38


def test_a_thousand_channels_are_decoded_in_small_blocks(tmp_path):
    found = measured(tmp_path, np.full((500, 1_000), 0.25), subtype="FLOAT")
    assert (found.num_samples, found.peak, found.mean, found.channel_difference) == (500, 0.25, 0.25, 0.0)


def test_silence_and_less_than_a_window_are_not_cut():
    for waveform in (np.zeros(16_000, np.float32), np.ones(5, np.float32)):
        spectrum = Spectrum(16_000)
        spectrum.add(waveform)
        assert spectrum.cut_hz(step_db=20, floor_db=-65) is None
        assert spectrum.active_s == 0


def test_memory_does_not_grow_with_the_audio(tmp_path, speech):
    spectrum = Spectrum(16_000)
    for _ in range(3):
        spectrum.add(speech(1.0))
    held = sum(part.nbytes for part in [*spectrum._bands, *spectrum._levels, spectrum._rest, spectrum._power])
    assert held < 20_000  # of 192,000 bytes of audio
