"""MFCC features: speechssl.units.mfcc."""

import pytest
import torch
from torchaudio.compliance import kaldi

from speechssl.data.labels import LabelSource
from speechssl.units import mfcc as module
from speechssl.units.mfcc import MFCC_DIM, MFCC_HOP, MFCC_WINDOW, centred, log_mel, mfcc
from tests.model.tiny import noise


def _oracle_deltas(rows: list[list[float]]) -> list[list[float]]:
    """Fit a line to the five frames around each frame, with the first and last frame repeated at the ends."""
    last = len(rows) - 1
    return [
        [
            sum(k * (rows[min(t + k, last)][i] - rows[max(t - k, 0)][i]) for k in (1, 2)) / 10
            for i in range(len(rows[0]))
        ]
        for t in range(len(rows))
    ]


@pytest.mark.parametrize("num_samples", [400, 559, 560, 719, 720, 16_000, 16_123])
def test_frames_come_every_10_ms_of_25_ms_windows(num_samples: int) -> None:
    found = mfcc(0.1 * noise(num_samples))
    assert found.shape == ((num_samples - 400) // 160 + 1, 39)
    source = LabelSource(clusters=5, hop=MFCC_HOP, window=MFCC_WINDOW, features="mfcc", kmeans="")
    assert found.shape == (source.count(num_samples), MFCC_DIM)


def test_features_are_reproducible_and_finite() -> None:
    waveform = 0.1 * noise(4000)
    torch.manual_seed(0)
    first = mfcc(waveform)
    torch.manual_seed(1)
    assert torch.equal(first, mfcc(waveform))
    assert torch.isfinite(first).all()


def test_silence_gives_finite_features() -> None:
    assert torch.isfinite(mfcc(torch.zeros(4000))).all()


def test_last_dimensions_are_first_and_second_differences() -> None:
    found = mfcc(0.1 * noise(4000))
    static = found[:, :13].tolist()
    first = _oracle_deltas(static)
    torch.testing.assert_close(found[:, 13:26], torch.tensor(first), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[:, 26:], torch.tensor(_oracle_deltas(first)), rtol=1e-3, atol=1e-3)


def test_louder_speech_moves_the_first_coefficient_only() -> None:
    waveform = 0.1 * noise(4000)
    change = (mfcc(4 * waveform) - mfcc(waveform))[:, :13]
    assert change[:, 0].min() > 1
    assert change[:, 1:].abs().max() < 0.02


def test_frames_depend_on_their_own_window() -> None:
    waveform = 0.1 * noise(4000)
    changed = waveform.clone()
    changed[2000:] = 0
    one, other = mfcc(waveform)[:, :13], mfcc(changed)[:, :13]
    assert torch.equal(one[:11], other[:11])  # frame 10 ends at sample 2000
    assert not torch.equal(one[11], other[11])


def test_the_mean_off_leaves_speech_that_is_only_louder_as_it_was() -> None:
    waveform = 0.1 * noise(4000)
    found = centred(mfcc(waveform))
    torch.testing.assert_close(centred(mfcc(4 * waveform)), found, rtol=0, atol=0.05)
    assert (mfcc(4 * waveform) - mfcc(waveform)).abs().max() > 1
    torch.testing.assert_close(found.mean(0), torch.zeros(39), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.diff(dim=0), mfcc(waveform).diff(dim=0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("front_end", [mfcc, log_mel])
@pytest.mark.parametrize("num_samples", [400, 16_000, 16_123])
def test_a_long_waveform_a_part_at_a_time_is_the_whole(front_end, num_samples, monkeypatch) -> None:
    waveform = 0.1 * noise(num_samples)
    whole = front_end(waveform)
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    torch.testing.assert_close(front_end(waveform), whole, rtol=1e-4, atol=1e-4)


def test_mel_energies_are_those_of_kaldi() -> None:
    waveform = 0.1 * noise(4000)
    expected = kaldi.fbank(waveform[None], num_mel_bins=80, sample_frequency=16_000.0, dither=0.0)
    assert torch.equal(log_mel(waveform), expected)
    assert expected.shape == (23, 80)
