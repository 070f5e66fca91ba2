"""What is measured of one file, and that it does not depend on where blocks are cut."""

import dataclasses
import os

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import Segment, read_header
from speechssl.audio.storage import Place
from speechssl.corpus.check import measure as measure_module
from speechssl.corpus.check.measure import Measured, Recording, measure, measure_recording
from speechssl.corpus.check.sound_print import Fingerprint
from speechssl.corpus.check.spectrum import Spectrum
from speechssl.corpus.check.thresholds import CheckConfig
from tests.audio.mpeg import loud_first


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


def test_clipped_samples_are_a_share_of_those_of_all_channels():
    assert Measured(header=None, clipped=3, num_samples=6, channels=2).clipped_share == 0.25
    assert Measured(header=None, clipped=1, num_samples=1).clipped_share == 1
    assert Measured(header=None).clipped_share == 0


def assert_same(found: Measured, expected: Measured, *, rel: float = 1e-6) -> None:
    """Compare all figures; those of floating point may differ by the order in which they were added up."""
    for name in (field.name for field in dataclasses.fields(expected)):
        value = getattr(expected, name)
        match value:
            case float():
                assert getattr(found, name) == pytest.approx(value, rel=rel), name
            case Fingerprint():
                assert found.fingerprint.bits == value.bits
                assert found.fingerprint.extent_s == pytest.approx(value.extent_s, rel=rel)
            case _:
                assert getattr(found, name) == value, name


def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch, speech):
    waveform = np.clip(6 * np.stack([speech(1.2), speech(1.2, seed=1)], axis=1), -1, 1)
    whole = measured(tmp_path, waveform)
    monkeypatch.setattr(measure_module, "_BLOCK", 701)
    pieces = measured(tmp_path, waveform)
    assert whole.clipped > 100
    assert_same(pieces, whole)


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


def test_the_same_samples_of_more_bits_have_the_same_digest_and_one_bit_makes_another(tmp_path, speech):
    samples = np.round(speech() * 8_000).astype(np.int32)
    other = (samples << 8).astype(np.int32)
    other[7] += 1
    one = measured(tmp_path, samples.astype(np.int16)).digest
    assert measured(tmp_path, (samples << 16).astype(np.int32), subtype="PCM_24").digest == one
    assert measured(tmp_path, samples / 32_768, subtype="FLOAT").digest == one
    assert measured(tmp_path, (other << 8).astype(np.int32), subtype="PCM_24").digest != one


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "ULAW"])
def test_figures_of_16_bits_are_those_of_floating_point(tmp_path, monkeypatch, speech, subtype, channels):
    waveform = np.clip(7 * np.stack([speech(1.2), speech(1.2, seed=1)], axis=1) + 0.03, -1, 0.999)[:, :channels]
    of_16_bits = measured(tmp_path, waveform, subtype=subtype)
    monkeypatch.setattr(measure_module, "_IN_16_BITS", ())
    of_floats = measure(tmp_path / "a.wav", CheckConfig())
    assert of_floats.clipped > 100 or subtype == "ULAW"  # which ends at 0.98
    assert_same(of_16_bits, of_floats, rel=1e-4)


def parts_of(length: int) -> list[Segment | None]:
    ends = [(0, length), (100, 40_000), (100, 140_000), (30_000, 50_000), (150_000, length - 10)]
    return [None, *(Segment(start, end - start) for start, end in ends)]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_parts_of_a_file_are_measured_as_files_of_their_own(tmp_path, monkeypatch, speech, suffix):
    samples = np.round(speech(12.0) * 32_767).astype(np.int16)
    path = tmp_path / f"long.{suffix}"
    soundfile.write(str(path), samples, 16_000)
    monkeypatch.setattr(measure_module, "_BLOCK", 9_001)
    parts = parts_of(len(samples))
    found = measure_recording(Recording(Place(str(path)), tuple(parts)), CheckConfig())
    for part, of_part in zip(parts, found, strict=True):
        start, count = (part.start, part.num_samples) if part else (0, len(samples))
        alone = measured(tmp_path, samples[start : start + count])
        assert of_part.header.num_samples == len(samples)
        assert_same(dataclasses.replace(of_part, header=alone.header), alone)


