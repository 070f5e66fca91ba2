"""Where somebody speaks: the same in blocks as at once, in noise, and by the model as by its own package."""

import importlib.util
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.corpus import activity
from speechssl.corpus.activity import FRAME, chosen_vad, detect_activity, waveform_blocks
from speechssl.data.utterances import Manifest, Utterance
from speechssl.errors import AudioError, ConfigError

HAS_SILERO = all(importlib.util.find_spec(name) for name in ("silero_vad", "onnxruntime"))
VADS = ["energy", pytest.param("silero", marks=pytest.mark.skipif(not HAS_SILERO, reason="needs silero-vad"))]


def sound(seconds: float = 8.0, noise: float = 0.003) -> np.ndarray:
    """Give a second of vowel-like sound every two seconds."""
    random = np.random.default_rng(0)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * 120 * k * time + k) / k for k in range(1, 30)) * (1 + np.sin(2 * np.pi * 5 * time))
    return (0.1 * voice * (time % 2 >= 1) + noise * random.standard_normal(len(time))).astype(np.float32)


def listing(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> tuple[Manifest, Utterance]:
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    row = Utterance(id="r", path=path.name, num_samples=len(samples), sample_rate=rate, channels=1)
    return Manifest(root=path.parent, utterances=(row,)), row


@pytest.mark.parametrize("vad", VADS)
def test_blocks_make_no_difference(vad):
    samples = sound()
    at_once = detect_activity([samples], vad)
    for size in (1, 7, 50):
        step = size * FRAME
        in_blocks = detect_activity((samples[i : i + step] for i in range(0, len(samples), step)), vad)
        np.testing.assert_allclose(in_blocks.speech, at_once.speech, atol=1e-4)
        np.testing.assert_allclose(in_blocks.level_db, at_once.level_db, atol=1e-3)
    assert len(at_once.speech) == len(at_once.level_db) == -(-len(samples) // FRAME)


@pytest.mark.skipif(not HAS_SILERO, reason="needs silero-vad")
def test_the_model_says_what_its_own_package_says():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(threads)
    samples = sound(3.0)[: 93 * FRAME]
    theirs = load_silero_vad(onnx=True)
    expected = [float(theirs(torch.from_numpy(frame), SAMPLE_RATE)) for frame in samples.reshape(-1, FRAME)]
    np.testing.assert_allclose(detect_activity([samples], "silero").speech, expected, atol=1e-4)
    assert max(expected) > 0.5 > min(expected), "it hears something"


@pytest.mark.parametrize("noise", [1e-5, 0.003, 0.02])
@pytest.mark.parametrize("hum", [0.0, 0.2])
def test_levels_tell_speech_from_noise_and_hum(noise, hum):
    samples = sound(20.0, noise)
    samples += (hum * np.sin(2 * np.pi * 50 * np.arange(len(samples)) / SAMPLE_RATE)).astype(np.float32)
    found = detect_activity([samples], "energy").speech > 0.5
    middle = (np.arange(len(found)) + 0.5) * FRAME / SAMPLE_RATE % 2
    assert found[(middle > 1.2) & (middle < 1.8)].mean() > 0.8
    assert found[(middle > 0.1) & (middle < 0.9)].mean() < 0.05


def test_in_a_minute_of_noise_nobody_speaks():
    random = np.random.default_rng(1)
    noise = 0.01 * random.standard_normal(60 * SAMPLE_RATE).astype(np.float32)
    samples = np.concatenate([sound(20.0, 0.01), noise, sound(20.0, 0.01)])
    found = detect_activity([samples], "energy").speech > 0.5
    quiet = found[21 * SAMPLE_RATE // FRAME : 79 * SAMPLE_RATE // FRAME]
    assert quiet.mean() < 0.005
    assert not (quiet[1:] & quiet[:-1] & np.roll(quiet, 2)[1:]).any(), "not three frames on end"
    assert not (detect_activity([np.zeros(64_000, np.float32)], "energy").speech > 0.5).any()
    assert len(detect_activity([], "energy").speech) == 0


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_blocks_of_a_file_are_the_file(tmp_path, monkeypatch, rate):
    monkeypatch.setattr(activity, "_BLOCK_FRAMES", 31)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate + 777).astype(np.float32)
    manifest, row = listing(tmp_path / "a.wav", samples, rate)
    blocks = list(waveform_blocks(manifest, row))
    assert len(blocks) == -(-row.num_samples_16k // (31 * FRAME))
    monkeypatch.setattr(activity, "_BLOCK_FRAMES", 10_000)
    (whole,) = waveform_blocks(manifest, row)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6 if rate != SAMPLE_RATE else 0)
    assert len(whole) == row.num_samples_16k


def test_a_member_of_an_archive_is_heard(tmp_path):
    manifest, row = listing(tmp_path / "a.flac", sound(2.0))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a.flac", "a.flac")
    with tarfile.open(tmp_path / "x.tar") as tar:
        member = tar.getmember("a.flac")
    inside = Utterance(**{**vars(row), "path": f"x.tar:{member.offset_data}:{member.size}"})
    for ours, theirs in zip(waveform_blocks(manifest, inside), waveform_blocks(manifest, row), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_recording_that_ends_early_is_named(tmp_path):
    manifest, row = listing(tmp_path / "a.wav", sound(2.0))
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"a\.wav: truncated"):
        list(waveform_blocks(manifest, row))


def test_without_the_package_auto_is_energy_and_silero_names_the_extra(monkeypatch):
    assert chosen_vad("energy") == "energy"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen_vad("auto") == "energy"
    with pytest.raises(ConfigError, match=r"silero needs silero_vad and onnxruntime: `pip install 'speechssl\[vad\]'`"):
        chosen_vad("silero")


@pytest.mark.skipif(not HAS_SILERO, reason="needs silero-vad")
def test_the_package_itself_is_not_imported():
    assert chosen_vad("auto") == "silero"
    before = "silero_vad" in sys.modules
    detect_activity([sound(1.0)], "silero")
    assert ("silero_vad" in sys.modules) == before