def test_a_file_is_decoded_once_and_long_gaps_between_its_parts_not_at_all(tmp_path, monkeypatch, speech):
    path = tmp_path / "long.flac"
    soundfile.write(str(path), np.tile(speech(2.0), 20), 16_000)
    monkeypatch.setattr(measure_module, "_BLOCK", 4_000)
    decoded = []
    read = measure_module.Forwards.read

    def counted(self, *arguments, **named):
        block = read(self, *arguments, **named)
        decoded.append(len(block))
        return block

    monkeypatch.setattr(measure_module.Forwards, "read", counted)
    parts = (Segment(10, 20_000), Segment(5_000, 20_000), Segment(20_000, 9_000), Segment(600_000, 3_000))
    found = measure_recording(Recording(Place(str(path)), parts), CheckConfig())
    assert [part.num_samples for part in found] == [20_000, 20_000, 9_000, 3_000]
    assert sum(decoded) < 29_000 + 3_000 + 2 * 4_000


def test_a_part_that_the_file_does_not_reach_has_what_there_is(tmp_path, speech):
    path = tmp_path / "a.wav"
    soundfile.write(str(path), speech(1.0), 16_000)
    parts = (Segment(15_000, 2_000), Segment(20_000, 1_000))
    found = measure_recording(Recording(Place(str(path)), parts), CheckConfig())
    assert [part.num_samples for part in found] == [1_000, 0]
    assert [part.complaint for part in found] == [None, None]


def test_what_the_decoder_says_as_it_fails_is_kept_with_the_reason(tmp_path, monkeypatch, speech):
    soundfile.write(str(tmp_path / "a.flac"), speech(1.0), 16_000)

    def fail(self, *arguments, **named):
        os.write(2, b"lost synchronisation\n")
        raise soundfile.LibsndfileError(5)

    monkeypatch.setattr(measure_module.Forwards, "read", fail)
    found = measure_recording(Recording(Place(str(tmp_path / "a.flac")), (None, Segment(9_000, 100))), CheckConfig())
    for part in found:
        assert part.problem.startswith("decoding fails in the "), part.problem
        assert part.complaint == "lost synchronisation"


def test_a_channel_that_the_file_does_not_have_leaves_it_measured_whole(tmp_path, speech):
    waveform = np.stack([speech(0.5), 0.5 * speech(0.5, seed=1)], axis=1)
    whole = measured(tmp_path, waveform)
    second, third = (measure(tmp_path / "a.wav", CheckConfig(), Segment(0, 8_000, channel=n)) for n in (1, 2))
    assert (second.channels, second.peak) == (1, pytest.approx(float(np.abs(waveform[:, 1]).max()), abs=1e-4))
    assert third == whole


def test_bytes_of_an_archive_are_measured_as_a_file_is(tmp_path, speech):
    alone = measured(tmp_path, speech(1.0), name="a.flac")
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.tar").write_bytes(bytes(512) + content)
    assert measure(Place(str(tmp_path / "a.tar"), 512, len(content)), CheckConfig()) == alone
    beyond = measure(Place(str(tmp_path / "a.tar"), 512, len(content) + 1), CheckConfig())
    assert beyond.header is None
    assert beyond.problem.startswith("the archive ends after")


@pytest.mark.parametrize("name", ["a.flac", "none.flac"])
def test_a_url_is_fetched_once_whether_it_is_there_or_not(tmp_path, speech, monkeypatch, name):
    fsspec = pytest.importorskip("fsspec", reason="URLs need fsspec")
    alone = measured(tmp_path, speech(1.0), name="a.flac")
    fsspec.filesystem("memory").pipe_file("/measured/a.flac", (tmp_path / "a.flac").read_bytes())
    fetched, fetch = [], Place._fetch
    monkeypatch.setattr(Place, "_fetch", lambda place: fetched.append(place) or fetch(place))
    found = measure(Place(f"memory://measured/{name}"), CheckConfig())
    assert len(fetched) == 1
    assert found == alone if name == "a.flac" else found.problem.startswith("cannot be fetched")


def test_flac_without_a_length_is_measured_like_one_with_it(tmp_path, speech):
    expected = measured(tmp_path, speech(0.5), name="a.flac")
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[:22] + bytes(4) + content[26:])
    assert measure(tmp_path / "a.flac", CheckConfig()) == expected


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
    held = sum(part.nbytes for part in [*spectrum._energies, spectrum._rest, spectrum._power])
    assert held < 20_000  # of 192,000 bytes of audio


@pytest.mark.parametrize("count", [1, 2])
def test_mpeg_audio_without_a_stated_length_is_measured_to_its_end(tmp_path, count):
    path = tmp_path / "a.mp3"
    path.write_bytes(loud_first() * count)
    header = read_header(path)
    assert soundfile.info(path).frames < 0.8 * header.num_samples  # the estimate, at which libsndfile stops
    found = measure(path, CheckConfig())
    assert (found.num_samples, found.problem, found.complaint) == (header.num_samples, None, None)
